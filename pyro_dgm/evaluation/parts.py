"""The ELBO and what it is made of."""

__all__ = ["ELBOParts", "elbo_parts"]

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_dgm.evaluation.batching import Estimate, count_rows, pieces
from pyro_dgm.infer.checks import check_traces
from pyro_dgm.infer.objectives import latent_terms, observation_terms
from pyro_dgm.infer.programs import Program, Traces, check_num_particles, count_plates, evaluation_mode, run

MAX_ROWS = 10_000


class ELBOParts(NamedTuple):
    """The ELBO of every datum and its parts, in nats: elbo = sum of log_likelihood - sum of kl.

    Arguments:
        elbo: (N,), an unbiased estimate of a lower bound on log p(x).
        log_likelihood: E_q log p(x | z) of each observed site by name, (N,). Minus this is the reconstruction error.
        kl: E_q log q(z | x) - log p(z) of each latent by name, (N,).
        num_elements: number of elements of one datum, all observed sites together.
        num_particles: K, over which the expectations are averaged.
    """

    elbo: Tensor
    log_likelihood: dict[str, Tensor]
    kl: dict[str, Tensor]
    num_elements: int
    num_particles: int

    @property
    def bits_per_dim(self) -> Estimate:
        """Minus the ELBO in bits per element: an upper bound on the code length of discrete data."""
        return Estimate.of(-self.elbo / (self.num_elements * math.log(2)))


def elbo_parts(
    model: Program,
    guide: Program,
    *args: Any,
    num_particles: int = 10,
    analytic_kl: bool = False,
    max_rows: int = MAX_ROWS,
    progress: bool = False,
    **kwargs: Any,
) -> ELBOParts:
    """Estimates the ELBO of every datum and its parts: the likelihood of each observed site, the KL of each latent.

    Modules are put in evaluation mode meanwhile; the draws come from torch's generator.

    Arguments:
        model: a Pyro program with observed sites.
        guide: a Pyro program with a site for every latent of the model.
        args: data, (N, *event), and whatever else both programs take; tensors with N rows are cut into pieces.
        num_particles: number K of draws per datum to average over.
        analytic_kl: take closed-form KLs where Pyro knows them, as ``ELBO(analytic_kl=True)`` does.
        max_rows: how many particles times data are in memory at once.
        progress: show a bar.
        kwargs: keyword arguments of both programs.

    Raises:
        ValueError: the data are empty, the programs do not fit together or have latents outside the data plate.
    """
    check_num_particles(num_particles)
    size = max(1, min(count_rows(args), max_rows // num_particles))
    found = []
    nesting = None
    with evaluation_mode(model, guide):
        for _, piece in pieces(args, size, "ELBO", progress):
            nesting = count_plates(model, guide, piece, kwargs) if nesting is None else nesting
            traces = run(model, guide, piece, kwargs, num_particles, nesting)
            check_traces(traces)
            found.append(_parts(traces, analytic_kl))
    return ELBOParts(
        elbo=torch.cat([part.elbo for part in found]),
        log_likelihood={name: torch.cat([p.log_likelihood[name] for p in found]) for name in found[0].log_likelihood},
        kl={name: torch.cat([p.kl[name] for p in found]) for name in found[0].kl},
        num_elements=found[0].num_elements,
        num_particles=num_particles,
    )


def _parts(traces: Traces, analytic_kl: bool) -> ELBOParts:
    latents, observed = latent_terms(traces, analytic_kl), observation_terms(traces)
    outer = [name for name, term in latents.items() if not term.is_local]
    if outer:
        raise ValueError(
            f"the ELBO of one datum needs latents that belong to it; got latents outside the data plate: {outer}. "
            "Condition the model on values of its globals first (poutine.condition)."
        )
    kl = {name: term.kl.mean(dim=0) for name, term in latents.items()}
    log_likelihood = {name: term.kl.mean(dim=0) for name, term in observed.items()}
    num_elements = sum(_num_elements(traces, name) for name in observed)
    elbo = sum(log_likelihood.values(), start=torch.zeros(())) - sum(kl.values(), start=torch.zeros(()))
    return ELBOParts(elbo, log_likelihood, kl, num_elements, traces.num_particles)


def _num_elements(traces: Traces, name: str) -> int:
    value = traces.model.nodes[name]["value"]
    return value.numel() // traces.num_data
