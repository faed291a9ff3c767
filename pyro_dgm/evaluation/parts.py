"""The ELBO and what it is made of."""

__all__ = ["ELBOParts", "elbo_parts"]

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_dgm.evaluation.batching import MAX_ROWS, Estimate, check_one_row_per_datum, pieces
from pyro_dgm.infer.checks import check_traces
from pyro_dgm.infer.programs import (
    Program,
    Traces,
    check_num_particles,
    count_plates,
    evaluation_mode,
    is_deterministic,
    run,
    sample_sites,
)
from pyro_dgm.infer.terms import latent_terms, observation_terms


class ELBOParts(NamedTuple):
    """The ELBO of every datum and its parts, in nats: elbo = sum of log_likelihood - sum of kl.

    Arguments:
        elbo: (N,), an unbiased estimate of a lower bound on log p(x).
        log_likelihood: E_q log p(x | z) of each observed site by name, (N,). Minus this is the reconstruction error.
        kl: E_q log q(z | x) - log p(z) of each latent by name, (N,).
        num_elements: number of elements of one datum, all observed sites together, masked ones included.
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
        max_rows: how many particles times data are in memory at once, but at least the particles of one datum.
        progress: show a bar.
        kwargs: keyword arguments of both programs, cut like ``args``. Those named as this function's own arguments are
            not passed on: bind the programs' own with ``functools.partial``.

    Raises:
        TypeError: ``num_particles`` is not an integer.
        ValueError: the data are empty, the programs do not fit together, or have sites outside the data plate.
    """
    check_num_particles(num_particles)
    cut = pieces(args, kwargs, num_particles=num_particles, max_rows=max_rows, label="ELBO", progress=progress)
    found: list[ELBOParts] = []
    nesting = None
    with evaluation_mode(model, guide):
        for piece in cut:
            nesting = count_plates(model, guide, piece.args, piece.kwargs) if nesting is None else nesting
            traces = run(model, guide, piece.args, piece.kwargs, num_particles, nesting)
            check_traces(traces)
            check_one_row_per_datum(traces, piece.num_rows)
            found.append(_parts(traces, analytic_kl))
    return ELBOParts(
        elbo=torch.cat([part.elbo for part in found]),
        log_likelihood={name: torch.cat([p.log_likelihood[name] for p in found]) for name in found[0].log_likelihood},
        kl={name: torch.cat([p.kl[name] for p in found]) for name in found[0].kl},
        num_elements=found[0].num_elements,
        num_particles=num_particles,
    )


def _parts(traces: Traces, analytic_kl: bool) -> ELBOParts:
    sites = sample_sites(traces.guide) | sample_sites(traces.model)
    latents, observed = latent_terms(traces, analytic_kl), observation_terms(traces)
    kl, log_likelihood = (
        {name: term.value.mean(dim=0) for name, term in terms.items() if not is_deterministic(sites[name])}
        for terms in (latents, observed)
    )
    num_elements = sum(sites[name]["value"].numel() for name in log_likelihood) // traces.num_data
    elbo = torch.stack([*log_likelihood.values(), *(-term for term in kl.values())]).sum(dim=0)
    return ELBOParts(elbo, log_likelihood, kl, num_elements, traces.num_particles)
