"""Programs run forward: a model as a simulator, a guide as an encoder."""

__all__ = ["encode", "free_sites", "is_same_data", "point", "simulate", "with_data"]

from collections.abc import Mapping, Sequence
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites, site_is_factor, site_is_subsample
from torch import Tensor
from torch.distributions import Distribution

from pyro_dgm.infer.programs import Program, Site, is_deterministic, sample_sites, unwrapped


def simulate(
    model: Program,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    given: Mapping[str, Tensor] | None = None,
) -> Trace:
    """Runs a model as a simulator: nothing is observed but the latents given.

    Arguments:
        model: a Pyro program.
        args: its positional arguments.
        kwargs: its keyword arguments.
        given: values of some of its latents, by name.

    Returns:
        The trace; its sites that observe data in the model are drawn.

    Raises:
        ValueError: a given name is no site of the model.
    """
    given = given or {}
    simulator = poutine.condition(poutine.uncondition(model), data=given)
    trace = prune_subsample_sites(poutine.trace(simulator).get_trace(*args, **(kwargs or {})))
    unknown = [name for name in given if name not in trace.nodes]
    if unknown:
        raise ValueError(
            f"given latents must be sites of the model; got {unknown}, the model has {list(sample_sites(trace))}. "
            "Name them as in the model."
        )
    return trace


def with_data(
    trace: Trace, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], list[str]]:
    """A simulation's data in the place of the programs' own: what the guide is to be called with to read them.

    An argument is an observed site's data if the site observes that very tensor, or a reshaped view of all of it.

    Arguments:
        trace: of a simulation.
        args: the programs' positional arguments.
        kwargs: their keyword arguments.

    Returns:
        Positional and keyword arguments with the simulated data, gradients and all, and the names of sites whose data
        were not found.
    """
    new_args, new_kwargs, unplaced = list(args), dict(kwargs), []
    for name, site in sample_sites(trace).items():
        if not site["infer"].get("was_observed") or is_deterministic(site) or site_is_factor(site):
            continue
        observed, value = site["infer"]["obs"], site["value"]
        places = [i for i, arg in enumerate(args) if is_same_data(arg, observed)]
        keys = [key for key, arg in kwargs.items() if is_same_data(arg, observed)]
        for i in places:
            new_args[i] = value.expand(observed.shape).reshape(args[i].shape).to(args[i].dtype)
        for key in keys:
            new_kwargs[key] = value.expand(observed.shape).reshape(kwargs[key].shape).to(kwargs[key].dtype)
        if not (places or keys):
            unplaced.append(name)
    return tuple(new_args), new_kwargs, unplaced


def encode(
    guide: Program, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, sample: bool = False
) -> dict[str, Tensor]:
    """Runs a guide and returns its latents by name: the mean of each given the earlier ones, or one draw.

    Raises:
        ValueError: means are asked for and a latent's distribution has none in closed form.
    """
    handler = poutine.trace(guide) if sample else poutine.trace(_TakeMeans()(guide))
    trace = handler.get_trace(*args, **(kwargs or {}))
    return {name: site["value"] for name, site in sample_sites(prune_subsample_sites(trace)).items()}


def free_sites(trace: Trace, given: Mapping[str, Tensor]) -> dict[str, Site]:
    """The sites a simulation drew itself: neither given, nor deterministic, nor a factor."""
    return {
        name: site
        for name, site in sample_sites(trace).items()
        if name not in given and not is_deterministic(site) and not site_is_factor(site)
    }


def point(distribution: Distribution, name: str) -> Tensor:
    """One value that stands for a distribution: its mean, or for classes the most probable one.

    Raises:
        ValueError: the distribution has no mean, or none in closed form.
    """
    inner = unwrapped(distribution)
    is_class = type(inner).__name__ == "Categorical"
    try:
        value = (inner.mode if is_class else inner.mean).expand(distribution.batch_shape + distribution.event_shape)
    except NotImplementedError:
        value = None
    if value is None or bool(value.isnan().any()):
        raise ValueError(
            f"the mean of site {name!r} must exist and be known in closed form; got a {type(inner).__name__} without. "
            "Pass sample=True to use one draw."
        )
    return value


def is_same_data(argument: Any, observed: Any) -> bool:
    """Whether an argument is what a site observes, or the same memory in another shape."""
    if not isinstance(argument, Tensor) or not isinstance(observed, Tensor):
        return False
    return argument is observed or (
        argument.numel() == observed.numel()
        and argument.data_ptr() == observed.data_ptr()
        and argument.is_contiguous()
        and observed.is_contiguous()
    )


class _TakeMeans(Messenger):
    """Puts the mean of each unobserved site in the place of a draw."""

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        msg["value"] = point(msg["fn"], msg["name"])
        msg["done"] = True
