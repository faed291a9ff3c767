"""Which latents a program has, and in which plates: what a guide made from a model must know of it."""

__all__ = ["DataPlate", "Latents", "exposing", "read_latents", "run_aside"]

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_dgm.infer.data_plate import plate_of_rows
from pyro_dgm.infer.programs import (
    Program,
    Site,
    data_frame_of,
    evaluation_mode,
    fork_rng,
    is_data,
    is_deterministic,
    plate_scale,
    plates_of,
    sample_sites,
)

_BOUNDS = ("lower_bound", "upper_bound")  # in the order in which constraints take them


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
        site = trace.nodes.get(frame.name)
        is_drawn = site is not None and site_is_subsample(site) and site["fn"].subsample_size is not None
        return cls(frame.name, frame.dim, frame.size, full_size, frame.size if is_drawn else None)

    def open(self, rows: int, data_size: int | None) -> AbstractContextManager[Any]:
        """Opens it for so many rows out of ``data_size`` data; where the program draws them, for as many as it does.

        Only rows that are drawn leave a site, which the model is to be given: others are the model's own business.
        """
        full_size = self.full_size if data_size is None else data_size
        if self.num_drawn is not None:
            return pyro.plate(self.name, full_size, subsample_size=self.num_drawn, dim=self.dim)
        return plate_of_rows(self.name, rows if full_size is None else full_size, rows, self.dim)


class Latents(NamedTuple):
    """The latents of a model.

    Arguments:
        local: those in the plate of the data, by name, in their order, as they were in a run.
        supports: their supports, whose bounds are numbers.
        others: names of the rest.
        plate: of the data; None where no latent stands in it.
    """

    local: dict[str, Site]
    supports: dict[str, Constraint]
    others: list[str]
    plate: DataPlate | None

    def further_plates(self, name: str) -> list[str]:
        """Names of the plates besides the data's around a latent of the data."""
        return [frame.name for frame in plates_of(self.local[name]) if self.plate and frame.name != self.plate.name]


def read_latents(model: Program, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Latents:
    """Runs a model twice and says which latents it has; nothing of the runs remains.

    Arguments:
        model: a Pyro program with observed sites.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        ValueError: a latent of the data has bounds that differ from datum to datum or from run to run, or is masked or
            scaled.
    """
    with poutine.block(), fork_rng(), evaluation_mode(model):
        trace, again = (poutine.trace(model).get_trace(*args, **kwargs) for _ in range(2))
    latents = {
        name: site
        for name, site in sample_sites(trace).items()
        if not (is_data(site) or is_deterministic(site) or site_is_subsample(site) or site_is_factor(site))
    }
    frame = _frame_of(trace)
    local = {name: site for name, site in latents.items() if frame is not None and frame in plates_of(site)}
    others = [name for name in latents if name not in local]
    if frame is None or not local:
        return Latents({}, {}, others, None)
    for name, site in local.items():
        is_masked = site["mask"] is not None and site["mask"] is not True
        if is_masked or isinstance(site["scale"], torch.Tensor) or not math.isclose(site["scale"], plate_scale(frame)):
            raise ValueError(
                f"a guide made of a model knows its plates alone; got latent {name!r}, which is masked or scaled. Mask "
                "or scale observations only, or write the guide by hand, with the same mask or scale."
            )
    supports = {
        name: _with_numbers(name, site["fn"].support, again.nodes[name]["fn"].support) for name, site in local.items()
    }
    return Latents(local, supports, others, DataPlate.of(frame, trace))


def _frame_of(trace: Trace) -> CondIndepStackFrame | None:
    """The plate of the data, also where something that stands in no plate is observed as well."""
    found = data_frame_of(trace)
    if found is not None:
        return found
    stacks = [stack for site in sample_sites(trace).values() if is_data(site) and (stack := plates_of(site))]
    return next((frame for frame in (stacks or [[]])[0] if all(frame in stack for stack in stacks)), None)


def _with_numbers(name: str, support: Constraint, again: Constraint) -> Constraint:
    """A support whose bounds, as distributions have them, are tensors of one number; the bounds made numbers."""
    event_dim = 0
    while isinstance(support, constraints.independent) and isinstance(again, constraints.independent):
        event_dim += support.reinterpreted_batch_ndims
        support, again = support.base_constraint, again.base_constraint
    bounds = []
    for bound in _BOUNDS:
        if bound in vars(support):
            values = torch.stack([torch.as_tensor(vars(each)[bound]).double().amax() for each in (support, again)])
            least = torch.as_tensor(vars(support)[bound]).double().amin()
            if values[0] != values[1] or least != values[0]:
                raise ValueError(
                    f"a latent's support must be the same for every datum and draw; got latent {name!r}, whose {bound} "
                    "is not. Sample it on the unit interval, and scale it in the model."
                )
            bounds.append(float(least))
    if bounds:
        support = type(support)(*bounds)
    return constraints.independent(support, event_dim) if event_dim else support


def exposing(model: Program, names: Sequence[str]) -> Program:
    """The model with all sites hidden but those named."""
    program: Program = poutine.block(model, expose=list(names))
    return program


def run_aside(program: Program, model: Program, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Runs a program, seen by no handler, without gradients, in evaluation mode, and puts torch's generator back."""
    with poutine.block(), fork_rng(), evaluation_mode(program, model):
        return program(*args, **kwargs)
