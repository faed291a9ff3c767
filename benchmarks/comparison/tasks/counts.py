"""A conjugate hierarchy that is not normal: gamma rates of Poisson counts."""

__all__ = ["GammaPoisson"]

from typing import final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.comparison.task import Facts, Posterior, Problem, Quality, Task
from benchmarks.comparison.tasks.minibatches import endless
from benchmarks.comparison.tasks.networks import LogCounts
from benchmarks.comparison.tasks.normal import constant
from pyro_dgm import datasets
from pyro_dgm.guides import amortize
from pyro_dgm.nn import MLP


@final
class GammaPoisson(Task):
    """Three counts for every datum, of one rate that is gamma; the guide is log-normal, and so nearly exact."""

    name = "gamma-poisson"
    title = "conjugate hierarchy, gamma-Poisson"
    family = "exact"

    shape, rate, counts = 2.0, 0.5, 3

    def data(self) -> Tensor:
        """Drawn from the model, once: 700 rows of counts, (700, 3)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            rates = dist.Gamma(self.shape, self.rate).sample((700, 1))
            return torch.poisson(rates.expand(700, self.counts))

    def evidence(self, x: Tensor) -> Tensor:
        """Log p(x) of every row, (B,): the integral over the rate is a ratio of gamma functions."""
        x = x.double()
        a, b = torch.tensor(self.shape).double(), torch.tensor(self.rate).double()
        total = x.sum(-1)
        return (a * b.log() - a.lgamma() + (a + total).lgamma() - (a + total) * (b + self.counts).log()) - x.add(
            1
        ).lgamma().sum(-1)

    def build(self, seed: int) -> Problem:
        """The posterior of a rate is Gamma(shape + sum of the counts, rate + 3)."""
        x = self.data()
        train, test = x[:500], x[500:]

        def model(x: Tensor | None = None, num: int | None = None) -> Tensor:
            rows = len(x) if x is not None else 1 if num is None else num
            with pyro.plate("data", rows):
                own = pyro.sample("rate", dist.Gamma(torch.full((rows,), self.shape), self.rate))
                each = own.unsqueeze(-1).expand(*own.shape, self.counts)
                found: Tensor = pyro.sample("x", dist.Poisson(each).to_event(1), obs=x)
                return found

        exact = dist.Gamma(self.shape + test.double().sum(-1, keepdim=True), self.rate + self.counts)
        evidence = self.evidence(test)
        return Problem(
            model=model,
            make_guide=lambda: amortize(model, LogCounts(MLP(self.counts, 16, (32,))), train[:2]),
            batches=endless(train, size=100, seed=seed),
            test=(test,),
            facts=Facts("gamma-poisson", len(test), datasets.content_digest(x)),
            latents="continuous",
            learning_rate=1e-2,
            num_data=len(train),
            log_evidence=constant(evidence),
            posterior=Posterior(("rate",), exact.mean, exact.variance.sqrt()),
            quality=Quality("bound", float(evidence.mean()) - 0.1),
        )
