"""Autoencoders of one layer of normal latents and binary data."""

__all__ = ["Autoencoder", "ConvolutionalVAE", "FlowVAE", "ImageVAE", "ImportanceWeighted", "SmallVAE"]

from typing import final

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineAutoregressive
from pyro.infer import ELBO as PyroELBO
from pyro.infer import RenyiELBO
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn
from torch.nn.functional import linear

from benchmarks.step_time.tasks.by_hand import dense, draw_normal, iwae, log_bernoulli, log_normal
from benchmarks.step_time.tasks.task import Batch, Task
from pyro_dgm.infer import IWAE
from pyro_dgm.infer.programs import Program


class Autoencoder(Task):
    """A VAE of normal latents and binary data, whose decoder gives logits and whose encoder location and log-scale."""

    num_data: int
    shape: tuple[int, ...]
    latents: int
    decoder: nn.Module
    encoder: nn.Module

    def batch(self) -> Batch:
        return (torch.full((self.num_data, *self.shape), 0.3).bernoulli(),)

    def programs(self) -> tuple[Program, Program]:
        return self.model, self.guide

    def model(self, x: Tensor) -> None:
        """p(z) p(x | z)."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latents), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(len(self.shape)), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x)."""
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def log_weights(self, x: Tensor, *particles: int) -> Tensor:
        """Log-weights of one draw, (B,), or of K, (K, B), by hand."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        z = draw_normal(loc, log_scale.exp(), *particles)
        log_p = log_normal(z).sum(-1) + log_bernoulli(x, self.decoder(z)).flatten(z.dim() - 1).sum(-1)
        return log_p - log_normal(z, loc, log_scale.exp()).sum(-1)

    def loss(self, x: Tensor) -> Tensor:
        return -self.log_weights(x).sum()


@final
class SmallVAE(Autoencoder):
    """Where the programs' overhead is nearly everything."""

    title = "VAE 20-32-5, batch 16"
    num_data, shape, latents = 16, (20,), 5

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = dense(5, 32, 20), dense(20, 32, 10)


@final
class ImageVAE(Autoencoder):
    """Pyro's tutorial in size."""

    title = "VAE 784-400-20, batch 128"
    num_data, shape, latents = 128, (784,), 20

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = dense(20, 400, 784), dense(784, 400, 40)


@final
class ConvolutionalVAE(Autoencoder):
    """Two strided convolutions, and their transposes."""

    title = "convolutional VAE 28x28, batch 32"
    num_data, shape, latents = 32, (1, 28, 28), 20

    def __init__(self) -> None:
        super().__init__()
        down = nn.Conv2d(1, 16, 4, 2, 1), nn.Conv2d(16, 32, 4, 2, 1)
        up = nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ConvTranspose2d(16, 1, 4, 2, 1)
        wide = 32 * 7 * 7
        self.encoder = nn.Sequential(down[0], nn.ReLU(), down[1], nn.ReLU(), nn.Flatten(), nn.Linear(wide, 40))
        self.decoder = nn.Sequential(
            nn.Linear(20, wide), nn.ReLU(), nn.Unflatten(-1, (32, 7, 7)), up[0], nn.ReLU(), up[1]
        )


@final
class ImportanceWeighted(Autoencoder):
    """The IWAE of fifty particles."""

    title = "IWAE 784-200-50, K = 50, batch 20"
    num_data, shape, latents, particles = 20, (784,), 50, 50

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = dense(50, 200, 784), dense(784, 200, 100)

    def loss(self, x: Tensor) -> Tensor:
        return -iwae(self.log_weights(x, self.particles)).sum()

    def stock_objective(self) -> PyroELBO:
        return RenyiELBO(0.0, num_particles=self.particles, vectorize_particles=True, max_plate_nesting=1)

    def objective(self) -> PyroELBO:
        return IWAE(self.particles)


@final
class FlowVAE(Autoencoder):
    """A VAE whose guide is an inverse autoregressive flow of two steps."""

    title = "VAE 784-200-20, guide of 2 IAF steps, batch 32"
    num_data, shape, latents = 32, (784,), 20

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = dense(20, 200, 784), dense(784, 200, 40)
        forward = torch.arange(self.latents)
        nets = [AutoRegressiveNN(self.latents, [100], permutation=order) for order in (forward, forward.flip(0))]
        self.flow = nn.ModuleList([AffineAutoregressive(net) for net in nets])

    def guide(self, x: Tensor) -> None:
        """q(z | x), the first draw moved twice."""
        pyro.module("encoder", self.encoder)
        pyro.module("flow", self.flow)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            first = dist.Normal(loc, log_scale.exp()).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(first, list(self.flow)))

    def loss(self, x: Tensor) -> Tensor:
        loc, log_scale = self.encoder(x).chunk(2, -1)
        z = draw_normal(loc, log_scale.exp())
        log_q = log_normal(z, loc, log_scale.exp()).sum()
        for step in self.flow:
            below, above = step.arn.layers
            hidden = linear(z, below.weight * below.mask, below.bias).relu()
            shift, log_scale = linear(hidden, above.weight * above.mask, above.bias).chunk(2, -1)
            log_scale = log_scale + (log_scale.clamp(-5, 3) - log_scale).detach()  # as Pyro's, which keeps the gradient
            z = shift + log_scale.exp() * z
            log_q = log_q - log_scale.sum()
        return log_q - log_normal(z).sum() - log_bernoulli(x, self.decoder(z)).sum()
