"""The draws of one step: each program run as seldom as can be, for all terms of an objective together."""

__all__ = ["Completed", "Draws", "PlainSampler", "Simulated"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_dgm.infer.annealing import KLAnnealing
from pyro_dgm.infer.baselines import Baseline
from pyro_dgm.infer.checks import check_gradients, check_traces
from pyro_dgm.infer.enumeration import find_supports
from pyro_dgm.infer.estimation import Estimation, Sampler
from pyro_dgm.infer.forward import simulate, with_data
from pyro_dgm.infer.implicit import check_explicit, may_be_implicit
from pyro_dgm.infer.programs import (
    DATA_PLATE,
    Program,
    Site,
    Traces,
    count_plates,
    data_frame_of,
    evaluation_mode,
    fork_rng,
    is_data,
    is_deterministic,
    plates_of,
    run,
    run_in_turn,
    sample_sites,
)
from pyro_dgm.infer.relaxations import Relaxation
from pyro_dgm.infer.schedules import Constant


class Completed(NamedTuple):
    """The data completed by the guide, with the model run against it.

    Arguments:
        runs: one run of K particles, or K runs of one.
        estimation: what its latents' gradient estimators are.
    """

    runs: list[Traces]
    estimation: Estimation


class Simulated(NamedTuple):
    """A run of the model as a simulator.

    Arguments:
        trace: of the model.
        args: the programs' positional arguments, the observed data in them replaced by the simulated ones.
        kwargs: their keyword arguments, likewise.
        unplaced: names of observed sites whose data are no argument of the programs.
    """

    trace: Trace
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    unplaced: list[str]


@final
@dataclass
class PlainSampler:
    """One particle, every latent by the estimator ``"auto"``: the draws of a term that has none of its own.

    Such a term takes expectations, for which the guide may be implicit.
    """

    num_particles: int = 1
    vectorize_particles: bool = True
    max_plate_nesting: int | None = None
    gradient: str = "auto"
    baseline: Baseline = field(default_factory=Baseline)
    relaxation: Relaxation | None = None
    supports: dict[str, Tensor] | None = field(default_factory=dict)
    latent_weight: float = 1.0
    needs_densities: bool = False
    is_explicit: bool = False
    is_repeatable: bool = False


@final
class Draws:
    """The two sources of draws that need running, P and Q, for one step; both are run when first asked for.

    Arguments:
        model: a Pyro program with observed sites.
        guide: its guide.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        sampler: how Q is drawn for whoever does not say.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        sampler: Sampler | None = None,
    ) -> None:
        self.model, self.guide, self.args, self.kwargs = model, guide, args, kwargs
        self._sampler = sampler
        self._completed: list[tuple[tuple[int, bool], Completed]] = []
        self._encoded: Trace | None = None
        self._simulated: dict[tuple[tuple[str, ...] | None, bool], Simulated] = {}

    def completed(self, sampler: Sampler, is_cut: bool = False) -> Completed:
        """Q: the data completed by the guide, with the model run against it.

        Arguments:
            sampler: number of particles, estimators and so on.
            is_cut: give the model copies of the latents; see ``Estimation``.
        """
        key = id(sampler), is_cut
        for other, completed in self._completed:
            if other == key:
                return completed
        self._completed.append((key, self._complete(sampler, is_cut)))
        return self._completed[-1][1]

    def detached(self, sampler: Sampler) -> Completed:
        """Q for who does not mind which estimators its latents have: what was drawn before, if as many particles."""
        for (_, is_cut), completed in self._completed:
            runs = completed.runs
            if is_cut and sum(traces.num_particles for traces in runs) == sampler.num_particles:
                return completed
        return self.completed(sampler, is_cut=True)

    def shared(self, is_cut: bool = False) -> Completed:
        """Q for who does not mind how it was drawn: as it was for somebody else, if it was.

        Arguments:
            is_cut: no gradient may reach the guide through the draws.
        """
        for (_, other), completed in self._completed:
            if _is_plain(completed, is_cut) and (other == is_cut or (is_cut and not _carries_gradient(completed))):
                return completed
        if self._sampler is not None:
            completed = self.completed(self._sampler, is_cut)
            if _is_plain(completed, is_cut):
                return completed
        self._sampler = PlainSampler()
        return self.completed(self._sampler, is_cut)

    def encoded(self) -> Trace:
        """Q without the model: the guide's trace, of one particle; that of a run against the model, if there was one.

        Terms that run the two against each other are therefore asked first.
        """
        for (_, is_cut), completed in self._completed:
            runs = completed.runs
            if not is_cut and _is_plain(completed, is_cut) and len(runs) == 1 and runs[0].num_particles == 1:
                return runs[0].guide
        if self._encoded is None:
            self._encoded = prune_subsample_sites(poutine.trace(self.guide).get_trace(*self.args, **self.kwargs))
        return self._encoded

    def simulated(self, given: tuple[str, ...] | None = None, is_cut: bool = False) -> Simulated:
        """P: the model run forward, nothing observed, with the programs' arguments as if its data had been given.

        Arguments:
            given: latents that are the guide's; empty for all, None for none.
            is_cut: whether these are numbers.

        Raises:
            ValueError: one of them is not in both programs.
        """
        key = given, is_cut and given is not None
        if key not in self._simulated:
            values = {} if given is None else self._latents(given)
            if is_cut:
                values = {name: value.detach() for name, value in values.items()}
            trace = simulate(self.model, self.args, self.kwargs, values)
            self._simulated[key] = Simulated(trace, *with_data(trace, self.args, self.kwargs))
        return self._simulated[key]

    def data(self) -> dict[str, Site]:
        """What the model observes, by name, as sites whose value is the data."""
        trace = self._observing()
        is_simulated = any(simulated.trace is trace for simulated in self._simulated.values())  # some may be given
        return {
            name: {**site, "value": site["infer"]["obs"]} if is_simulated else site
            for name, site in sample_sites(trace).items()
            if is_data(site) and (not is_simulated or site["infer"].get("was_observed"))
        }

    def frame(self) -> CondIndepStackFrame | None:
        """The plate of the data, or None where they share none; the model is not run for it if the guide tells."""
        if not (self._completed or self._simulated) and self._encoded is not None:
            named = _data_plate_of(self._encoded)
            if named is not None:
                return named
        trace = self._observing()
        return data_frame_of(trace) or _data_plate_of(trace)

    def _observing(self) -> Trace:
        """A trace of the model, whichever there is."""
        for _, completed in self._completed:
            if completed.runs[0].particle_dim is None:
                return completed.runs[0].model
        return (next(iter(self._simulated.values()), None) or self.simulated()).trace

    def _latents(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        sites = sample_sites(self.encoded())
        missing = [name for name in names if name not in sites]
        if missing:
            raise ValueError(
                f"latents given to the model must be the guide's; got {missing}, the guide has {list(sites)}. Name "
                "them as there."
            )
        chosen = names or [name for name, site in sites.items() if not site["infer"].get("is_auxiliary")]
        return {name: sites[name]["value"] for name in chosen if not is_deterministic(sites[name])}

    def _complete(self, sampler: Sampler, is_cut: bool) -> Completed:
        model, guide = self.model, self.guide
        if sampler.latent_weight != 1:
            weigh_latents = KLAnnealing(Constant(sampler.latent_weight))
            model, guide = weigh_latents(model), weigh_latents(guide)
        programs = model, guide, self.args, self.kwargs
        if sampler.supports is None:
            sampler.supports = find_supports(self.guide, self.args, self.kwargs, sampler.gradient)
        if sampler.needs_densities and not sampler.is_explicit:
            self._check_explicit()
            sampler.is_explicit = True
        estimation = Estimation(*programs, sampler, is_cut)
        count = sampler.num_particles * estimation.num_listed
        if count > 1 and (sampler.vectorize_particles or sampler.supports):
            if sampler.max_plate_nesting is None:
                sampler.max_plate_nesting = count_plates(*programs)
            estimation.at_particles(-sampler.max_plate_nesting - 1)
            runs = [run(*programs, count, sampler.max_plate_nesting, estimation)]
        else:
            runs = run_in_turn(*programs, count, estimation)
        check_traces(runs[0], sampler.needs_densities)
        if torch.is_grad_enabled():
            estimation.rescore(runs)
            check_gradients(runs[0], self.model, self.guide, estimation.scored)
        return Completed(runs, estimation)

    def _check_explicit(self) -> None:
        """Refuses implicit guides, on a run of its own: it would overwrite what flows remember of their last draw."""
        with poutine.block(), fork_rng(), evaluation_mode(self.model, self.guide):
            traces = run(self.model, self.guide, self.args, self.kwargs)
            if may_be_implicit(traces):
                check_explicit(self.model, self.guide, self.args, self.kwargs, traces)


def _is_plain(completed: Completed, is_cut: bool) -> bool:
    """Whether the draws' paths carry the gradient as it is: a doubly reparameterised draw scales what goes through."""
    return is_cut or "dreg" not in completed.estimation.chosen.values()


def _carries_gradient(completed: Completed) -> bool:
    sites = [site for traces in completed.runs for site in sample_sites(traces.guide).values()]
    return any(isinstance(site["value"], Tensor) and site["value"].requires_grad for site in sites)


def _data_plate_of(trace: Trace) -> CondIndepStackFrame | None:
    """The plate named ``data`` around any site, for programs that observe nothing."""
    frames = [frame for site in sample_sites(trace).values() for frame in plates_of(site)]
    return next((frame for frame in frames if frame.name == DATA_PLATE), None)
