"""Small programs whose exact gradients are known, and the gradients that an objective estimates on them."""

import itertools
from functools import partial

import pyro
import pyro.distributions as dist
import torch

X = torch.tensor([0.7, -1.2], dtype=torch.float64)
PARAMETERS = ("prior", "weight", "encoder")


class Bits(pyro.nn.PyroModule):
    """Three bits per datum, the last two drawn after the first, and a normal observation of them."""

    def __init__(self, gradient=None):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        self.prior = torch.nn.Parameter(draw(3))
        self.weight = torch.nn.Parameter(draw(3))
        self.encoder = torch.nn.Parameter(0.5 * draw(3, 3))
        self.infer = {} if gradient is None else {"pyro_dgm": {"gradient": gradient}}

    def model(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=self.prior[0]))
            rest = pyro.sample("rest", dist.Bernoulli(logits=self.prior[1:] + a.unsqueeze(-1)).to_event(1))
            loc = self.weight[0] * a + rest @ self.weight[1:]
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=self.encoder[0, 0] + self.encoder[1, 0] * x), infer=self.infer)
            seen = x.unsqueeze(-1) * self.encoder[1, 1:] + a.unsqueeze(-1) * self.encoder[2, 1:]
            pyro.sample("rest", dist.Bernoulli(logits=self.encoder[0, 1:] + seen).to_event(1), infer=self.infer)


def exact_bound_of_bits(program, bound, num_particles=2):
    """The expectation of a bound, summed over the data, by enumeration of all draws of all particles."""
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)  # (8, 3)
    a, rest, x = states[:, 0], states[:, 1:], X.unsqueeze(-1)  # x against states: (B, 8)
    log_p = dist.Bernoulli(logits=program.prior[0]).log_prob(a)
    log_p = log_p + dist.Bernoulli(logits=program.prior[1:] + a.unsqueeze(-1)).log_prob(rest).sum(-1)
    log_p = log_p + dist.Normal(program.weight[0] * a + rest @ program.weight[1:], 1.0).log_prob(x)
    log_q = dist.Bernoulli(logits=program.encoder[0, 0] + program.encoder[1, 0] * x).log_prob(a)
    seen = x.unsqueeze(-1) * program.encoder[1, 1:] + a.unsqueeze(-1) * program.encoder[2, 1:]
    log_q = log_q + dist.Bernoulli(logits=program.encoder[0, 1:] + seen).log_prob(rest).sum(-1)  # (B, 8)
    total = torch.zeros((), dtype=torch.float64)
    for draws in itertools.product(range(8), repeat=num_particles):
        chosen = list(draws)
        probability = log_q[:, chosen].sum(-1).exp()
        total = total + (probability * bound((log_p - log_q)[:, chosen].T)).sum()
    return total


class Chain(pyro.nn.PyroModule):
    """Two normal latents per datum, the second drawn given the first in model and guide, both of two features."""

    def __init__(self, gradient=None):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        self.prior = torch.nn.Parameter(0.3 * draw(2))
        self.weight = torch.nn.Parameter(0.5 * draw(2))
        self.encoder = torch.nn.Parameter(0.3 * draw(3, 2))
        self.infer = {} if gradient is None else {"pyro_dgm": {"gradient": gradient}}

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.prior, 1.0).to_event(1))
            w = pyro.sample("w", dist.Normal(z, 0.8).to_event(1))
            pyro.sample("x", dist.Normal(w @ self.weight, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc = x.unsqueeze(-1) * self.encoder[0]
            z = pyro.sample("z", dist.Normal(loc, self.encoder[1].exp()).to_event(1), infer=self.infer)
            pyro.sample("w", dist.Normal(z * self.encoder[2] + loc, 0.9).to_event(1), infer=self.infer)


def estimates(program, objective, repeats, copies=1):
    """Gradients of many independent steps, (repeats, parameters); ``copies`` of the data make a step cheap."""
    x = X.repeat(copies)
    rows = []
    for _ in range(repeats):
        program.zero_grad()
        objective.loss_and_grads(program.model, program.guide, x)
        found = [getattr(program, name) for name in PARAMETERS]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in found]
        rows.append(torch.cat([-grad.flatten() / copies for grad in grads]))
    return torch.stack(rows)


def exact_gradient(value, program):
    grads = torch.autograd.grad(value, [getattr(program, name) for name in PARAMETERS])
    return torch.cat([grad.flatten() for grad in grads])
