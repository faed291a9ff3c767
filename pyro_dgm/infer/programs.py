"""Running a model against a guide: the one place that knows about traces, plates and particles."""

__all__ = [
    "DATA_PLATE",
    "DrawHandler",
    "Program",
    "SameRows",
    "Site",
    "Traces",
    "batch_of",
    "check_batch",
    "check_num_particles",
    "compute_log_probs",
    "count_plates",
    "data_frame_of",
    "evaluation_mode",
    "fork_rng",
    "global_log_prob",
    "is_data",
    "is_deterministic",
    "is_local",
    "kind_of",
    "local_log_prob",
    "local_score",
    "masked_and_scaled",
    "module_of",
    "parameter_of",
    "parameters_met",
    "particle_plate",
    "per_datum",
    "plate_scale",
    "plates_of",
    "redraw",
    "reduced_to_data",
    "rescore",
    "run",
    "run_against",
    "run_in_turn",
    "sample_sites",
    "unwrapped",
]

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import pyro
import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites, site_is_factor, site_is_subsample
from torch import Tensor, nn

from pyro_dgm.nn.modes import in_evaluation_mode

Program = Callable[..., Any]
Site = Mapping[str, Any]

DATA_PLATE = "data"
_PARTICLES = "num_particles_vectorized"


class Traces(NamedTuple):
    """One run of a guide on the data and of a model against it, log-probabilities not yet computed.

    Arguments:
        model: trace of the model, its latents replayed from the guide.
        guide: trace of the guide.
        num_particles: K, drawn side by side along one extra plate on the left if more than one.
        particle_dim: dimension of that plate, or None.
        data_frame: the plate whose elements are the data, or None where the observations share no plate.
        rows: which rows the subsampling plates of the two programs took, by name.
    """

    model: Trace
    guide: Trace
    num_particles: int
    particle_dim: int | None
    data_frame: CondIndepStackFrame | None
    rows: Mapping[str, Tensor]

    @property
    def num_data(self) -> int:
        """B, the size of the minibatch: 1 where the observations share no plate."""
        return 1 if self.data_frame is None else self.data_frame.size

    @property
    def scale(self) -> float:
        """N / B: how many data each row of the minibatch stands for."""
        return 1.0 if self.data_frame is None else plate_scale(self.data_frame)


class DrawHandler(Protocol):
    """What may stand between a guide and a model: an effect handler around the guide, and a hook after it."""

    def __enter__(self) -> Any:
        """Begins to handle the guide's draws."""

    def __exit__(self, *error: Any) -> None:
        """Leaves the draws alone again."""

    def prepare(self, trace: Trace) -> tuple[Trace, AbstractContextManager[Any]]:
        """Given the guide's trace, returns the one the model is run against, and a handler around the model."""


def run(
    model: Program,
    guide: Program,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    num_particles: int = 1,
    max_plate_nesting: int | None = None,
    draws: DrawHandler | None = None,
) -> Traces:
    """Runs the guide, then the model with the guide's latents, with K particles side by side.

    Arguments:
        model: a Pyro program with observed sites.
        guide: a Pyro program with a site for every latent of the model.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        num_particles: number K of particles.
        max_plate_nesting: how many plate dimensions the programs use; found by running them when None and K > 1.
        draws: handles the guide's draws, and may change what the model is run against.

    Raises:
        ValueError: the two programs do not fit together; the message names the sites.
    """
    particle_dim = None
    if num_particles > 1:
        nesting = count_plates(model, guide, args, kwargs) if max_plate_nesting is None else max_plate_nesting
        particle_dim = -nesting - 1
        model, guide = (particle_plate(program, num_particles, nesting) for program in (model, guide))
    traces = _trace(model, guide, args, kwargs, draws)
    rows = {name: site["value"] for trace in traces for name, site in trace.nodes.items() if _is_rows(site)}
    guide_trace, model_trace = map(prune_subsample_sites, traces)
    return Traces(model_trace, guide_trace, num_particles, particle_dim, data_frame_of(model_trace), rows)


def run_against(
    model: Program,
    guide_trace: Trace,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    traces: Traces,
    handler: AbstractContextManager[Any],
) -> Traces:
    """Runs a model once more, on the same rows, against another trace of its guide."""
    if traces.particle_dim is not None:
        model = particle_plate(model, traces.num_particles, -traces.particle_dim - 1)
    with handler, SameRows(traces.rows):
        trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    return traces._replace(model=prune_subsample_sites(trace), guide=guide_trace)


def run_in_turn(
    model: Program,
    guide: Program,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    num_particles: int,
    draws: DrawHandler | None = None,
) -> list[Traces]:
    """Runs K times with one particle, all on the same data: a plate that subsamples at random does so once."""
    with SameRows():
        return [run(model, guide, args, kwargs, draws=draws) for _ in range(num_particles)]


def rescore(
    guide: Program, args: Sequence[Any], kwargs: Mapping[str, Any], traces: Traces, values: Mapping[str, Tensor]
) -> Trace:
    """Runs a guide again at given values of its latents, for their density there; nothing is drawn."""
    replayed = traces.guide.copy()
    for name, value in values.items():
        replayed.nodes[name] = {**replayed.nodes[name], "value": value}
    return redraw(guide, args, kwargs, traces, poutine.replay(trace=replayed))


def redraw(
    guide: Program, args: Sequence[Any], kwargs: Mapping[str, Any], traces: Traces, handler: AbstractContextManager[Any]
) -> Trace:
    """Runs a guide once more, on the same rows, its draws handled by an effect handler."""
    if traces.particle_dim is not None:
        guide = particle_plate(guide, traces.num_particles, -traces.particle_dim - 1)
    with handler, SameRows(traces.rows):
        trace = poutine.trace(guide).get_trace(*args, **kwargs)
    return prune_subsample_sites(trace)


def particle_plate(program: Program, num_particles: int, max_plate_nesting: int) -> Program:
    """Wraps a program in the plate of its particles, to the left of all its own plates."""
    return pyro.plate(_PARTICLES, num_particles, dim=-max_plate_nesting - 1)(program)


def compute_log_probs(trace: Trace, names: Collection[str] | None = None) -> None:
    """Computes the log-probabilities of a trace's sites, all of them or those named.

    Raises:
        ValueError: a distribution cannot score a point that it did not draw itself.
    """
    implicit = [
        name
        for name, site in sample_sites(trace).items()
        if (names is None or name in names) and kind_of(site) == "Implicit" and unwrapped(site["fn"]).scorer is None
    ]
    if implicit:
        raise ValueError(
            f"a site that is scored needs a density; got {implicit}, which have none, being Implicit. Compare their "
            "draws by a Contrast or an MMD, or give them a scorer."
        )
    try:
        trace.compute_log_prob(lambda name, _: names is None or name in names)
    except (NotImplementedError, KeyError) as err:
        stuck = [
            f"{name!r} ({kind_of(site)})"
            for name, site in sample_sites(trace).items()
            if (names is None or name in names) and "log_prob" not in site
        ]
        raise ValueError(
            f"this objective scores its programs at points that they did not draw; got {', '.join(stuck[:1])}, which "
            "cannot. Use a distribution with an inverse, or ELBO with gradient='reparam'."
        ) from err


def sample_sites(trace: Trace) -> dict[str, Site]:
    """The sample sites of a trace by name, in the order they were drawn."""
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def local_log_prob(site: Site, log_prob: Tensor, traces: Traces) -> Tensor:
    """Sums one site's log-probability over all but particles and data.

    Masks and the program's own scales apply; the scale N / B of the data plate does not, since it belongs outside
    of any bound (Pyro's RenyiELBO has it inside).

    Arguments:
        site: a site inside the data plate.
        log_prob: its unscaled log-probability, or KL, of the shape of the site's batch.
        traces: the run the site belongs to.

    Returns:
        A tensor of shape (K, B).
    """
    log_prob = masked_and_scaled(log_prob, site, traces.scale)
    return reduced_to_data(log_prob, traces, torch.sum)


def local_score(site: Site, log_prob: Tensor, traces: Traces) -> Tensor:
    """Sums the log-density that a latent was drawn from, (K, B), neither masked nor scaled.

    A program's mask or scale, such as an annealing's, changes what the bound counts, and not how the latent was drawn.
    """
    return local_log_prob({**site, "scale": traces.scale, "mask": None}, log_prob, traces)


def global_log_prob(site: Site, log_prob: Tensor, traces: Traces) -> Tensor:
    """Sums one site's log-probability, plate scales included, over all but particles; of shape (K,)."""
    return _sum_to(masked_and_scaled(log_prob, site, 1.0), [], traces).reshape(traces.num_particles)


def per_datum(site: Site, traces: Traces) -> Tensor:
    """A local site's value, one row per particle and datum, everything else flattened: (K, B, units)."""
    event_dim, frame = site["fn"].event_dim, traces.data_frame
    value = torch.as_tensor(site["value"])
    dims = [None if traces.particle_dim is None else traces.particle_dim, None if frame is None else frame.dim]
    width = max([value.dim() - event_dim, *(-dim for dim in dims if dim is not None)])
    value = value.reshape((1,) * (width + event_dim - value.dim()) + tuple(value.shape))
    batch = list(value.shape)
    places = [None if dim is None else dim - event_dim for dim in dims]
    for place, size in zip(places, (traces.num_particles, traces.num_data), strict=True):
        if place is not None:
            batch[place] = size
    value = value.expand(batch)
    kept = [value.dim() + place for place in places if place is not None]
    value = value.movedim(kept, list(range(len(kept))))
    return value.reshape(traces.num_particles, traces.num_data, -1)


def plates_of(site: Site) -> list[CondIndepStackFrame]:
    """The vectorised plates around a site, outermost first, without the particles'."""
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.name != _PARTICLES]


def is_local(site: Site, traces: Traces) -> bool:
    """Whether a site has one value per datum."""
    return traces.data_frame is None or traces.data_frame in site["cond_indep_stack"]


def is_data(site: Site) -> bool:
    """Whether a site observes data, or would if nothing were simulated; a factor or ``pyro.deterministic`` does not."""
    return (
        bool(site["is_observed"] or site["infer"].get("was_observed"))
        and not is_deterministic(site)
        and not site_is_factor(site)
    )


def is_deterministic(site: Site) -> bool:
    """Whether a site is ``pyro.deterministic``: it records a value and has no density."""
    return bool(site["infer"].get("_deterministic"))


def kind_of(site: Site) -> str:
    """The name of a site's distribution, under whatever Pyro wraps around it."""
    return type(unwrapped(site["fn"])).__name__


def unwrapped(distribution: Any) -> Any:
    """The distribution under whatever Pyro wraps around it."""
    while type(distribution).__name__ in {"Independent", "MaskedDistribution", "ExpandedDistribution"}:
        distribution = distribution.base_dist
    return distribution


def parameter_of(site: Site) -> Tensor:
    """The leaf that an optimiser trains, of a param site."""
    return getattr(site["value"], "unconstrained", lambda: site["value"])()


@contextmanager
def parameters_met() -> Iterator[dict[str, Tensor]]:
    """Collects by name the leaves of all parameters that programs run inside announce; filled when it is left."""
    met: dict[str, Tensor] = {}
    with poutine.trace(param_only=True) as capture:
        yield met
    met.update({name: parameter_of(site) for name, site in capture.trace.nodes.items() if site["type"] == "param"})


def plate_scale(frame: CondIndepStackFrame) -> float:
    """N / B of a plate."""
    full_size = frame.size if frame.full_size is None else frame.full_size
    return full_size / frame.size


def count_plates(model: Program, guide: Program, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Finds how many plate dimensions two programs use by running them once.

    The run leaves no trace: torch's generator is put back, and the modules that the programs are, or are methods of,
    are in evaluation mode meanwhile, so that no batch norm moves.

    Raises:
        ValueError: a batch dimension belongs to no plate.
    """
    with poutine.block(), fork_rng(), evaluation_mode(model, guide):
        traces = map(prune_subsample_sites, _trace(model, guide, args, kwargs))
        sites = [item for trace in traces for item in sample_sites(trace).items()]
    for name, site in sites:
        check_batch(name, site)  # with particles beside them, data in no plate might be taken for those
    return max((-frame.dim for _, site in sites for frame in plates_of(site)), default=0)


def check_batch(name: str, site: Site, particle_dim: int | None = None) -> None:
    """Raises a ``ValueError`` for a batch dimension in no plate: it would be summed as if it were one datum's."""
    dims = {particle_dim, *(frame.dim for frame in plates_of(site))}
    batches = [site["fn"].batch_shape, *([batch_of(site)] if is_data(site) else [])]
    loose = [batch for batch in batches if any(batch[d] != 1 and d not in dims for d in range(-len(batch), 0))]
    if loose and not is_deterministic(site):
        raise ValueError(
            f"every batch dimension must belong to a plate; got site {name!r} of batch shape {tuple(loose[0])} in the "
            f"plates {[frame.name for frame in plates_of(site)]}. Make the rest part of the event with .to_event(n), "
            "or open a pyro.plate for it."
        )


def batch_of(site: Site) -> torch.Size:
    """The shape of an observation less its event."""
    value = torch.as_tensor(site["value"])
    return value.shape[: max(0, value.dim() - site["fn"].event_dim)]


def module_of(program: Program) -> nn.Module | None:
    """The module a program is, or is a method of, under effect handlers and ``functools.partial``."""
    while isinstance(program, functools.partial):
        handled = len(program.args) > 1 and isinstance(program.args[0], Messenger)
        program = program.args[1] if handled else program.func
    owner = getattr(program, "__self__", program)
    return owner if isinstance(owner, nn.Module) else None


def fork_rng() -> AbstractContextManager[None]:
    """Puts torch's generators back at the end: the processor's, and the one of the CUDA device in use."""
    return torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else [])


@contextmanager
def evaluation_mode(*programs: Program) -> Iterator[None]:
    """Runs programs without gradients and with their modules in evaluation mode, and puts the modes back."""
    with in_evaluation_mode(module for module in map(module_of, programs) if module is not None), torch.no_grad():
        yield


def check_num_particles(num_particles: int) -> int:
    """Returns the number of particles if it is a positive integer."""
    if isinstance(num_particles, bool) or not isinstance(num_particles, int):
        raise TypeError(f"num_particles must be an integer; got {num_particles!r}. Use 1 for a single sample.")
    if num_particles < 1:
        raise ValueError(f"num_particles must be at least 1; got {num_particles}. Use 1 for a single sample.")
    return num_particles


class SameRows(Messenger):
    """Makes each plate draw its random subsample once, however often the programs are run."""

    def __init__(self, rows: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self._rows: dict[str, Tensor] = dict(rows or {})

    def _pyro_sample(self, msg: Message) -> None:
        if site_is_subsample(msg) and msg["value"] is None:
            msg["value"] = self._rows.get(msg["name"])

    def _pyro_post_sample(self, msg: Message) -> None:
        if site_is_subsample(msg):
            self._rows[msg["name"]] = msg["value"]


def _trace(
    model: Program,
    guide: Program,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    draws: DrawHandler | None = None,
) -> tuple[Trace, Trace]:
    """Traces the guide, then the model with the guide's latents and subsamples."""
    with nullcontext() if draws is None else draws:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    replayed, handler = (guide_trace, nullcontext()) if draws is None else draws.prepare(guide_trace)
    with handler:
        return guide_trace, poutine.trace(poutine.replay(model, trace=replayed)).get_trace(*args, **kwargs)


def _is_rows(site: Site) -> bool:
    return bool(site["type"] == "sample" and site_is_subsample(site))


def data_frame_of(model_trace: Trace) -> CondIndepStackFrame | None:
    """The plate named ``data`` where there is one, else the outermost one around every observed site.

    A model that observes nothing may have factors instead.
    """
    sites = sample_sites(model_trace).values()
    evidence = [site for site in sites if is_data(site)] or [site for site in sites if site_is_factor(site)]
    stacks = [plates_of(site) for site in evidence]
    named = [frame for stack in stacks for frame in stack if frame.name == DATA_PLATE]
    common = [frame for frame in (stacks or [[]])[0] if all(frame in stack for stack in stacks)]
    return next(iter(named or common), None)


def masked_and_scaled(log_prob: Tensor, site: Site, divisor: float = 1.0) -> Tensor:
    """A site's log-probability as the program counts it: zero where it is masked, times its scale over a divisor."""
    scale = site["scale"]
    if isinstance(scale, Tensor) or not math.isclose(scale, divisor, rel_tol=1e-9):
        log_prob = log_prob * (scale / divisor)
    mask = site["mask"]
    if mask is None or mask is True:
        return log_prob
    if mask is False:
        return torch.zeros_like(log_prob)
    return torch.where(mask, log_prob, log_prob.new_zeros(()))


def reduced_to_data(value: Tensor, traces: Traces, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduces a tensor of a local site's batch shape over all but particles and data: (K, B)."""
    kept = [] if traces.data_frame is None else [traces.data_frame.dim]
    return _sum_to(value, kept, traces, reduce).reshape(traces.num_particles, traces.num_data)


def _sum_to(log_prob: Tensor, kept: Sequence[int], traces: Traces, reduce: Callable[..., Tensor] = torch.sum) -> Tensor:
    """Sums over every dimension but the particles' and those kept, which are all brought into being."""
    sizes = {dim: traces.num_data for dim in kept}
    if traces.particle_dim is not None:
        sizes[traces.particle_dim] = traces.num_particles
    width = max([log_prob.dim(), *(-dim for dim in sizes)])
    log_prob = log_prob.reshape((1,) * (width - log_prob.dim()) + tuple(log_prob.shape))
    shape = [sizes.get(dim, log_prob.shape[dim]) for dim in range(-width, 0)]
    summed = [dim for dim in range(-width, 0) if dim not in sizes]
    log_prob = log_prob.expand(shape)
    return reduce(log_prob, summed) if summed else log_prob
