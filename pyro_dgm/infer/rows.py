"""What a source gives: the values of sites, one row per datum."""

__all__ = ["read", "stands_for"]

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyro_dgm.infer.checks import check_paths
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.programs import Site, is_deterministic, kind_of, plate_scale, sample_sites, unwrapped
from pyro_dgm.infer.sources import Source


def read(draws: Draws, source: Source, names: Sequence[str]) -> tuple[Tensor, ...]:
    """The values of sites, or of the programs' arguments, as drawn by a source.

    Arguments:
        draws: of the step; what has been drawn for another term is used again.
        source: where from.
        names: of the sites.

    Returns:
        A tensor for each name, (B, *event), B being the size of the minibatch; of latents of no datum every row is
        the same. Programs without a plate around the data have one row.

    Raises:
        ValueError: neither the source nor the data nor the programs' arguments have such a name, or the value has
            another number of rows.
    """
    trace = _trace_of(draws, source)
    frame = draws.frame()
    values = {name: _value(name, draws, source, trace, frame) for name in names}
    for name in source.shuffled_sites:
        site = {} if trace is None else sample_sites(trace).get(name, {})
        is_one = frame is None or frame.size < 2 or (site and frame not in site["cond_indep_stack"])
        if name in values and is_one:
            raise ValueError(
                f"rows are shuffled of sites with one value per datum; got {name!r}, of which every row is the same. "
                "Sample it inside the data plate, and use batches of two rows at least."
            )
    return tuple(_shuffled(values, source).values())


def stands_for(draws: Draws) -> float:
    """N, the number of data that the minibatch stands for; 1 where the observations share no plate.

    Raises:
        ValueError: model and guide disagree about it.
    """
    frame = draws.frame()
    other = draws.guide_frame()
    if frame is not None and other is not None and plate_scale(frame) != plate_scale(other):
        sizes = [own.size * plate_scale(own) for own in (frame, other)]
        raise ValueError(
            f"plate {frame.name!r} must stand for as many data in model and guide; got {sizes[0]:g} in the model and "
            f"{sizes[1]:g} in the guide. Pass the same data_size to both."
        )
    return 1.0 if frame is None else frame.size * plate_scale(frame)


def _trace_of(draws: Draws, source: Source) -> Trace | None:
    if source.program == "guide":
        return draws.encoded()
    if source.program == "model":
        read_from = draws.observed if source.is_observed else draws.simulated
        return read_from(source.given_sites, source.is_cut)
    return None


def _value(name: str, draws: Draws, source: Source, trace: Trace | None, frame: CondIndepStackFrame | None) -> Tensor:
    sites = {} if trace is None else sample_sites(trace)
    site = sites.get(name)
    if site is not None:
        if source.program == "guide":
            check_paths(sites, [name], "a contrast")
        return _rows(name, site, _redrawn(name, site) if name in source.redrawn_sites else site["value"], frame)
    observed = draws.data().get(name)
    if observed is not None:
        return _rows(name, observed, observed["value"], frame)
    arguments = _arguments(draws)
    if not isinstance(arguments.get(name), Tensor):
        raise ValueError(
            f"a site must be one of {source!r}, observed data, or a tensor that the programs are given; got {name!r}, "
            f"and there are {sorted({*sites, *draws.data(), *arguments})}. Name it as there."
        )
    return _argument_rows(name, arguments[name], frame)


def _redrawn(name: str, site: Site) -> Tensor:
    own = unwrapped(site["fn"])
    if kind_of(site) != "Implicit" or own.scorer is None:
        raise ValueError(
            f"a site is redrawn from its scorer; got {name!r}, a {kind_of(site)} that has none. Sample it from "
            "Implicit(value, event_dim, scorer)."
        )
    drawn = own.scorer.rsample() if own.scorer.has_rsample else own.scorer.sample()
    return torch.as_tensor(drawn)


def _rows(name: str, site: Site, value: Any, frame: CondIndepStackFrame | None) -> Tensor:
    """A site's value with its rows first; one of no datum is the same for all of them."""
    value = torch.as_tensor(value)
    if frame is None:
        return value.unsqueeze(0)
    if frame not in site["cond_indep_stack"]:
        return value.expand(frame.size, *value.shape)
    event_dim = site["fn"].event_dim
    if is_deterministic(site):  # it takes all dimensions for an event's, the plate's too, unless it is told
        event_dim = min(event_dim, value.dim() + frame.dim)
    place = value.dim() - event_dim + frame.dim
    value = value.expand(frame.size, *value.shape) if place < 0 else value.movedim(place, 0)
    if value.shape[0] == 1:
        value = value.expand(frame.size, *value.shape[1:])
    return _checked(name, value, frame)


def _argument_rows(name: str, value: Tensor, frame: CondIndepStackFrame | None) -> Tensor:
    return value.unsqueeze(0) if frame is None else _checked(name, value, frame)


def _checked(name: str, value: Tensor, frame: CondIndepStackFrame) -> Tensor:
    if value.dim() == 0 or value.shape[0] != frame.size:
        raise ValueError(
            f"a contrast compares {frame.size} rows, as many as plate {frame.name!r} has; got {name!r} of shape "
            f"{tuple(value.shape)}. Give every datum its own row."
        )
    return value


def _arguments(draws: Draws) -> dict[str, Any]:
    """What the model is called with, by name."""
    args, kwargs = tuple(draws.args), dict(draws.kwargs)
    program: Any = draws.model
    while isinstance(program, functools.partial):
        if len(program.args) > 1 and isinstance(program.args[0], Messenger):  # a handler around it
            program = program.args[1]
        else:
            program, args, kwargs = program.func, (*program.args, *args), {**program.keywords, **kwargs}
    program = program.forward if isinstance(program, nn.Module) else program  # how it is called does not tell names
    try:
        signature = inspect.signature(program)
        bound = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # of a program that hides its signature
        return kwargs
    rest = [name for name, own in signature.parameters.items() if own.kind is inspect.Parameter.VAR_KEYWORD]
    return {**bound, **{key: value for name in rest for key, value in bound.get(name, {}).items()}}


def _shuffled(values: dict[str, Tensor], source: Source) -> dict[str, Tensor]:
    if not source.shuffled_sites:
        return values
    missing = [name for name in source.shuffled_sites if name not in values]
    if missing:
        raise ValueError(
            f"what is shuffled must be compared; got {missing} in {source!r} among {list(values)}. Add it to the sites."
        )
    named = source.shuffled_sites
    first = values[named[0]]
    order = torch.randperm(len(first), device=first.device)
    return {
        name: value if name not in named else _by_feature(value) if source.is_factorized else value[order]
        for name, value in values.items()
    }


def _by_feature(value: Tensor) -> Tensor:
    flat = value.flatten(1) if value.dim() > 1 else value.unsqueeze(1)
    orders = torch.rand(flat.shape, device=flat.device).argsort(0)
    return flat.gather(0, orders).view_as(value)
