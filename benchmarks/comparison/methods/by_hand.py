"""A VAE and a GAN in plain torch, as one would write them without any library."""

__all__ = ["BETAS", "BY_HAND", "CRITIC_RATE", "PLAYER_RATE", "why_no_vae"]

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from benchmarks.comparison.method import Learner, Method
from benchmarks.comparison.task import Problem
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

BETAS = (0.5, 0.99)
PLAYER_RATE, CRITIC_RATE = 1e-3, 2e-3


def why_no_vae(problem: Problem) -> str | None:
    """None, or why the problem is no VAE of bits with a standard normal prior and a diagonal normal guide."""
    if problem.make_guide is None:
        return "the problem has no guide"
    model, guide = problem.model, problem.make_guide()
    is_vae = isinstance(model, LatentVariableModel) and isinstance(guide, AmortizedGuide)
    if not is_vae or not isinstance(model.prior, StandardNormal) or not isinstance(model.likelihood, Bernoulli):
        return "the loss is written out for a VAE of bits with a standard normal prior"
    return None if isinstance(guide.sites.z, DiagonalNormal) else "the loss is written out for a diagonal guide"


@final
class VAEByHand(Method):
    """The problem's own encoder and decoder, with the loss of Kingma and Welling (2014) written out."""

    name, title, family = "torch-vae", "VAE by hand, KL in closed form (torch)", "torch"

    def supports(self, problem: Problem) -> str | None:
        """Only a VAE of bits."""
        return why_no_vae(problem)

    def start(self, problem: Problem, seed: int) -> Learner:
        """Adam on both networks."""
        return _VAE(problem)


class _VAE(Learner):
    def __init__(self, problem: Problem) -> None:
        assert problem.make_guide is not None
        self._programs = problem.model, problem.make_guide()
        self._decoder, self._encoder = problem.model.likelihood.net, self._programs[1].sites.z.net
        parameters = [*self._decoder.parameters(), *self._encoder.parameters()]
        self._adam = torch.optim.Adam(parameters, lr=problem.learning_rate)
        self._batches = problem.batches()

    def step(self) -> None:
        """The ELBO with the KL in closed form, summed over the batch."""
        x, *context = next(self._batches)
        self._adam.zero_grad()
        loc, log_scale = self._encoder(x, *context).chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        missed = binary_cross_entropy_with_logits(self._decoder(z, *context), x, reduction="sum")
        kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
        (missed + kl).backward()
        self._adam.step()

    @property
    def programs(self) -> tuple[nn.Module, nn.Module]:
        """The same networks in Pyro programs, to be evaluated as everyone's are."""
        return self._programs


@final
class GANByHand(Method):
    """The problem's own generator in the non-saturating game of Goodfellow et al. (2014), without any penalty."""

    name, title, family = "torch-gan", "GAN by hand (torch)", "torch"

    def supports(self, problem: Problem) -> str | None:
        """Only a generator without densities."""
        return None if problem.latents == "generator" else "it is for generators without densities"

    def start(self, problem: Problem, seed: int) -> Learner:
        """Adam for either player."""
        return _GAN(problem)


class _GAN(Learner):
    def __init__(self, problem: Problem) -> None:
        self._generator = problem.model.likelihood.net
        self._batches = problem.batches()
        features = problem.test[0].shape[1]
        self._critic = MLP(features, 1, (128, 128))
        self._latents = next(iter(self._generator.parameters())).shape[1]
        self._player = torch.optim.Adam(self._generator.parameters(), lr=PLAYER_RATE, betas=BETAS)
        self._other = torch.optim.Adam(self._critic.parameters(), lr=CRITIC_RATE, betas=BETAS)

    def step(self) -> None:
        """An update of the critic, then one of the generator."""
        (x,) = next(self._batches)
        self._other.zero_grad()
        with torch.no_grad():
            made = self._generator(torch.randn(len(x), self._latents))
        (softplus(-self._critic(x)).mean() + softplus(self._critic(made)).mean()).backward()
        self._other.step()
        self._player.zero_grad()
        softplus(-self._critic(self._generator(torch.randn(len(x), self._latents)))).mean().backward()
        self._player.step()

    def samples(self, num: int) -> Tensor | None:
        """Data of the generator as it is."""
        with torch.no_grad():
            found: Tensor = self._generator(torch.randn(num, self._latents))
            return found


BY_HAND: tuple[Method, ...] = (VAEByHand(), GANByHand())
