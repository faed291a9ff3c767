"""Guides whose density is not known: noise pushed through a network, under the disguise of a point mass."""

__all__ = ["check_explicit", "may_be_implicit"]

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from pyro_dgm.infer.programs import (
    Program,
    Site,
    Traces,
    evaluation_mode,
    fork_rng,
    is_deterministic,
    kind_of,
    module_of,
    parameters_met,
    sample_sites,
)

SMALL = 64  # elements up to which the whole Jacobian is computed
TOLERANCE = 1e-2


class _Mass(NamedTuple):
    """A point mass of the guide: its place, its log-density, and the map from coordinates without constraints."""

    value: Tensor
    density: Tensor
    transform: Transform

    @property
    def coordinates(self) -> Tensor:
        """The value without the constraints of its support: a point of a simplex loses one element."""
        return self.transform.inv(self.value)

    @property
    def stretch(self) -> Tensor:
        """The log-determinant of the map from coordinates to value, a scalar."""
        return self.transform.log_abs_det_jacobian(self.coordinates, self.value).sum()

    @property
    def size(self) -> int:
        """Degrees of freedom."""
        return math.prod(self.transform.inverse_shape(self.value.shape))


class _Group(NamedTuple):
    """Auxiliary draws, and the point masses that depend on them and on no others."""

    noise: dict[str, Tensor]
    masses: dict[str, _Mass]


def may_be_implicit(traces: Traces) -> bool:
    """Whether a guide draws auxiliary variables and has point masses: a cheap look before ``check_explicit``."""
    return bool(_auxiliary(traces.guide, traces.model)) and bool(_masses(traces.guide, traces.model))


def check_explicit(
    model: Program, guide: Program, args: Sequence[Any], kwargs: Mapping[str, Any], traces: Traces
) -> None:
    r"""Raises a ``ValueError`` when a guide's point masses hide a density that is not accounted for.

    A latent :math:`z = f(\epsilon)` of auxiliary noise, written as ``Delta(f(noise))``, has the density
    :math:`q(\epsilon) / |\det \partial f / \partial \epsilon|`. The guide knows it only if f is a bijection and the
    Delta's ``log_density`` is minus the logarithm of that determinant, as in AutoGuides; otherwise every bound is
    wrong, silently. The programs are run once more, without a trace, and the determinant is computed by autograd, along
    with its derivatives, so that a scale that happens to be 1 now is noticed. With more than 64 elements only their
    number is compared and, where ``log_density`` is constant, whether f keeps lengths. A point mass that depends on no
    auxiliary noise (AutoDelta) is left alone, and so is one that depends on other point masses alone.

    Arguments:
        model: a Pyro program.
        guide: its guide.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        traces: a run of the two, in which ``may_be_implicit``.
    """
    with poutine.block(), fork_rng(), evaluation_mode(model, guide), torch.enable_grad(), parameters_met() as met:
        with _Leaves(_auxiliary(traces.guide, traces.model)):
            guide_trace = prune_subsample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
        model_trace = prune_subsample_sites(
            poutine.trace(poutine.replay(model, guide_trace)).get_trace(*args, **kwargs)
        )
    module = module_of(guide)
    own = [] if module is None else list(module.parameters())
    parameters = list({id(leaf): leaf for leaf in [*own, *met.values()] if leaf.requires_grad}.values())
    with torch.enable_grad():
        for group in _groups(guide_trace, model_trace):
            if not any(_is_explicit(group, part, parameters) for part in _square_parts(group)):
                raise ValueError(
                    f"a latent must have a density that is known; got {sorted(group.masses)}, a Delta at a function of "
                    f"the auxiliary noise {sorted(group.noise)} whose log_density is not minus log |det| of that "
                    "function's Jacobian. Sample it from a distribution with a density, such as a "
                    "TransformedDistribution, or train the guide by an adversarial objective."
                )


@final
class _Leaves(Messenger):
    """Makes the auxiliary draws leaves of autograd's graph, and cuts it at all others, which have densities."""

    def __init__(self, auxiliary: Collection[str]) -> None:
        super().__init__()
        self._auxiliary = auxiliary

    def _pyro_post_sample(self, msg: Message) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or not torch.is_floating_point(torch.as_tensor(msg["value"])):
            return
        if msg["name"] in self._auxiliary:
            msg["value"] = msg["value"].detach().clone().requires_grad_()
        elif kind_of(msg) != "Delta":
            msg["value"] = msg["value"].detach()


def _auxiliary(guide: Trace, model: Trace) -> dict[str, Site]:
    """Sites of the guide alone that are drawn from a density."""
    return {
        name: site
        for name, site in sample_sites(guide).items()
        if site["infer"].get("is_auxiliary") and name not in model.nodes and kind_of(site) != "Delta"
    }


def _masses(guide: Trace, model: Trace) -> dict[str, Site]:
    """Latents of the model that the guide gives a point mass."""
    return {
        name: site
        for name, site in sample_sites(guide).items()
        if name in model.nodes and kind_of(site) == "Delta" and not is_deterministic(site)
    }


def _groups(guide: Trace, model: Trace) -> list[_Group]:
    """Which point masses hang together by common noise."""
    noise = {name: site["value"] for name, site in _auxiliary(guide, model).items() if site["value"].requires_grad}
    groups: list[_Group] = []
    for name, site in _masses(guide, model).items():
        value = site["value"]
        slopes = (
            torch.autograd.grad(value.sum(), list(noise.values()), retain_graph=True, allow_unused=True)
            if noise and value.requires_grad
            else ()
        )
        own = {key: leaf for (key, leaf), slope in zip(noise.items(), slopes, strict=False) if slope is not None}
        if not own:
            continue
        mass = _Mass(value, site["fn"].log_prob(value).sum(), biject_to(model.nodes[name]["fn"].support))
        merged = _Group(own, {name: mass})
        for other in [group for group in groups if own.keys() & group.noise.keys()]:
            merged = _Group({**other.noise, **merged.noise}, {**other.masses, **merged.masses})
            groups.remove(other)
        groups.append(merged)
    return groups


def _square_parts(group: _Group) -> Iterator[list[_Mass]]:
    """Point masses with as many degrees of freedom as the noise; the rest may be functions of these."""
    size = sum(leaf.numel() for leaf in group.noise.values())
    masses = list(group.masses.values())
    for number in range(len(masses), 0, -1):
        for part in itertools.combinations(masses, number):
            if sum(mass.size for mass in part) == size:
                yield list(part)


def _is_explicit(group: _Group, part: Sequence[_Mass], parameters: Sequence[Tensor]) -> bool:
    noise = list(group.noise.values())
    flat = torch.cat([mass.coordinates.flatten() for mass in part])
    stretch = sum((mass.stretch for mass in part), start=flat.new_zeros(()))
    density = sum((mass.density for mass in part), start=flat.new_zeros(()))
    if len(flat) > SMALL:
        return density.requires_grad or (not stretch.requires_grad and _keeps_lengths(flat, noise, parameters))
    rows = [torch.cat([slope.flatten() for slope in _slopes(element, noise)]) for element in flat]
    stretch = stretch + torch.linalg.slogdet(torch.stack(rows))[1]
    return _agree(-stretch, density, [*noise, *parameters])


def _keeps_lengths(flat: Tensor, noise: Sequence[Tensor], parameters: Sequence[Tensor]) -> bool:
    """Whether the Jacobian keeps the lengths of a few vectors, whatever the parameters: J v by two backward passes."""
    dual = torch.zeros_like(flat, requires_grad=True)
    slopes = torch.cat([slope.flatten() for slope in _slopes(flat, noise, dual)])
    vectors = torch.eye(len(slopes))[[0, -1]].to(slopes), torch.arange(len(slopes)).to(slopes).cos().unsqueeze(0)
    for vector in torch.cat(vectors):
        (pushed,) = _slopes((slopes * vector).sum(), [dual])
        if not _agree(pushed.square().sum(), vector.square().sum(), [*noise, *parameters]):
            return False
    return True


def _agree(first: Tensor, second: Tensor, leaves: Sequence[Tensor]) -> bool:
    """Whether two numbers are the same function of the leaves, as far as values and first derivatives tell."""
    pairs = [(first, second), *zip(_slopes(first, leaves), _slopes(second, leaves), strict=True)]
    return all(torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE) for one, other in pairs)


def _slopes(value: Tensor, leaves: Sequence[Tensor], weight: Tensor | None = None) -> Sequence[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(
        value, leaves, weight, retain_graph=True, create_graph=True, allow_unused=True, materialize_grads=True
    )
