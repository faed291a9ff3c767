"""Small games with known answers."""

__all__ = ["Point", "Slope", "linear_gan", "sgd"]

import functools

import pyro
import torch
from torch import Tensor, nn

from pyro_dgm.adversarial import R1, AdversarialTrainer, Contrast, Critic
from pyro_dgm.distributions import Generated, Implicit, StandardNormal
from pyro_dgm.infer import DATA, P
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP


def sgd(lr: float = 0.1):
    """Makes plain gradient descent."""
    return functools.partial(torch.optim.SGD, lr=lr)


class Point(nn.Module):
    """A generator of one point, theta: the Dirac GAN's."""

    def __init__(self, theta: float = 1.0) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("x", Implicit(self.theta.expand(len(x)), 0), obs=x)


class Slope(nn.Module):
    """A linear critic, psi x."""

    def __init__(self, psi: float = -1.0) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.tensor(psi, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.psi * x


def linear_gan(seed: int = 0, penalties=None, **options) -> AdversarialTrainer:
    """A GAN of the plane with batch norm in the generator, Adam for both."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    model = LatentVariableModel(StandardNormal(2), Generated(net))
    critic = Critic(MLP(2, 1, (8,)))
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    gan = Contrast("x", DATA, P, critic, penalties=[R1(1.0, every=2)] if penalties is None else penalties)
    return AdversarialTrainer(model, gan, adam, adam, **options)
