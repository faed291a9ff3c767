"""Importance weights, one per particle and datum."""

__all__ = ["LogWeights", "log_weights", "weigh"]

from typing import Any, NamedTuple

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_dgm.infer.checks import check_traces
from pyro_dgm.infer.implicit import check_explicit, may_be_implicit
from pyro_dgm.infer.programs import (
    Program,
    Traces,
    check_num_particles,
    compute_log_probs,
    global_log_prob,
    is_local,
    local_log_prob,
    run,
    run_in_turn,
    sample_sites,
)


class LogWeights(NamedTuple):
    """Log-probabilities of model and guide for K particles of B data, in nats and unscaled.

    Latents outside the data plate (globals) belong to no datum, so they have their own two fields.

    Arguments:
        log_p: log p(x_b, z_kb), of shape (K, B).
        log_q: log q(z_kb | x_b), of shape (K, B).
        scale: N / B, how many data each row stands for; it multiplies a finished bound, never a weight.
        global_log_p: log-probability of the model's global sites, of shape (K,); zero if there are none.
        global_log_q: log-probability of the guide's global sites, of shape (K,); zero if there are none.
    """

    log_p: Tensor
    log_q: Tensor
    scale: float
    global_log_p: Tensor
    global_log_q: Tensor

    @property
    def local(self) -> Tensor:
        """The log-ratio log p - log q of the local sites, of shape (K, B): what the bounds take."""
        return self.log_p - self.log_q


def log_weights(
    model: Program,
    guide: Program,
    *args: Any,
    num_particles: int = 1,
    vectorize: bool = True,
    max_plate_nesting: int | None = None,
    **kwargs: Any,
) -> LogWeights:
    r"""Draws K particles per datum from the guide and weighs them: :math:`\log p(x, z_k)` and :math:`\log q(z_k|x)`.

    The data are the elements of the plate named ``data``, or of the outermost plate that holds every observation.
    Masks and ``poutine.scale`` act on the weights; the plate's N / B does not and is returned beside them.

    Arguments:
        model: a Pyro program with observed sites.
        guide: a Pyro program with a site for every latent of the model.
        args: positional arguments of both.
        num_particles: number K of particles.
        vectorize: draw the particles side by side, along a plate to the left of all others; otherwise in turn,
            which takes K times the time and a K-th of the memory, and accepts networks that know one batch dimension.
        max_plate_nesting: how many plate dimensions the programs use; found by running them when None.
        kwargs: keyword arguments of both.

    Returns:
        The weights' parts; ``.local`` is their difference, of shape (K, B).

    Raises:
        TypeError: ``num_particles`` is not an integer.
        ValueError: ``num_particles`` is below 1, or the programs do not fit together.
    """
    check_num_particles(num_particles)
    if vectorize:
        runs = [run(model, guide, args, kwargs, num_particles, max_plate_nesting)]
    else:
        runs = run_in_turn(model, guide, args, kwargs, num_particles)
    check_traces(runs[0])
    parts = [weigh(traces) for traces in runs]
    if may_be_implicit(runs[0]):  # last, for it overwrites what flows remember of their last draw
        check_explicit(model, guide, args, kwargs, runs[0])
    return LogWeights(
        log_p=torch.cat([part.log_p for part in parts]),
        log_q=torch.cat([part.log_q for part in parts]),
        scale=parts[0].scale,
        global_log_p=torch.cat([part.global_log_p for part in parts]),
        global_log_q=torch.cat([part.global_log_q for part in parts]),
    )


def weigh(traces: Traces) -> LogWeights:
    """Computes the weights of one run."""
    compute_log_probs(traces.model)
    compute_log_probs(traces.guide)
    log_p, global_log_p = _sum_sites(traces.model, traces)
    log_q, global_log_q = _sum_sites(traces.guide, traces)
    return LogWeights(log_p, log_q, traces.scale, global_log_p, global_log_q)


def _sum_sites(trace: Trace, traces: Traces) -> tuple[Tensor, Tensor]:
    sites = sample_sites(trace).values()
    local = [local_log_prob(s, s["unscaled_log_prob"], traces) for s in sites if is_local(s, traces)]
    outer = [global_log_prob(s, s["unscaled_log_prob"], traces) for s in sites if not is_local(s, traces)]
    like = (local + outer or [torch.zeros(())])[0]
    return (
        sum(local, start=like.new_zeros(traces.num_particles, traces.num_data)),
        sum(outer, start=like.new_zeros(traces.num_particles)),
    )
