"""Latents whose values can be listed: exact sums in the place of draws."""

__all__ = ["find_supports", "listed_value"]

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_dgm.infer.estimators import own_estimator
from pyro_dgm.infer.programs import (
    Program,
    Site,
    evaluation_mode,
    fork_rng,
    kind_of,
    plates_of,
    sample_sites,
    unwrapped,
)

MAX_VALUES = 4096


def find_supports(guide: Program, args: Sequence[Any], kwargs: Mapping[str, Any], default: str) -> dict[str, Tensor]:
    """Lists the values of every latent whose estimator is ``"enumerate"``, by running the guide once, without a trace.

    Arguments:
        guide: the guide.
        args: its positional arguments.
        kwargs: its keyword arguments.
        default: the estimator of latents that name none.

    Returns:
        For each such latent its values, (S, *event).

    Raises:
        ValueError: a latent's values cannot be listed, or there are too many of them.
    """
    with poutine.block(), fork_rng(), evaluation_mode(guide):
        trace = prune_subsample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
    sites = {name: site for name, site in sample_sites(trace).items() if not site["is_observed"]}
    listed = {
        name: _values(name, site)
        for name, site in sites.items()
        if (own_estimator(name, site) or default) == "enumerate" and not _is_continuous(site, name)
    }
    total = math.prod(len(values) for values in listed.values())
    if total > MAX_VALUES:
        raise ValueError(
            f"gradient='enumerate' sums over at most {MAX_VALUES} joint values of all latents; got {total}. Use 'loo', "
            "'nvil' or 'rebar'."
        )
    return listed


def listed_value(name: str, supports: Mapping[str, Tensor], site: Site, particle_dim: int | None) -> Tensor:
    """The values of one latent for all joint values of all listed latents, along the particles' dimension.

    The last of the latents varies fastest, and all of them faster than the particles themselves.
    """
    fn = site["fn"]
    _check_support(name, supports[name], site)
    sizes = [len(values) for values in supports.values()]
    position = list(supports).index(name)
    within = math.prod(sizes[position + 1 :])
    batch, event = tuple(fn.batch_shape), tuple(fn.event_shape)
    count = 1 if particle_dim is None else batch[particle_dim]
    index = torch.arange(count, device=supports[name].device) // within % sizes[position]
    values = supports[name][index]  # (particles, *event)
    inner = () if particle_dim is None else (count, *((1,) * (-particle_dim - 1)))
    return values.reshape(inner + event).expand(batch + event)


def _check_support(name: str, values: Tensor, site: Site) -> None:
    own, event = unwrapped(site["fn"]).enumerate_support(expand=False), tuple(site["fn"].event_shape)
    units = math.prod(event[: len(event) - unwrapped(site["fn"]).event_dim])
    if len(own) ** units != len(values) or event != tuple(values.shape[1:]):
        raise ValueError(
            f"enumerated latents must have the same values at every step; got {name!r} with {len(own)} values for each "
            f"of {units} units, where there were {len(values)} in all. Make a new objective for the changed guide."
        )


def _values(name: str, site: Site) -> Tensor:
    inner = unwrapped(site["fn"])
    try:
        own = inner.enumerate_support(expand=False)
    except NotImplementedError as err:
        raise _refusal(name, f"a {kind_of(site)}, whose values cannot be listed") from err
    if len(plates_of(site)) > 1:
        raise _refusal(name, f"one in the plates {[frame.name for frame in plates_of(site)]}")
    own_event = inner.event_dim
    own = own.reshape(len(own), *own.shape[own.dim() - own_event :])
    event = tuple(site["fn"].event_shape)
    units = event[: len(event) - own_event]
    if len(own) ** math.prod(units) > MAX_VALUES:
        raise _refusal(name, f"{len(own)} ** {math.prod(units)} values, where {MAX_VALUES} are the most")
    rows = [torch.stack(row) for row in itertools.product(own, repeat=math.prod(units))]
    return torch.stack(rows).reshape(-1, *event)


def _is_continuous(site: Site, name: str) -> bool:
    """Whether a latent that takes part by default has a path instead; one that asks for a sum itself may not."""
    return bool(site["fn"].has_rsample) and own_estimator(name, site) is None


def _refusal(name: str, got: str) -> ValueError:
    return ValueError(
        f"gradient='enumerate' needs a latent of the data plate with few values; got {name!r}, {got}. Use 'loo', "
        "'nvil' or 'rebar'."
    )
