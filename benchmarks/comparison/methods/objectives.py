"""This library's objectives and estimators as methods, one entry of a table each."""

__all__ = ["OBJECTIVES", "Objectives"]

import functools
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from benchmarks.comparison.method import Learner, Method, TrainedPrograms
from benchmarks.comparison.task import Problem
from pyro_dgm.infer import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    MIWAE,
    MMD,
    PIWAE,
    SVI,
    TVO,
    Baseline,
    ForwardKL,
    Relaxation,
    Renyi,
    ReweightedWakeSleep,
    TailAdaptive,
    Term,
    WakeSleep,
)
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.nn import MLP

DISCRETE = ("bits", "classes")
ANY = ("continuous", *DISCRETE)
SMALL = (32,)  # hidden layer of networks that only lower the variance


@final
class Objectives(Method):
    """Adam on one objective, by this library's trainer.

    Arguments:
        name: of the method.
        title: for the tables.
        make: gives the objective for a problem.
        latents: the kinds of latents that it is for.
        needs_data: whether the guide has to read data, of which there must be several.
        moves_guide: whether it moves the guide alone, so that the model must not be one to learn.
        needs_model: whether it is for learning a model, so that there must be one to learn.
        compiled: take compiled steps.
    """

    family = "pyro_dgm"

    def __init__(
        self,
        name: str,
        title: str,
        make: Callable[[Problem], Term],
        latents: tuple[str, ...] = ("continuous",),
        needs_data: bool = False,
        moves_guide: bool = False,
        needs_model: bool = False,
        compiled: bool = False,
    ) -> None:
        self.name, self.title, self.make = name, title, make
        self.latents, self.needs_data, self.compiled = latents, needs_data, compiled
        self.moves_guide, self.needs_model = moves_guide, needs_model

    def supports(self, problem: Problem) -> str | None:
        """Whether there is a guide, and the latents are of the right kind."""
        if problem.make_guide is None:
            return "the problem has no guide"
        if problem.latents not in self.latents:
            return f"it is for {' or '.join(self.latents)}, and the latents are {problem.latents}"
        if self.needs_data and problem.is_whole:
            return "its guide dreams of data, and the only datum is the whole data set"
        if self.moves_guide and problem.is_learned:
            return "it moves the guide alone, and the model is to be learned as well"
        if self.needs_model and not problem.is_learned:
            return "it is for models that are learned"
        return None

    def start(self, problem: Problem, seed: int) -> Learner:
        """A new guide under a new trainer."""
        assert problem.make_guide is not None
        guide, objective = problem.make_guide(), self.make(problem)
        how = Compiler(wait=True, quiet=True) if self.compiled else False
        adam = functools.partial(torch.optim.Adam, lr=problem.learning_rate)
        trainer = SVI(problem.model, guide, adam, objective, compile=how)
        return TrainedPrograms(trainer, problem, problem.model, guide, objective)


class _Surrogate(nn.Module):
    """RELAX's network, of the relaxed latents and the datum."""

    def __init__(self, latents: int, features: int) -> None:
        super().__init__()
        self.net = MLP(latents + features, 1, SMALL)

    def forward(self, latents: Tensor, x: Tensor) -> Tensor:
        """One number per particle and datum, (K, B, 1)."""
        found: Tensor = self.net(torch.cat([latents, x.expand(*latents.shape[:-1], -1)], -1))
        return found


def _plain(kind: Callable[..., Term], *args: Any, **options: Any) -> Callable[[Problem], Term]:
    return lambda problem: kind(*args, **options)


def _nvil(problem: Problem) -> Term:
    return ELBO(gradient="nvil", baseline=Baseline(MLP(problem.test[0].shape[1], 1, SMALL)))


def _relax(problem: Problem) -> Term:
    net = _Surrogate(sum(problem.model.layers), problem.test[0].shape[1])
    return ELBO(gradient="relax", relaxation=Relaxation(net=net))


OBJECTIVES: tuple[Method, ...] = (
    Objectives("elbo", "ELBO, reparameterised", _plain(ELBO)),
    Objectives("elbo-analytic", "ELBO, KL in closed form", _plain(ELBO, analytic_kl=True)),
    Objectives("elbo-compiled", "ELBO, compiled steps", _plain(ELBO), compiled=True),
    Objectives("elbo-stl", "ELBO, sticking the landing", _plain(ELBO, gradient="stl")),
    Objectives("elbo-5", "ELBO, 5 particles", _plain(ELBO, 5)),
    Objectives("iwae", "IWAE, K = 5", _plain(IWAE, 5)),
    Objectives("iwae-compiled", "IWAE, K = 5, compiled steps", _plain(IWAE, 5), compiled=True),
    Objectives("iwae-dreg", "IWAE, K = 5, doubly reparameterised", _plain(IWAE, 5, gradient="dreg")),
    Objectives("miwae", "MIWAE, K = 6 in 2 groups", _plain(MIWAE, 6, 2)),
    Objectives("ciwae", "CIWAE, K = 5, half ELBO", _plain(CIWAE, 5, 0.5)),
    Objectives("piwae", "PIWAE, K = 6 in 2 groups", _plain(PIWAE, 6, 2)),
    Objectives("renyi", "Rényi, alpha = 0.5, K = 5", _plain(Renyi, 0.5, 5)),
    Objectives("tvo", "TVO, K = 5", _plain(TVO, 5)),
    Objectives("cubo", "CUBO, order 2, K = 5", _plain(CUBO, 5), moves_guide=True),
    Objectives("forward-kl", "forward KL, K = 5", _plain(ForwardKL, 5), moves_guide=True),
    Objectives("tail-adaptive", "tail-adaptive, K = 5", _plain(TailAdaptive, 5), moves_guide=True),
    Objectives("info-vae", "ELBO + 10 MMD", lambda problem: ELBO() + MMD("z") * 10.0, needs_model=True),
    Objectives("rws", "reweighted wake-sleep, K = 5", _plain(ReweightedWakeSleep, 5), ANY),
    Objectives("wake-sleep", "wake-sleep", _plain(WakeSleep), ANY, needs_data=True),
    Objectives("vimco", "VIMCO (IWAE, leave one out), K = 5", _plain(IWAE, 5, gradient="loo"), ANY),
    Objectives("elbo-loo", "ELBO, leave one out, K = 5", _plain(ELBO, 5, gradient="loo"), ANY),
    Objectives("score", "ELBO, score function", _plain(ELBO, gradient="score"), ANY),
    Objectives("nvil", "ELBO, NVIL with a network", _nvil, ANY),
    Objectives("rebar", "ELBO, REBAR", _plain(ELBO, gradient="rebar"), ("bits",)),
    Objectives("relax", "ELBO, RELAX", _relax, ("bits",)),
    Objectives("disarm", "ELBO, DisARM", _plain(ELBO, gradient="disarm"), ("bits",)),
    Objectives("gumbel", "ELBO, concrete relaxation (biased)", _plain(ELBO, gradient="gumbel"), ("bits",)),
    Objectives(
        "straight-through", "ELBO, straight-through (biased)", _plain(ELBO, gradient="straight_through"), ("bits",)
    ),
    Objectives("enumerate", "ELBO, latents summed over", _plain(ELBO, gradient="enumerate"), DISCRETE),
)
