"""Pyro's own methods, as Pyro has them: trainers with validation on, AutoGuides, SVGD and NUTS."""

__all__ = ["OF_PYRO"]

from collections.abc import Callable
from functools import partial
from typing import Any, final

import pyro
import torch
from pyro.infer import (
    NUTS,
    SVGD,
    RBFSteinKernel,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoIAFNormal, AutoMultivariateNormal, AutoNormal
from torch import Tensor

from benchmarks.comparison.method import Learner, Method, TrainedPrograms
from benchmarks.comparison.methods.chains import NUM_WARMUP, later_draws
from benchmarks.comparison.task import Problem

NUM_PARTICLES = 50  # of SVGD
ANY = ("continuous", "bits", "classes")


@final
class Stock(Method):
    """``pyro.infer.SVI`` with Adam on one of Pyro's objectives.

    Arguments:
        name: of the method.
        title: for the tables.
        objective: makes it.
        latents: the kinds of latents that it is for.
        make_guide: makes a guide of a model; the problem's own when None.
        is_enumerated: whether the guide's latents are summed over.
    """

    family = "pyro"

    def __init__(
        self,
        name: str,
        title: str,
        objective: Callable[[], Any] = Trace_ELBO,
        latents: tuple[str, ...] = ("continuous",),
        make_guide: Callable[[Any], Any] | None = None,
        is_enumerated: bool = False,
    ) -> None:
        self.name, self.title, self.is_enumerated = name, title, is_enumerated
        self.make_objective, self.latents, self.make_guide = objective, latents, make_guide

    def supports(self, problem: Problem) -> str | None:
        """AutoGuides are for a single datum: others would need an encoder, or a parameter per datum."""
        if problem.latents not in self.latents:
            return f"it is for {' or '.join(self.latents)}, and the latents are {problem.latents}"
        if self.make_guide is not None and not problem.is_whole:
            return "an AutoGuide reads no data, and the latents are those of several data"
        return "the problem has no guide" if problem.make_guide is None else None

    def start(self, problem: Problem, seed: int) -> Learner:
        """A new guide under a new trainer; parameters are in Pyro's store."""
        assert problem.make_guide is not None
        guide = problem.make_guide() if self.make_guide is None else self.make_guide(problem.model)
        objective = self.make_objective()
        adam = pyro.optim.Adam({"lr": problem.learning_rate})
        trained = config_enumerate(guide) if self.is_enumerated else guide
        trainer = pyro.infer.SVI(problem.model, trained, adam, objective)
        audited = None if self.is_enumerated else objective  # the guide that is evaluated draws its latents
        return TrainedPrograms(trainer, problem, problem.model, guide, audited)


class _Sampler(Method):
    """What gives draws of a single posterior."""

    family = "pyro"

    def supports(self, problem: Problem) -> str | None:
        """Only the posterior of a single datum, without discrete latents."""
        if problem.latents != "continuous" or problem.posterior is None or problem.is_learned:
            return "it draws from the posterior of continuous latents under a model that is given"
        return None if problem.is_whole else "it has no encoder, and there is a posterior for every datum"


@final
class Nuts(_Sampler):
    """The no-U-turn sampler; a step is one draw, and the first 200 are those in which it adapts."""

    name, title = "pyro-nuts", "NUTS (Pyro)"

    def start(self, problem: Problem, seed: int) -> Learner:
        """A chain that has not begun."""
        return _Chain(problem)


class _Chain(Learner):
    is_chain = True

    def __init__(self, problem: Problem) -> None:
        self._kernel = NUTS(problem.model)
        self._kernel.setup(NUM_WARMUP, *problem.test)
        self._state = self._kernel.initial_params
        self._draws: list[dict[str, Tensor]] = []

    def step(self) -> None:
        """Draws once."""
        self._state = self._kernel.sample(self._state)
        self._draws.append(self._state)

    def draws(self, num: int) -> dict[str, Tensor] | None:
        """The later half of the chain, as ``later_draws`` has it."""
        kept = later_draws(self._draws, num)
        if kept is None:
            return None
        transforms = self._kernel.transforms
        own = {name: torch.stack([draw[name] for draw in kept]).detach() for name in kept[0]}
        return {name: transforms[name].inv(value) if name in transforms else value for name, value in own.items()}


@final
class Stein(_Sampler):
    """Stein variational gradient descent with fifty particles."""

    name, title = "pyro-svgd", f"SVGD, {NUM_PARTICLES} particles (Pyro)"

    def start(self, problem: Problem, seed: int) -> Learner:
        """Particles at draws of the prior's scale."""
        return _Particles(problem)


class _Particles(Learner):
    def __init__(self, problem: Problem) -> None:
        adam = pyro.optim.Adam({"lr": 5 * problem.learning_rate})
        self._svgd = SVGD(problem.model, RBFSteinKernel(), adam, NUM_PARTICLES, max_plate_nesting=1)
        self._batch = problem.test

    def step(self) -> None:
        """Moves the particles."""
        self._svgd.step(*self._batch)

    def draws(self, num: int) -> dict[str, Tensor] | None:
        """The particles, however many are asked for."""
        own = {name: value.detach() for name, value in self._svgd.get_named_particles().items()}
        return own or None


OF_PYRO: tuple[Method, ...] = (
    Stock("pyro-trace-elbo", "Trace_ELBO (Pyro)"),
    Stock("pyro-meanfield", "TraceMeanField_ELBO (Pyro)", TraceMeanField_ELBO),
    Stock("pyro-tracegraph", "TraceGraph_ELBO (Pyro)", TraceGraph_ELBO, ANY),
    Stock(
        "pyro-traceenum",
        "TraceEnum_ELBO (Pyro)",
        partial(TraceEnum_ELBO, max_plate_nesting=1),
        ("classes",),
        is_enumerated=True,
    ),
    Stock("pyro-renyi", "RenyiELBO, alpha = 0, K = 5 (Pyro)", partial(RenyiELBO, 0, 5, vectorize_particles=True)),
    Stock(
        "pyro-rws",
        "ReweightedWakeSleep, K = 5 (Pyro)",
        partial(ReweightedWakeSleep, 5, vectorize_particles=True, max_plate_nesting=1),
        ANY,
    ),
    Stock("pyro-autonormal", "AutoNormal (Pyro)", make_guide=AutoNormal),
    Stock("pyro-automvn", "AutoMultivariateNormal (Pyro)", make_guide=AutoMultivariateNormal),
    Stock(
        "pyro-autoiaf",
        "AutoIAFNormal, 2 transforms (Pyro)",
        make_guide=partial(AutoIAFNormal, hidden_dim=[32], num_transforms=2),
    ),
    Stein(),
    Nuts(),
)
