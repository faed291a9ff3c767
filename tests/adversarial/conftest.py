"""Expectations under normal distributions on the line, by quadrature: what critics and players learn is known there."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class Line:
    """A fine grid, in float64, on which the trapezium rule is exact to rounding for the smooth functions used here.

    Arguments:
        x: the points, (N,).
    """

    x: Tensor

    def log_prob(self, loc: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Tensor:
        """The log-density of a normal distribution at the points, (N,)."""
        scale = torch.as_tensor(scale, dtype=self.x.dtype)
        return -0.5 * ((self.x - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)

    def weights(self, loc: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Tensor:
        """Weights of the points, which sum to one, for expectations under a normal distribution, (N,)."""
        return self.log_prob(loc, scale).exp() * (self.x[1] - self.x[0])

    def divergence(self, name: str, log_p: Tensor, log_q: Tensor, alpha: float | None = None) -> Tensor:
        """The f-divergence of two densities, given their logarithms at the points, by its definition, a scalar."""
        f = self.generator(name, (log_p - log_q).exp(), alpha)
        return log_q.exp() @ f * (self.x[1] - self.x[0])

    @staticmethod
    def generator(name: str, u: Tensor, alpha: float | None = None) -> Tensor:
        """Values of f at ratios u, as in the papers."""
        a = 0.5 if alpha is None else alpha
        return {
            "kl": lambda: u * u.log(),
            "reverse-kl": lambda: -u.log(),
            "pearson": lambda: (u - 1).square(),
            "neyman": lambda: (u - 1).square() / u,
            "squared-hellinger": lambda: (u.sqrt() - 1).square(),
            "jensen-shannon": lambda: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
            "gan": lambda: u * u.log() - (u + 1) * (u + 1).log(),
            "alpha": lambda: (u**a - 1 - a * (u - 1)) / (a * (a - 1)),
        }[name]()

    def expected(
        self, loss: Callable[[Tensor, Tensor], Tensor], num: Tensor, den: Tensor, p: Tensor, q: Tensor
    ) -> Tensor:
        """The expectation of a loss that is a mean over draws of num plus a mean over draws of den.

        Arguments:
            loss: a function of two batches, of values or of scores.
            num: points (N,) with the weights p, (N,).
            den: points (M,) with the weights q, (M,).
        """
        nought = num.new_zeros(1)
        of_num = torch.vmap(lambda value: loss(value.reshape(1), nought))(num)
        of_den = torch.vmap(lambda value: loss(nought, value.reshape(1)))(den)
        return p @ of_num + q @ of_den - loss(nought, nought)


@pytest.fixture
def line() -> Line:
    """From -25 to 25 in steps of 1/80."""
    return Line(torch.arange(-2000, 2001, dtype=torch.float64) / 80)
