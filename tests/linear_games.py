"""What the small adversarial games of the tests are made of: learned numbers, quadratic critics, noiseless data."""

import functools
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dgm.adversarial import AdversarialTrainer

REAL = torch.float64


class Numbers(nn.Module):
    """Learned numbers by name, from which programs are written.

    Arguments:
        start: their initial values.
    """

    def __init__(self, **start: float) -> None:
        super().__init__()
        for name, value in start.items():
            setattr(self, name, nn.Parameter(torch.as_tensor(value, dtype=REAL)))

    def found(self) -> list[float]:
        """Their values, in the order they were given in."""
        return [parameter.item() for parameter in self.parameters()]


class Quadratic(nn.Module):
    """A critic's network that is linear in the entries of its inputs, their squares and products. It starts at zero.

    The log-ratio of two normal distributions is of this form.

    Arguments:
        features: how many entries the inputs have together.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.rows, self.columns = torch.triu_indices(features, features)
        self.linear = nn.Linear(features + len(self.rows), 1, dtype=REAL)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Scores rows, (B, 1)."""
        value = torch.cat(inputs, -1)
        return self.linear(torch.cat([value, value[:, self.rows] * value[:, self.columns]], -1))


def adam(lr: float) -> Callable[..., torch.optim.Optimizer]:
    """Adam as a factory, with betas (0.5, 0.99)."""
    return functools.partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.99))


def fit(trainer: AdversarialTrainer, batch: Any, steps: int, *args: Any) -> AdversarialTrainer:
    """So many steps, both learning rates falling to nothing in a straight line.

    Arguments:
        trainer: of the game.
        batch: the first argument of each step, or a function without arguments that gives it.
        steps: how many.
        args: further arguments, the same at each step.
    """
    players = [player for player in (trainer.player, trainer.critic) if player.optimized]
    starts = [(group, group["lr"]) for player in players for group in player.optimizer.param_groups]
    for step in range(steps):
        for group, lr in starts:
            group["lr"] = lr * (1 - step / steps)
        trainer.step(batch() if callable(batch) else batch, *args)
    return trainer


def quantiles(num: int, loc: float = 0.0, sd: float = 1.0) -> Tensor:
    """A normal sample without noise, in ascending order: quantiles, scaled to have exactly these moments, (num,)."""
    x = dist.Normal(0.0, 1.0).icdf((torch.arange(num, dtype=REAL) + 0.5) / num)
    return loc + sd * x / x.square().mean().sqrt()


def shuffled(x: Tensor) -> Callable[[], Tensor]:
    """The same rows in a new order at each call."""
    return lambda: x[torch.randperm(len(x))]
