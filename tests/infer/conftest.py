"""A model whose log p(x), posterior and bounds are known, written as a stranger would write it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearGaussian:
    """z ~ N(0, I), x ~ N(W z + b, sigma^2 I), in float64; its programs are plain functions.

    Arguments:
        weight: W, (D, d).
        bias: b, (D,).
        sigma: standard deviation of the noise.
        x: data, (N, D).
    """

    weight: Tensor
    bias: Tensor
    sigma: float
    x: Tensor

    def log_evidence(self, x: Tensor) -> Tensor:
        """The log evidence of each row, (B,)."""
        covariance = self.weight @ self.weight.T + self.sigma**2 * torch.eye(len(self.bias)).double()
        return torch.distributions.MultivariateNormal(self.bias, covariance).log_prob(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, (B, d), and covariance, (d, d), of p(z | x)."""
        precision = torch.eye(self.weight.shape[1]).double() + self.weight.T @ self.weight / self.sigma**2
        covariance = precision.inverse()
        return (x - self.bias) @ self.weight @ covariance / self.sigma**2, covariance

    def elbo(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """The ELBO of each row under q = N(loc, diag(scale^2)), (B,), in closed form."""
        residual = x - self.bias - loc @ self.weight.T
        spread = (self.weight.square() * scale.square().unsqueeze(-2)).sum((-1, -2))
        d, big_d = self.weight.shape[1], self.weight.shape[0]
        log_likelihood = -(residual.square().sum(-1) + spread) / (2 * self.sigma**2) - big_d * (
            math.log(self.sigma) + math.log(2 * math.pi) / 2
        )
        kl = 0.5 * (loc.square() + scale.square() - 2 * scale.log()).sum(-1) - d / 2
        return log_likelihood - kl

    def model(self, x: Tensor, data_size: int | None = None) -> None:
        """p(x, z)."""
        with plate(len(x), data_size):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.weight.shape[1]).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T + self.bias, self.sigma).to_event(1), obs=x)

    def exact_guide(self, x: Tensor, data_size: int | None = None) -> None:
        """p(z | x)."""
        loc, covariance = self.posterior(x)
        with plate(len(x), data_size):
            pyro.sample("z", dist.MultivariateNormal(loc, covariance))

    def wide_guide(self, x: Tensor, data_size: int | None = None) -> None:
        """The prior as guide."""
        with plate(len(x), data_size):
            pyro.sample("z", dist.Normal(torch.zeros(self.weight.shape[1]).double(), 1.0).to_event(1))


def plate(num: int, data_size: int | None) -> pyro.plate:
    """A user's own data plate, subsampled if ``data_size`` is given."""
    if data_size is None:
        return pyro.plate("data", num)
    return pyro.plate("data", data_size, subsample=torch.arange(num))


@pytest.fixture
def exact() -> LinearGaussian:
    """Seven data of three features with two latents."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return LinearGaussian(weight=draw(3, 2), bias=draw(3), sigma=0.7, x=2 * draw(7, 3))


@pytest.fixture
def assert_mean() -> Callable[[Tensor, Tensor | float], None]:
    """Asserts that the means of independent estimates, along dimension 0, are within 5 standard errors of the truth."""

    def check(estimates: Tensor, truth: Tensor | float) -> None:
        error = estimates.std(dim=0) / math.sqrt(len(estimates))
        z = (estimates.mean(dim=0) - truth) / error.clamp(min=1e-12)
        assert z.abs().max() < 5, f"{float(z.abs().max())} standard errors off"

    return check
