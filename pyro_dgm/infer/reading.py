"""Which latents a program has, and in which plates: what a guide made from a model must know of it."""

__all__ = ["DataPlate", "Latents", "exposing", "read_latents", "run_aside"]

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_factor, site_is_subsample

from pyro_dgm.infer.programs import (
    Program,
    Site,
    data_frame_of,
    evaluation_mode,
    fork_rng,
    is_data,
    is_deterministic,
    plates_of,
    sample_sites,
)


class DataPlate(NamedTuple):
    """How a program opens the plate of its data, for another that opens it alike.

    Arguments:
        name: its name.
        dim: its dimension.
        rows: B, in the run that was read.
        full_size: N where it is more than the rows, else None.
        num_drawn: how many of N rows the program draws by itself, else None.
    """

    name: str
    dim: int
    rows: int
    full_size: int | None
    num_drawn: int | None

    @classmethod
    def of(cls, frame: CondIndepStackFrame, trace: Trace) -> "DataPlate":
        """The plate of a frame in a trace with its subsampling sites."""
        full_size = frame.size if frame.full_size is None else frame.full_size
        if full_size == frame.size:
            return cls(frame.name, frame.dim, frame.size, None, None)
        is_drawn = frame.name in trace.nodes and site_is_subsample(trace.nodes[frame.name])
        return cls(frame.name, frame.dim, frame.size, full_size, frame.size if is_drawn else None)

    def open(self, rows: int, data_size: int | None) -> AbstractContextManager[Any]:
        """Opens it for so many rows, of ``data_size`` data if that is given."""
        if self.num_drawn is not None:
            return pyro.plate(self.name, self.full_size, subsample_size=self.num_drawn, dim=self.dim)
        full_size = self.full_size if data_size is None else data_size
        if full_size is None:
            return pyro.plate(self.name, rows, dim=self.dim)
        return pyro.plate(self.name, full_size, subsample=torch.arange(rows), dim=self.dim)


class Latents(NamedTuple):
    """The latents of a model.

    Arguments:
        local: those in the plate of the data, by name, in their order, as they were in a run.
        others: names of the rest.
        plate: of the data; None where no latent stands in it.
    """

    local: dict[str, Site]
    others: list[str]
    plate: DataPlate | None

    def further_plates(self, name: str) -> list[str]:
        """Names of the plates besides the data's around a latent of the data."""
        return [frame.name for frame in plates_of(self.local[name]) if self.plate and frame.name != self.plate.name]


def read_latents(model: Program, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Latents:
    """Runs a model once and says which latents it has; nothing of the run remains.

    Arguments:
        model: a Pyro program with observed sites.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    with poutine.block(), fork_rng(), evaluation_mode(model, model), torch.no_grad():
        trace = poutine.trace(model).get_trace(*args, **kwargs)
    latents = {
        name: site
        for name, site in sample_sites(trace).items()
        if not (is_data(site) or is_deterministic(site) or site_is_subsample(site) or site_is_factor(site))
    }
    frame = data_frame_of(trace)
    local = {name: site for name, site in latents.items() if frame is not None and frame in plates_of(site)}
    others = [name for name in latents if name not in local]
    return Latents(local, others, DataPlate.of(frame, trace) if frame is not None and local else None)


def exposing(model: Program, names: Sequence[str]) -> Program:
    """The model with all sites hidden but those named."""
    program: Program = poutine.block(model, expose=list(names))
    return program


def run_aside(program: Program, model: Program, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Runs a program, seen by no handler, with modules in evaluation mode and torch's generator put back."""
    with poutine.block(), fork_rng(), evaluation_mode(program, model):
        return program(*args, **kwargs)
