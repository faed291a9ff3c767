"""This library's adversarial games as methods."""

__all__ = ["ADVERSARIAL"]

import functools
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from benchmarks.comparison.method import Learner, Method
from benchmarks.comparison.methods.by_hand import BETAS, CRITIC_RATE, PLAYER_RATE
from benchmarks.comparison.task import Problem
from benchmarks.modes import Times
from pyro_dgm.adversarial import (
    DRAGAN,
    IPM,
    R1,
    AdversarialTrainer,
    Contrast,
    Critic,
    CriticEstimator,
    FDivergence,
    GradientPenalty,
    Hinge,
    LeastSquares,
    LeCam,
    Logistic,
    Minimax,
    NonSaturating,
    Penalty,
    PlayerObjective,
    Relativistic,
    ReverseKL,
    Steps,
    Wasserstein,
    spectrally_normalized,
)
from pyro_dgm.infer import DATA, MMD, Energy, P, SlicedWasserstein, Term
from pyro_dgm.nn import MLP


@final
class Game(Method):
    """A generator against a critic.

    Arguments:
        name: of the method.
        title: for the tables.
        estimator: what the critic learns.
        objective: what the generator minimises.
        penalties: of the critic, made anew for every run.
        critic_steps: updates of the critic in a step, which has one of the generator.
        slope: what the critic's slope is kept below by dividing its weights by their spectral norms; None for no limit.
    """

    family = "pyro_dgm"

    def __init__(
        self,
        name: str,
        title: str,
        estimator: Callable[[], CriticEstimator],
        objective: Callable[[], PlayerObjective],
        penalties: Callable[[], list[Penalty]] = list,
        critic_steps: int = 1,
        slope: float | None = None,
    ) -> None:
        self.name, self.title = name, title
        self.estimator, self.player_objective, self.penalties = estimator, objective, penalties
        self.critic_steps, self.slope = critic_steps, slope

    def supports(self, problem: Problem) -> str | None:
        """Only a generator without densities."""
        return None if problem.latents == "generator" else "it is for generators without densities"

    def start(self, problem: Problem, seed: int) -> Learner:
        """A new critic of the generator's size."""
        net: nn.Module = MLP(problem.test[0].shape[1], 1, (128, 128))
        if self.slope is not None:
            net = nn.Sequential(spectrally_normalized(net), Times(self.slope))
        critic = Critic(net)
        game = Contrast("x", DATA, P, critic, self.estimator(), self.player_objective(), self.penalties())
        return _Players(problem, game, Steps(critic=self.critic_steps), has_critic=True)


@final
class Distance(Method):
    """A distance between draws and data, without a critic.

    Arguments:
        name: of the method.
        title: for the tables.
        term: what is minimised.
    """

    family = "pyro_dgm"

    def __init__(self, name: str, title: str, term: Callable[[], Term]) -> None:
        self.name, self.title, self.term = name, title, term

    def supports(self, problem: Problem) -> str | None:
        """Only a generator without densities."""
        return None if problem.latents == "generator" else "it is for generators without densities"

    def start(self, problem: Problem, seed: int) -> Learner:
        """The generator alone."""
        return _Players(problem, self.term(), Steps(), has_critic=False)


class _Players(Learner):
    def __init__(self, problem: Problem, terms: Term, schedule: Steps, has_critic: bool) -> None:
        player, other = (
            functools.partial(torch.optim.Adam, lr=rate, betas=BETAS) for rate in (PLAYER_RATE, CRITIC_RATE)
        )
        critic = other if has_critic else None
        self._trainer = AdversarialTrainer(problem.model, terms, player, critic, schedule=schedule, compile=False)
        self._batches = problem.batches()

    def step(self) -> None:
        """A turn of everyone."""
        self._trainer.step(*next(self._batches))

    def samples(self, num: int) -> Tensor | None:
        """Data of the generator as it is."""
        with torch.no_grad():
            found: Tensor = self._trainer.model(num=num)
            return found


ADVERSARIAL: tuple[Method, ...] = (
    Game("gan", "GAN, non-saturating", Logistic, NonSaturating),
    Game("gan-r1", "GAN, non-saturating, R1 (0.1)", Logistic, NonSaturating, lambda: [R1(0.1)]),
    Game("wgan-gp", "WGAN, gradient penalty (0.1)", Wasserstein, IPM, lambda: [GradientPenalty(0.1)], critic_steps=3),
    Game("lsgan", "least squares GAN, R1 (0.1)", LeastSquares, NonSaturating, lambda: [R1(0.1)]),
    Game("hinge", "hinge GAN, spectral norms (slope 10)", Hinge, IPM, slope=10.0),
    Game("rgan", "relativistic average GAN, R1 (0.1)", Relativistic, NonSaturating, lambda: [R1(0.1)]),
    Game("minimax", "GAN, minimax, R1 (0.1)", Logistic, Minimax, lambda: [R1(0.1)]),
    Game("dragan", "GAN, non-saturating, DRAGAN (0.1)", Logistic, NonSaturating, lambda: [DRAGAN(0.1)]),
    Game("lecam", "GAN, non-saturating, LeCam (0.1)", Logistic, NonSaturating, lambda: [LeCam(0.1)]),
    Game("fgan-kl", "f-GAN, KL, R1 (0.1)", lambda: FDivergence("kl"), NonSaturating, lambda: [R1(0.1)]),
    Game("kl-gan", "reverse KL by the critic's ratio, R1 (0.1)", Logistic, ReverseKL, lambda: [R1(0.1)]),
    Distance("gmmn", "moment matching, MMD", lambda: MMD("x", num=DATA, den=P)),
    Distance("energy", "energy distance", lambda: Energy("x", num=DATA, den=P)),
    Distance("swg", "sliced Wasserstein", lambda: SlicedWasserstein("x", num=DATA, den=P)),
)
