"""The tasks: a Pyro program and its guide, and the same loss written by hand on the same networks."""

__all__ = ["TASKS", "Batch", "Task", "make"]

import abc
import math
from typing import final

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO as PyroELBO
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus

from pyro_dgm.infer import ELBO, IWAE
from pyro_dgm.infer.programs import Program

SCALE = 0.1  # of an AutoNormal at the beginning
Batch = tuple[Tensor, ...]


class Task(nn.Module, abc.ABC):
    """Parameters, two programs that use them, and the loss by hand: minus the bound, summed over a batch, in nats."""

    title: str
    is_full_batch = False  # then every step has the same data

    @abc.abstractmethod
    def batch(self) -> Batch:
        """Draws data, the arguments of everything else."""

    @abc.abstractmethod
    def programs(self) -> tuple[Program, Program]:
        """Model and guide."""

    @abc.abstractmethod
    def loss(self, *batch: Tensor) -> Tensor:
        """The loss by hand, with the gradient that the objectives estimate."""

    def stock_objective(self) -> PyroELBO:
        """The objective for ``pyro.infer.SVI``: Pyro's where it has one."""
        return Trace_ELBO()

    def objective(self) -> PyroELBO:
        """The objective for this library's trainer."""
        return ELBO()


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
class BeliefNet(Task):
    """A layer of bits, by VIMCO; Pyro has no objective for it, so its trainer gets this library's."""

    title = "belief net 784-200, VIMCO K = 5, batch 24"
    num_data, particles = 24, 5

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

    def loss(self, x: Tensor) -> Tensor:
        logits = self.encoder(x)
        z = logits.sigmoid().detach().expand(self.particles, *logits.shape).bernoulli()
        log_q = log_bernoulli(z, logits).sum(-1)  # (K, B)
        log_w = log_bernoulli(z, self.top).sum(-1) + log_bernoulli(x, self.decoder(z)).sum(-1) - log_q
        score = vimco(log_w.detach()) * (log_q - log_q.detach())  # of value zero
        return -(iwae(log_w) + score.sum(0)).sum()

    def stock_objective(self) -> PyroELBO:
        return self.objective()

    def objective(self) -> PyroELBO:
        return IWAE(self.particles, gradient="loo")


@final
class HierarchicalVAE(Task):
    """Five layers of normal latents; the guide goes up, the model down."""

    title = "VAE of 5 layers of latents, small, batch 32"
    num_data, features, latents, layers = 32, 20, 4, 5

    def __init__(self) -> None:
        super().__init__()
        two = 2 * self.latents
        self.ups = nn.ModuleList(
            [dense(self.features if i == 0 else self.latents, 32, two) for i in range(self.layers)]
        )
        self.downs = nn.ModuleList(
            [dense(self.latents, 32, self.features if i == 0 else two) for i in range(self.layers)]
        )

    def batch(self) -> Batch:
        return (torch.full((self.num_data, self.features), 0.3).bernoulli(),)

    def programs(self) -> tuple[Program, Program]:
        return self.model, self.guide

    def model(self, x: Tensor) -> None:
        """p(z4) p(z3 | z4) ... p(x | z0)."""
        pyro.module("downs", self.downs)
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z{self.layers - 1}", dist.Normal(torch.zeros(self.latents), 1.0).to_event(1))
            for i in reversed(range(1, self.layers)):
                loc, log_scale = self.downs[i](z).chunk(2, -1)
                z = pyro.sample(f"z{i - 1}", dist.Normal(loc, log_scale.exp()).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.downs[0](z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z0 | x) q(z1 | z0) ..."""
        pyro.module("ups", self.ups)
        with pyro.plate("data", len(x)):
            below = x
            for i, up in enumerate(self.ups):
                loc, log_scale = up(below).chunk(2, -1)
                below = pyro.sample(f"z{i}", dist.Normal(loc, log_scale.exp()).to_event(1))

    def loss(self, x: Tensor) -> Tensor:
        log_q, draws = x.new_zeros(()), [x]
        for up in self.ups:
            loc, log_scale = up(draws[-1]).chunk(2, -1)
            draws.append(draw_normal(loc, log_scale.exp()))
            log_q = log_q + log_normal(draws[-1], loc, log_scale.exp()).sum()
        log_p = log_normal(draws[-1]).sum() + log_bernoulli(x, self.downs[0](draws[1])).sum()
        for i in range(1, self.layers):
            loc, log_scale = self.downs[i](draws[i + 1]).chunk(2, -1)
            log_p = log_p + log_normal(draws[i], loc, log_scale.exp()).sum()
        return log_q - log_p


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


TASKS: dict[str, type[Task]] = {
    "logistic": LogisticRegression,
    "vae-small": SmallVAE,
    "vae": ImageVAE,
    "sbn": BeliefNet,
    "iwae": ImportanceWeighted,
    "hvae": HierarchicalVAE,
    "conv": ConvolutionalVAE,
    "mixture": Mixture,
}


def make(name: str, num_batches: int) -> tuple[Task, list[Batch]]:
    """A task and its data, the same whenever it is made; torch's generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = TASKS[name]()
        num_drawn = 1 if task.is_full_batch else num_batches
        batches = [task.batch() for _ in range(num_drawn)]
        return task, batches * (num_batches // num_drawn)


def dense(*sizes: int) -> nn.Sequential:
    """Linear layers with tanh between them."""
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        layers += [nn.Linear(sizes[i], sizes[i + 1]), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def draw_normal(loc: Tensor, scale: Tensor, *particles: int) -> Tensor:
    """A reparameterised draw, with the noise that Pyro's would have."""
    return loc + scale * torch.randn((*particles, *loc.shape))


def log_normal(z: Tensor, loc: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Tensor:
    """Log-density, element by element."""
    log_scale = scale.log() if isinstance(scale, Tensor) else math.log(scale)
    return -0.5 * ((z - loc) / scale) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Log-probability, element by element."""
    logits, x = torch.broadcast_tensors(logits, x)
    return -binary_cross_entropy_with_logits(logits, x, reduction="none")


def iwae(log_weights: Tensor) -> Tensor:
    """The bound of each datum, (B,), of log-weights (K, B)."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def vimco(log_w: Tensor) -> Tensor:
    """The bound less the bound with a particle's log-weight replaced by the mean of the others', (K, B)."""
    num = len(log_w)
    others = (log_w.sum(0) - log_w) / (num - 1)
    replaced = torch.where(torch.eye(num, dtype=torch.bool).unsqueeze(-1), others, log_w)  # (K, K, B)
    return iwae(log_w) - (replaced.logsumexp(1) - math.log(num))


def _log_stick_breaking(stick: Tensor) -> tuple[Tensor, Tensor]:
    """Log-weights, one more than there are breaks, and the log-determinant of the map to the weights."""
    left = torch.arange(len(stick), 0, -1)  # pieces that are still to come
    x = stick - left.log()
    rest = torch.cat([x.new_zeros(1), logsigmoid(-x).cumsum(0)])  # log of what is left of the stick
    log_weights = rest + torch.cat([logsigmoid(x), x.new_zeros(1)])
    return log_weights, (log_weights[:-1] + logsigmoid(-x)).sum()


def _unsoftplus(value: Tensor) -> Tensor:
    return value.expm1().log()
