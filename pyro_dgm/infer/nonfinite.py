"""Where NaN and infinity come from in a step that was not taken."""

__all__ = ["has_diverged", "nonfinite_sites"]

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from pyro_dgm.infer.programs import Program, Traces, fork_rng, is_data, run, sample_sites

Batch = tuple[tuple[Any, ...], Mapping[str, Any]]


def nonfinite_sites(model: Program, guide: Program, loss: ELBO, generator_state: Tensor, batch: Batch) -> list[str]:
    """The sites whose values or log-densities are not finite, by program and name.

    Arguments:
        model: a program.
        guide: likewise.
        loss: says how many particles there are.
        generator_state: of torch's generator, before the step.
        batch: the step's arguments, and those by keyword.
    """
    return _nonfinite(_run_again(model, guide, loss, generator_state, batch))


def has_diverged(model: Program, guide: Program, loss: ELBO, generator_state: Tensor, batch: Batch) -> bool:
    """Whether the programs run without validation, on finite data, and come out not finite."""
    try:
        traces = _run_again(model, guide, loss, generator_state, batch)
    except (ValueError, RuntimeError):
        return False
    data = [site["value"] for site in sample_sites(traces.model).values() if is_data(site)]
    return bool(_nonfinite(traces)) and all(bool(torch.isfinite(value).all()) for value in data)


def _run_again(model: Program, guide: Program, loss: ELBO, generator_state: Tensor, batch: Batch) -> Traces:
    """Runs the programs with the random numbers of the step, without validation."""
    with fork_rng(), torch.no_grad(), pyro.validation_enabled(False), poutine.block():
        torch.set_rng_state(generator_state)
        num_particles = loss.num_particles if loss.vectorize_particles else 1
        traces = run(model, guide, *batch, num_particles)
        traces.model.compute_log_prob()
        traces.guide.compute_log_prob()
    return traces


def _nonfinite(traces: Traces) -> list[str]:
    return [
        f"{program}.{name}"
        for program, trace in (("guide", traces.guide), ("model", traces.model))
        for name, site in sample_sites(trace).items()
        if not (torch.isfinite(site["value"]).all() and torch.isfinite(site["log_prob_sum"]))
    ]
