"""The draws of one step: each program run as seldom as can be, for all terms of an objective together."""

__all__ = ["Completed", "Draws", "PlainSampler"]

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
from pyro_dgm.infer.checks import check_gradients, check_paths, check_traces
from pyro_dgm.infer.enumeration import find_supports
from pyro_dgm.infer.estimation import Estimation, Sampler
from pyro_dgm.infer.estimators import BIASED
from pyro_dgm.infer.forward import simulate
from pyro_dgm.infer.implicit import check_explicit, may_be_implicit
from pyro_dgm.infer.programs import (
    DATA_PLATE,
    Program,
    SameRows,
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

Programs = tuple[Program, Program, Sequence[Any], Mapping[str, Any]]


class Completed(NamedTuple):
    """The data completed by the guide, with the model run against it.

    Arguments:
        runs: one run of K particles, or K runs of one.
        estimation: what its latents' gradient estimators are.
    """

    runs: list[Traces]
    estimation: Estimation


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
        self._plain: PlainSampler | None = None
        self._completed: list[tuple[tuple[int, bool], Completed]] = []
        self._encoded: Trace | None = None
        self._simulated: dict[tuple[tuple[str, ...] | None, bool], Trace] = {}
        self._observed: dict[tuple[tuple[str, ...] | None, bool], Trace] = {}
        self.rows = SameRows()

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

    def shared(self, is_cut: bool = False, is_weighted: bool = True) -> Completed:
        """Q for who does not mind how it was drawn: as it was for somebody else, if it was.

        Arguments:
            is_cut: no gradient may reach the guide through the draws.
            is_weighted: whether the latents' densities may carry a weight of somebody else's objective.
        """

        def serves(completed: Completed) -> bool:
            return _is_plain(completed, is_cut) and (is_weighted or completed.estimation.latent_weight == 1)

        for (_, other), completed in self._completed:
            if serves(completed) and (other == is_cut or (is_cut and not _carries_gradient(completed))):
                return completed
        if self._sampler is not None:
            completed = self.completed(self._sampler, is_cut)
            if serves(completed):
                return completed
        self._plain = PlainSampler() if self._plain is None else self._plain
        return self.completed(self._plain, is_cut)

    def encoded(self) -> Trace:
        """Q without the model: the guide's trace, of one particle; that of a run against the model, if there was one.

        Terms that run the two against each other are therefore asked first.
        """
        for (_, is_cut), completed in self._completed:
            runs = completed.runs
            if not is_cut and _is_plain(completed, is_cut) and len(runs) == 1 and runs[0].num_particles == 1:
                return runs[0].guide
        if self._encoded is None:
            with self.rows:
                trace = poutine.trace(self.guide).get_trace(*self.args, **self.kwargs)
            self._encoded = prune_subsample_sites(trace)
        return self._encoded

    def simulated(self, given: tuple[str, ...] | None = None, is_cut: bool = False) -> Trace:
        """P: the model run forward, nothing observed.

        Arguments:
            given: latents that are the guide's; empty for all, None for none.
            is_cut: whether these are numbers.

        Raises:
            ValueError: one of them is not in both programs.
        """
        key = given, is_cut and given is not None
        if key not in self._simulated:
            values = self._given(*key)
            with self.rows:
                trace = simulate(self.model, self.args, self.kwargs, values)
            for name in values:  # which is a latent all the same
                trace.nodes[name]["is_observed"] = False
            self._simulated[key] = trace
        return self._simulated[key]

    def observed(self, given: tuple[str, ...] | None = None, is_cut: bool = False) -> Trace:
        """The model with its data observed and its latents drawn as it draws them, which no datum has told anything.

        Where no site comes after data in the model, that is a simulation with the data put in its place.

        Arguments:
            given: latents that are the guide's; empty for all, None for none.
            is_cut: whether these are numbers.
        """
        key = given, is_cut and given is not None
        if key not in self._observed:
            trace = self.simulated(given, is_cut)
            was_observed = [bool(site["infer"].get("was_observed")) for site in sample_sites(trace).values()]
            if True in was_observed[:-1]:  # what comes after data may depend on them
                trace = self._run_on_data(*key)
            else:
                trace = trace.copy()
                for name, site in sample_sites(trace).items():
                    if site["infer"].get("was_observed"):
                        trace.nodes[name] = {**site, "value": site["infer"]["obs"], "is_observed": True}
            self._observed[key] = trace
        return self._observed[key]

    def _run_on_data(self, given: tuple[str, ...] | None, is_cut: bool) -> Trace:
        values = self._given(given, is_cut)
        with self.rows:
            model = poutine.condition(self.model, data=values)
            trace = prune_subsample_sites(poutine.trace(model).get_trace(*self.args, **self.kwargs))
        for name in values:
            trace.nodes[name]["is_observed"] = False
        return trace

    def _given(self, given: tuple[str, ...] | None, is_cut: bool) -> dict[str, Tensor]:
        values = {} if given is None else self._latents(given)
        if is_cut:
            return {name: value.detach() for name, value in values.items()}
        if values:
            check_paths(sample_sites(self.encoded()), values, "what the model is given")
        return values

    def data(self) -> dict[str, Site]:
        """What the model observes, by name, as sites whose value is the data."""
        trace = self._observing()
        is_simulated = any(simulated is trace for simulated in self._simulated.values())
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

    def guide_frame(self) -> CondIndepStackFrame | None:
        """The guide's plate that is the data's by name, or None where it has none, or has not been run alone."""
        frame = None if self._encoded is None else self.frame()
        if self._encoded is None or frame is None:
            return None
        found = [own for site in sample_sites(self._encoded).values() for own in plates_of(site)]
        return next((own for own in found if own.name == frame.name), None)

    def _observing(self) -> Trace:
        """A trace of the model, whichever there is."""
        for _, completed in self._completed:
            if completed.runs[0].particle_dim is None:
                return completed.runs[0].model
        return next(iter(self._simulated.values()), None) or self.simulated()

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
        with self.rows:
            return self._completed_by(programs, sampler, is_cut)

    def _completed_by(self, programs: Programs, sampler: Sampler, is_cut: bool) -> Completed:
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
    """Whether these are draws like any, and, unless they are to be numbers, their paths carry the gradient as it is.

    The values of an enumerated latent are listed; a path is cut where a latent is scored, and a doubly reparameterised
    draw scales what goes through it.
    """
    estimation = completed.estimation
    return estimation.num_listed == 1 and (is_cut or set(estimation.chosen.values()) <= {"reparam", "stl", *BIASED})


def _carries_gradient(completed: Completed) -> bool:
    sites = [site for traces in completed.runs for site in sample_sites(traces.guide).values()]
    return any(isinstance(site["value"], Tensor) and site["value"].requires_grad for site in sites)


def _data_plate_of(trace: Trace) -> CondIndepStackFrame | None:
    """The plate named ``data`` around any site, for programs that observe nothing."""
    frames = [frame for site in sample_sites(trace).values() for frame in plates_of(site)]
    return next((frame for frame in frames if frame.name == DATA_PLATE), None)
