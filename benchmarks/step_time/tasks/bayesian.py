"""Posteriors over the parameters of small models, by Pyro's automatic guides."""

__all__ = ["SCALE", "LogisticRegression", "Mixture"]

import math
from typing import final

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO as PyroELBO
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from benchmarks.step_time.tasks.by_hand import draw_normal, log_bernoulli, log_normal
from benchmarks.step_time.tasks.task import Batch, Task
from pyro_dgm.infer.programs import Program

SCALE = 0.1  # of an AutoNormal at the beginning


@final
class LogisticRegression(Task):
    """Bayesian logistic regression under a normal guide of independent weights, on all data."""

    title = "logistic regression, AutoNormal, N = 500, 10 features"
    is_full_batch = True
    num_data, features = 500, 10

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.ParameterList([torch.zeros(self.features), torch.zeros(())])
        self.raw = nn.ParameterList([_unsoftplus(torch.full_like(loc, SCALE)) for loc in self.loc])

    def programs(self) -> tuple[Program, Program]:
        return self.model, AutoNormal(self.model, init_scale=SCALE)

    def batch(self) -> Batch:
        x = torch.randn(self.num_data, self.features)
        return x, (x @ torch.linspace(-1, 1, self.features)).sigmoid().bernoulli()

    def model(self, x: Tensor, y: Tensor) -> None:
        """p(w) p(b) p(y | x, w, b)."""
        w = pyro.sample("w", dist.Normal(torch.zeros(self.features), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(torch.tensor(0.0), 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        draws = [draw_normal(loc, softplus(raw)) for loc, raw in zip(self.loc, self.raw, strict=True)]
        log_q = sum(log_normal(z, m, softplus(r)).sum() for z, m, r in zip(draws, self.loc, self.raw, strict=True))
        w, b = draws
        return log_q - log_normal(w).sum() - log_normal(b, 0.0, 10.0) - log_bernoulli(y, x @ w + b).sum()


@final
class Mixture(Task):
    """A Gaussian mixture, whose assignments are summed over, under a normal guide of weights, means and scale."""

    title = "Gaussian mixture, TraceEnum_ELBO, K = 5, 2-D, N = 500"
    is_full_batch = True
    num_data, components = 500, 5

    def __init__(self) -> None:
        super().__init__()
        means = torch.randn(self.components, 2)
        self.loc = nn.ParameterList([torch.zeros(self.components - 1), means, torch.zeros(())])  # unconstrained
        self.raw = nn.ParameterList([_unsoftplus(torch.full_like(loc, SCALE)) for loc in self.loc])

    def programs(self) -> tuple[Program, Program]:
        return self.model, AutoNormal(
            poutine.block(self.model, hide=["z"]), init_loc_fn=init_to_value(values=self.start()), init_scale=SCALE
        )

    def start(self) -> dict[str, Tensor]:
        """Where the guide's medians are at the beginning."""
        weights = torch.full((self.components,), 1 / self.components)
        return {"weights": weights, "means": self.loc[1].detach().clone(), "scale": torch.tensor(1.0)}

    def batch(self) -> Batch:
        return (torch.randn(self.num_data, 2) + 3 * torch.randint(3, (self.num_data, 1)),)

    @config_enumerate
    def model(self, x: Tensor) -> None:
        """p(weights) p(means) p(scale) p(z | weights) p(x | z, means, scale)."""
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(self.components)))
        means = pyro.sample("means", dist.Normal(torch.zeros(self.components, 2), 10.0).to_event(2))
        scale = pyro.sample("scale", dist.LogNormal(torch.tensor(0.0), 2.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(means[z], scale).to_event(1), obs=x)

    def loss(self, x: Tensor) -> Tensor:
        draws = [draw_normal(loc, softplus(raw)) for loc, raw in zip(self.loc, self.raw, strict=True)]
        log_q = sum(log_normal(z, m, softplus(r)).sum() for z, m, r in zip(draws, self.loc, self.raw, strict=True))
        stick, means, log_scale = draws
        log_weights, log_det = _log_stick_breaking(stick)
        log_prior = math.lgamma(self.components) + log_det  # Dirichlet(1), and what turns its density to the stick's
        log_prior = log_prior + log_normal(means, 0.0, 10.0).sum() + log_normal(log_scale, 0.0, 2.0)
        log_x = log_normal(x.unsqueeze(1), means, log_scale.exp()).sum(-1)  # (N, components)
        return log_q - log_prior - (log_weights + log_x).logsumexp(-1).sum()

    def stock_objective(self) -> PyroELBO:
        return TraceEnum_ELBO(max_plate_nesting=1)

    def objective(self) -> PyroELBO:
        return self.stock_objective()


def _log_stick_breaking(stick: Tensor) -> tuple[Tensor, Tensor]:
    """Log-weights, one more than there are breaks, and the log-determinant of the map to the weights."""
    left = torch.arange(len(stick), 0, -1)  # pieces that are still to come
    x = stick - left.log()
    rest = torch.cat([x.new_zeros(1), logsigmoid(-x).cumsum(0)])  # log of what is left of the stick
    log_weights = rest + torch.cat([logsigmoid(x), x.new_zeros(1)])
    return log_weights, (log_weights[:-1] + logsigmoid(-x)).sum()


def _unsoftplus(value: Tensor) -> Tensor:
    return value.expm1().log()
