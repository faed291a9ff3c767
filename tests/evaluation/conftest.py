"""Programs whose log p(x) and ELBO are known, written as a stranger would write them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_dgm.datasets import PPCAData, ppca


@dataclass(frozen=True)
class LinearGaussian:
    """The pPCA model of ``data`` in float64; the plate of its data is not called ``data``."""

    data: PPCAData

    @cached_property
    def weight(self) -> Tensor:
        return self.data.weight.double()

    @cached_property
    def x(self) -> Tensor:
        return self.data.dataset.test.x.double()

    def truth(self, x: Tensor) -> Tensor:
        """The log evidence of each row, (B,)."""
        return self.data.log_evidence(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, (B, L), and covariance, (L, L), of p(z | x)."""
        variance = self.data.noise_sd**2
        precision = torch.eye(self.weight.shape[1]).double() + self.weight.T @ self.weight / variance
        covariance = precision.inverse()
        return (x - self.data.loc) @ self.weight @ covariance / variance, covariance

    def kl(self, x: Tensor, scale: float) -> Tensor:
        """KL from ``guide(scale)`` to the prior, (B,)."""
        loc, covariance = self.posterior(x)
        q = dist.MultivariateNormal(loc, scale**2 * covariance)
        prior = dist.MultivariateNormal(torch.zeros_like(loc), torch.eye(loc.shape[1]).double())
        return torch.distributions.kl_divergence(q, prior)

    def elbo(self, x: Tensor, scale: float) -> Tensor:
        """The ELBO under ``guide(scale)``: log p(x) minus KL(q, posterior), which is the same for all data, (B,)."""
        features = self.weight.shape[1]
        return self.truth(x) - 0.5 * features * (scale**2 - 1 - 2 * math.log(scale))

    def model(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.weight.shape[1]).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T + self.data.loc, self.data.noise_sd).to_event(1), obs=x)

    def guide(self, scale: float = 1.0) -> Callable[[Tensor], None]:
        """The exact posterior with its standard deviations times ``scale``."""

        def guide(x: Tensor) -> None:
            loc, covariance = self.posterior(x)
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.MultivariateNormal(loc, scale**2 * covariance))

        return guide


@pytest.fixture
def linear() -> LinearGaussian:
    """Twelve data of four features with two latents."""
    return LinearGaussian(ppca(features=4, latent_features=2, noise_sd=0.8, num_train=1, num_valid=1, num_test=12))


@pytest.fixture
def scalar_programs() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A model z ~ N(0, 1), x ~ N(z, 1) and its exact posterior; both take x and what shifts it."""

    def model(x: Tensor, shift: Tensor | float = 0.0) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)

    def guide(x: Tensor, shift: Tensor | float = 0.0) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - shift) / 2, math.sqrt(0.5)))

    return model, guide
