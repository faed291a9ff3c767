"""Tasks with discrete latents that can be summed over, so that log p(x) of the model is known as it learns."""

__all__ = ["BeliefNet", "Mixture", "enumerated_evidence"]

import itertools
from typing import final

import torch
from torch import Tensor

from benchmarks.comparison.task import Facts, Problem, Quality, Task
from benchmarks.comparison.tasks.minibatches import endless
from pyro_dgm import datasets
from pyro_dgm.distributions import Categorical
from pyro_dgm.guides import AmortizedGuide, SigmoidBeliefGuide
from pyro_dgm.models import GaussianMixture, SigmoidBeliefNet
from pyro_dgm.nn import MLP


def enumerated_evidence(model: SigmoidBeliefNet, x: Tensor) -> Tensor:
    """Log p(x) of a net with one layer of latents, by the sum over all of its 2^L states, in float64.

    Arguments:
        model: the net.
        x: data, (B, D).

    Returns:
        One value per datum, (B,).
    """
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=model.layers[0]))).to(x)  # (2^L, L)
    log_prior = model.prior().log_prob(states).double()
    log_likelihood = model.likelihood(states.unsqueeze(1)).log_prob(x).double()  # (2^L, B)
    return (log_prior.unsqueeze(1) + log_likelihood).logsumexp(0)


@final
class BeliefNet(Task):
    """A sigmoid belief net of eight bits, learned from draws of such a net."""

    name = "sbn"
    title = "sigmoid belief net, 8 bits, enumerable"
    family = "exact"
    reference = "pyro-tracegraph"

    features, bits = 16, 8

    def truth(self) -> SigmoidBeliefNet:
        """The net that the data are drawn from, always the same."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(11)
            net = SigmoidBeliefNet(self.features, (self.bits,))
            for weight in net.likelihood.parameters():
                weight.copy_(2.0 * torch.randn_like(weight))
        return net.requires_grad_(False)

    def data(self) -> Tensor:
        """1500 rows of bits, (1500, 16)."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(12)
            return self.truth()(num=1500)

    def build(self, seed: int) -> Problem:
        """A new net of the same size, and its recognition net."""
        x = self.data()
        train, test = x[:1000], x[1000:]
        model = SigmoidBeliefNet(self.features, (self.bits,), data_mean=train.mean(0))

        def evidence() -> Tensor:
            with torch.no_grad():
                return enumerated_evidence(model, test)

        return Problem(
            model=model,
            make_guide=lambda: SigmoidBeliefGuide(self.features, (self.bits,), data_mean=train.mean(0)),
            batches=endless(train, size=100, seed=seed),
            test=(test,),
            facts=Facts("sbn", len(test), datasets.content_digest(x)),
            latents="bits",
            learning_rate=1e-2,
            num_data=len(train),
            log_evidence=evidence,
            quality=Quality("bound", float(enumerated_evidence(self.truth(), test).mean()) - 0.25),
        )


@final
class Mixture(Task):
    """A mixture of Gaussians whose assignments are guessed by a network."""

    name = "mixture"
    title = "mixture of five Gaussians, enumerable"
    family = "exact"
    reference = "pyro-tracegraph"

    components = 5

    def truth(self) -> GaussianMixture:
        """The mixture that the data are drawn from."""
        net = GaussianMixture(self.components, 2, "spherical").requires_grad_(False)
        angles = torch.arange(self.components) * (2 * torch.pi / self.components)
        net.loc.copy_(3.0 * torch.stack([angles.cos(), angles.sin()], 1))
        net.log_scale.fill_(-0.7)
        return net

    def data(self) -> Tensor:
        """1500 points, (1500, 2)."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(13)
            return self.truth()(num=1500)

    def build(self, seed: int) -> Problem:
        """A new mixture, its components spread over the data by k-means++."""
        x = self.data()
        train, test = x[:1000], x[1000:]
        model = GaussianMixture(self.components, 2, "spherical")
        model.initialize(train)

        def evidence() -> Tensor:
            with torch.no_grad():
                return model.log_evidence(test).double()

        return Problem(
            model=model,
            make_guide=lambda: AmortizedGuide(z=Categorical(MLP(2, self.components, (32,)))),
            batches=endless(train, size=100, seed=seed),
            test=(test,),
            facts=Facts("mixture", len(test), datasets.content_digest(x)),
            latents="classes",
            learning_rate=1e-2,
            num_data=len(train),
            log_evidence=evidence,
            quality=Quality("bound", float(self.truth().log_evidence(test).mean()) - 0.1),
        )
