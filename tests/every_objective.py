"""All objectives there are, each with the estimators that are its own, for tests that none may be left out of."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_dgm.infer import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    KL,
    MIWAE,
    MMD,
    NLL,
    PIWAE,
    TVO,
    Baseline,
    Energy,
    ForwardKL,
    P,
    Q,
    Relaxation,
    Renyi,
    ReweightedWakeSleep,
    SlicedWasserstein,
    TailAdaptive,
    Term,
    WakeSleep,
)

DATA_FEATURES, LATENT_FEATURES = 5, 2


class Case(NamedTuple):
    """An objective, and what it is for.

    Arguments:
        make: gives a new one.
        is_discrete: whether the latent ``z`` has to be bits; normal otherwise.
        moves: whose parameters it moves: ``"both"``, ``"model"`` or ``"guide"``.
    """

    make: Callable[[], Term]
    is_discrete: bool = False
    moves: str = "both"


class Surrogate(nn.Module):
    """RELAX's network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(LATENT_FEATURES + DATA_FEATURES, 1)

    def forward(self, latents: Tensor, x: Tensor) -> Tensor:
        return self.net(torch.cat([latents, x.expand(*latents.shape[:-1], -1)], dim=-1))


def baseline() -> Baseline:
    torch.manual_seed(5)
    return Baseline(nn.Linear(DATA_FEATURES, 1))


def relaxation() -> Relaxation:
    torch.manual_seed(5)
    return Relaxation(net=Surrogate())


EVERY_OBJECTIVE = {
    "ELBO": Case(ELBO),
    "ELBO, analytic KL": Case(lambda: ELBO(analytic_kl=True)),
    "ELBO, free bits": Case(lambda: ELBO(beta=0.5, free_bits=0.1)),
    "ELBO, stl": Case(lambda: ELBO(3, gradient="stl")),
    "IWAE": Case(lambda: IWAE(5)),
    "IWAE, dreg": Case(lambda: IWAE(5, gradient="dreg")),
    "IWAE of the model": Case(lambda: IWAE(5, moves="model"), moves="model"),
    "IWAE of the guide": Case(lambda: IWAE(5, gradient="dreg", moves="guide"), moves="guide"),
    "MIWAE": Case(lambda: MIWAE(4, 2)),
    "PIWAE": Case(lambda: PIWAE(4, 2)),
    "CIWAE": Case(lambda: CIWAE(4, 0.5)),
    "Renyi": Case(lambda: Renyi(0.5, 4)),
    "VR-max": Case(lambda: Renyi(-float("inf"), 4)),
    "CUBO": Case(lambda: CUBO(4), moves="guide"),
    "TVO": Case(lambda: TVO(4, (0.0, 0.2))),
    "ForwardKL": Case(lambda: ForwardKL(4), moves="guide"),
    "TailAdaptive": Case(lambda: TailAdaptive(4), moves="guide"),
    "NLL of the model": Case(lambda: NLL(of="model", at=Q), moves="model"),
    "NLL of the guide": Case(lambda: NLL(of="guide", at=P), moves="guide"),
    "InfoVAE": Case(lambda: ELBO() + 10 * MMD("z")),
    "sliced Wasserstein": Case(lambda: ELBO() + 3 * SlicedWasserstein("z")),
    "energy distance": Case(lambda: ELBO() + 3 * Energy("z")),
    "reconstruction and KL": Case(lambda: NLL("x", of="model", at=Q, through_draws=True) + KL("z")),
    "wake-sleep": Case(WakeSleep, True),
    "reweighted wake-sleep": Case(lambda: ReweightedWakeSleep(4), True),
    "reweighted wake-sleep, dreg": Case(lambda: ReweightedWakeSleep(4, gradient="dreg")),
    "score": Case(lambda: ELBO(gradient="score"), True),
    "loo": Case(lambda: ELBO(3, gradient="loo"), True),
    "VIMCO": Case(lambda: IWAE(3, gradient="loo"), True),
    "nvil": Case(lambda: ELBO(gradient="nvil", baseline=baseline()), True),
    "disarm": Case(lambda: ELBO(gradient="disarm"), True),
    "rebar": Case(lambda: ELBO(gradient="rebar"), True),
    "relax": Case(lambda: IWAE(2, gradient="relax", relaxation=relaxation()), True),
    "straight through": Case(lambda: ELBO(gradient="straight_through"), True),
    "gumbel": Case(lambda: ELBO(gradient="gumbel"), True),
    "enumerate": Case(lambda: ELBO(gradient="enumerate"), True),
}
