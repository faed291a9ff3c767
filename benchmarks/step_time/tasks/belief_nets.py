"""A layer of bits, by two estimators of the gradient."""

__all__ = ["BeliefNet", "ByScore", "ByVIMCO"]

from typing import final

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO as PyroELBO
from torch import Tensor, nn

from benchmarks.step_time.tasks.by_hand import dense, iwae, log_bernoulli, vimco
from benchmarks.step_time.tasks.task import Batch, Task
from pyro_dgm.infer import ELBO, IWAE
from pyro_dgm.infer.programs import Program


class BeliefNet(Task):
    """A layer of bits above binary data."""

    num_data = 24

    def __init__(self) -> None:
        super().__init__()
        self.top, self.decoder, self.encoder = nn.Parameter(torch.zeros(200)), dense(200, 784), dense(784, 200)

    def batch(self) -> Batch:
        return (torch.full((self.num_data, 784), 0.3).bernoulli(),)

    def programs(self) -> tuple[Program, Program]:
        return self.model, self.guide

    def model(self, x: Tensor) -> None:
        """p(z) p(x | z)."""
        top = pyro.param("top", self.top)
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=top).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x)."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1))

    def log_weights(self, x: Tensor, *particles: int) -> tuple[Tensor, Tensor]:
        """Log-weights and log q of one draw, (B,), or of K, (K, B), by hand."""
        logits = self.encoder(x)
        z = logits.sigmoid().detach().expand(*particles, *logits.shape).bernoulli()
        log_q = log_bernoulli(z, logits).sum(-1)
        log_p = log_bernoulli(z, self.top).sum(-1) + log_bernoulli(x, self.decoder(z)).sum(-1)
        return log_p - log_q, log_q


@final
class ByScore(BeliefNet):
    """The ELBO of one particle, by the score function without a baseline."""

    title = "belief net 784-200, score function, batch 24"

    def loss(self, x: Tensor) -> Tensor:
        log_w, log_q = self.log_weights(x)
        log_p = log_w + log_q  # the gradient of the rest has mean zero, and nobody takes it
        return -(log_p - log_q.detach() + log_w.detach() * (log_q - log_q.detach())).sum()

    def objective(self) -> PyroELBO:
        return ELBO(gradient="score")


@final
class ByVIMCO(BeliefNet):
    """The importance-weighted bound by VIMCO; Pyro has no objective for it, so its trainer gets this library's."""

    title = "belief net 784-200, VIMCO K = 5, batch 24"
    particles = 5

    def loss(self, x: Tensor) -> Tensor:
        log_w, log_q = self.log_weights(x, self.particles)
        score = vimco(log_w.detach()) * (log_q - log_q.detach())  # of value zero
        return -(iwae(log_w) + score.sum(0)).sum()

    def stock_objective(self) -> PyroELBO:
        return self.objective()

    def objective(self) -> PyroELBO:
        return IWAE(self.particles, gradient="loo")
