"""Tasks in which everything is normal, so that evidence and posterior are known in closed form."""

__all__ = ["PPCA", "Hierarchy", "StateSpace", "condition"]

import itertools
import math
from collections.abc import Callable
from typing import final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.comparison.task import Facts, Posterior, Problem, Quality, Task
from benchmarks.comparison.tasks.minibatches import endless, same
from benchmarks.comparison.tasks.networks import Constant
from pyro_dgm import datasets
from pyro_dgm.distributions import FullNormal, Normal
from pyro_dgm.guides import AmortizedGuide, StructuredGuide, amortize
from pyro_dgm.models import LinearGaussian
from pyro_dgm.nn import MLP


def condition(
    covariance: Tensor, mixing: Tensor, noise_sd: float, x: Tensor, loc: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The posterior and evidence of :math:`h \sim N(\mu, S), \; x | h \sim N(A h, \sigma^2 I)`, in float64.

    Arguments:
        covariance: S, (d, d).
        mixing: A, (D, d).
        noise_sd: sigma.
        x: data, (B, D).
        loc: mu, (d,); 0 when None.

    Returns:
        The posterior's means, (B, d), its covariance, (d, d), and log p(x), (B,).
    """
    covariance, mixing, x = covariance.double(), mixing.double(), x.double()
    loc = torch.zeros(len(covariance)).double() if loc is None else loc.double()
    of_x = mixing @ covariance @ mixing.T + noise_sd**2 * torch.eye(len(mixing)).double()
    gain = torch.linalg.solve(of_x, mixing @ covariance).T  # (d, D)
    evidence = dist.MultivariateNormal(mixing @ loc, of_x).log_prob(x)
    return loc + (x - mixing @ loc) @ gain.T, covariance - gain @ mixing @ covariance, evidence


def exact_posterior(sites: tuple[str, ...], mean: Tensor, covariance: Tensor, num_draws: int = 0) -> Posterior:
    """A normal posterior whose covariance all data share; draws are those of the first datum."""
    draws = None
    if num_draws:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(num_draws, mean.shape[1], generator=generator).double()
        draws = mean[0] + noise @ torch.linalg.cholesky(covariance).T
    sd = covariance.diagonal().sqrt().expand_as(mean)
    return Posterior(sites, mean, sd, covariance=covariance.expand(len(mean), -1, -1), draws=draws)


def constant(values: Tensor) -> Callable[[], Tensor]:
    """The evidence under a model that does not change."""
    return lambda: values


@final
class PPCA(Task):
    """Probabilistic principal components with the parameters that made the data: a guide alone is to be found."""

    name = "ppca"
    title = "linear-Gaussian (pPCA), exact"
    family = "exact"

    def build(self, seed: int) -> Problem:
        """A guide that reads the data by an affine map, and so can be exact."""
        made = datasets.ppca()
        features, latents = made.weight.shape
        model = LinearGaussian(latents, features).requires_grad_(False)
        model.weight.copy_(made.weight)
        model.loc.copy_(made.loc)
        model.log_scale.fill_(math.log(made.noise_sd))
        x = made.dataset.test.x
        mean, covariance, evidence = condition(torch.eye(latents), made.weight, made.noise_sd, x - made.loc)
        return Problem(
            model=model,
            make_guide=lambda: AmortizedGuide(z=FullNormal(MLP(features, FullNormal.num_parameters(latents), ()))),
            batches=endless(made.dataset.train.x, size=100, seed=seed),
            test=(x,),
            facts=Facts("ppca", len(x), made.dataset.digest),
            latents="continuous",
            learning_rate=1e-2,
            num_data=len(made.dataset.train.x),
            log_evidence=constant(evidence),
            posterior=exact_posterior(("z",), mean, covariance),
            quality=Quality("bound", float(evidence.mean()) - 0.1),
        )


@final
class Hierarchy(Task):
    """Eight groups of five observations, their means around a common one: all normal with known variances."""

    name = "hierarchy"
    title = "conjugate hierarchy, normal"
    family = "exact"
    reference = "pyro-autonormal"

    groups, members = 8, 5
    common_sd, group_sd, noise_sd = 2.0, 1.0, 1.0

    def data(self) -> Tensor:
        """Drawn from the model, once, (1, 8, 5)."""
        generator = torch.Generator().manual_seed(7)
        means = 1.0 + self.group_sd * torch.randn(self.groups, 1, generator=generator)
        noise = torch.randn(self.groups, self.members, generator=generator)
        return (means + self.noise_sd * noise).unsqueeze(0)

    def build(self, seed: int) -> Problem:
        """One datum, the whole data set; the guide is normal with a full covariance, and so can be exact."""
        y = self.data()

        def model(y: Tensor | None = None) -> None:
            with pyro.plate("data", 1):
                mu = pyro.sample("mu", dist.Normal(torch.zeros(1), self.common_sd))
                own = mu.unsqueeze(-1).expand(*mu.shape, self.groups)
                theta = pyro.sample("theta", dist.Normal(own, self.group_sd).to_event(1))
                each = theta.unsqueeze(-1).expand(*theta.shape, self.members)
                pyro.sample("y", dist.Normal(each, self.noise_sd).to_event(2), obs=y)

        covariance = self.common_sd**2 * torch.ones(self.groups + 1, self.groups + 1)
        covariance[1:, 1:] += self.group_sd**2 * torch.eye(self.groups)
        mixing = torch.eye(self.groups + 1)[1:].repeat_interleave(self.members, dim=0)
        mean, covariance, evidence = condition(covariance, mixing, self.noise_sd, y.flatten(1))
        return Problem(
            model=model,
            make_guide=lambda: amortize(model, Constant(), y, family="full"),
            batches=same(y),
            test=(y,),
            facts=Facts("hierarchy", 1, datasets.content_digest(y), split="all"),
            latents="continuous",
            learning_rate=1e-2,
            is_whole=True,
            log_evidence=constant(evidence),
            posterior=exact_posterior(("mu", "theta"), mean, covariance, num_draws=1000),
            quality=Quality("mean_error", 0.1, "lower"),
        )


@final
class StateSpace(Task):
    """Short sequences of a hidden walk that is pulled towards 0, seen through noise; the parameters are known."""

    name = "state-space"
    title = "linear-Gaussian state space"
    family = "exact"

    steps, pull, walk_sd, noise_sd = 10, 0.9, 0.5, 0.5

    def covariance(self) -> Tensor:
        """Of the hidden states, (T, T); the first has the standard deviation 1."""
        paths = torch.linalg.inv(torch.eye(self.steps) - self.pull * torch.diag(torch.ones(self.steps - 1), -1))
        scales = torch.full((self.steps,), self.walk_sd)
        scales[0] = 1.0
        return (paths * scales.square()) @ paths.T

    def data(self) -> Tensor:
        """Drawn from the model, once: 700 sequences, (700, T)."""
        generator = torch.Generator().manual_seed(3)
        states = torch.randn(700, self.steps, generator=generator) @ torch.linalg.cholesky(self.covariance()).T
        return states + self.noise_sd * torch.randn(700, self.steps, generator=generator)

    def guide(self, sites: tuple[str, ...]) -> StructuredGuide:
        """Every state by an affine map of the whole sequence and the state before, and a learned deviation."""
        parents = {name: [before] for before, name in itertools.pairwise(sites)}
        numbers = [self.steps + (1 if name in parents else 0) for name in sites]
        nets = [MLP(number, 1, ()) for number in numbers]
        conditionals = {name: Normal(net, scale="learned") for name, net in zip(sites, nets, strict=True)}
        return StructuredGuide(conditionals, parents)

    def build(self, seed: int) -> Problem:
        """The guide's form is that of the posterior, and so it can be exact."""
        x = self.data()
        train, test = x[:500], x[500:]

        def model(x: Tensor | None = None, num: int | None = None) -> Tensor:
            rows = len(x) if x is not None else 1 if num is None else num
            with pyro.plate("data", rows):
                state = pyro.sample("z1", dist.Normal(torch.zeros(rows, 1), 1.0).to_event(1))
                states = [state]
                for step in range(2, self.steps + 1):
                    state = pyro.sample(f"z{step}", dist.Normal(self.pull * state, self.walk_sd).to_event(1))
                    states.append(state)
                path = torch.cat(torch.broadcast_tensors(*states), -1)
                found: Tensor = pyro.sample("x", dist.Normal(path, self.noise_sd).to_event(1), obs=x)
                return found

        mean, covariance, evidence = condition(self.covariance(), torch.eye(self.steps), self.noise_sd, test)
        sites = tuple(f"z{step}" for step in range(1, self.steps + 1))
        return Problem(
            model=model,
            make_guide=lambda: self.guide(sites),
            batches=endless(train, size=50, seed=seed),
            test=(test,),
            facts=Facts("state-space", len(test), datasets.content_digest(x)),
            latents="continuous",
            learning_rate=1e-2,
            num_data=len(train),
            log_evidence=constant(evidence),
            posterior=exact_posterior(sites, mean, covariance),
            quality=Quality("bound", float(evidence.mean()) - 0.2),
            num_particles=500,
        )
