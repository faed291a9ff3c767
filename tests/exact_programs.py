"""Small programs whose exact gradients are known, and the gradients that an objective estimates on them."""

import itertools
from functools import partial

import pyro
import pyro.distributions as dist
import torch

from pyro_dgm.infer import Relaxation

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

    def tables(self, x):
        """Log p(x, z) and log q(z | x) for every datum and each of the 8 states, (B, 8) both."""
        states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)  # (8, 3)
        a, rest, x = states[:, 0], states[:, 1:], x.unsqueeze(-1)
        log_p = dist.Bernoulli(logits=self.prior[0]).log_prob(a)
        log_p = log_p + dist.Bernoulli(logits=self.prior[1:] + a.unsqueeze(-1)).log_prob(rest).sum(-1)
        log_p = log_p + dist.Normal(self.weight[0] * a + rest @ self.weight[1:], 1.0).log_prob(x)
        log_q = dist.Bernoulli(logits=self.encoder[0, 0] + self.encoder[1, 0] * x).log_prob(a)
        seen = x.unsqueeze(-1) * self.encoder[1, 1:] + a.unsqueeze(-1) * self.encoder[2, 1:]
        return log_p, log_q + dist.Bernoulli(logits=self.encoder[0, 1:] + seen).log_prob(rest).sum(-1)


class OneHots(pyro.nn.PyroModule):
    """Two one-hot variables of three classes, then one of two given them, and a normal observation."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        self.prior, self.weight = torch.nn.Parameter(draw(3)), torch.nn.Parameter(draw(6))
        self.encoder = torch.nn.Parameter(0.5 * draw(8, 2))

    def _last_prior(self, flat):
        return flat @ self.weight.new_ones(6, 2).cumsum(1)

    def _pair_logits(self, x):
        return (self.encoder[:6, 0] + x.unsqueeze(-1) * self.encoder[:6, 1]).unflatten(-1, (2, 3))

    def _last_logits(self, x, flat):
        shift = (flat @ self.encoder[:6, 1]).unsqueeze(-1)
        return self.encoder[6:, 0] * x.unsqueeze(-1) + self.encoder[6:, 1] * shift

    def model(self, x):
        with pyro.plate("data", len(x)):
            pair = pyro.sample("pair", dist.OneHotCategorical(logits=self.prior.expand(2, 3)).to_event(1))
            flat = pair.flatten(-2)
            last = pyro.sample("last", dist.OneHotCategorical(logits=self._last_prior(flat)))
            pyro.sample("x", dist.Normal(flat @ self.weight + last[..., 0], 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pair = pyro.sample("pair", dist.OneHotCategorical(logits=self._pair_logits(x)).to_event(1))
            pyro.sample("last", dist.OneHotCategorical(logits=self._last_logits(x, pair.flatten(-2))))

    def tables(self, x):
        """Log p(x, z) and log q(z | x) for every datum and each of the 18 states, (B, 18) both."""
        classes, two = torch.eye(3, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
        states = [(torch.stack([one, other]), last) for one in classes for other in classes for last in two]
        pair, last = torch.stack([state[0] for state in states]), torch.stack([state[1] for state in states])
        flat, x = pair.flatten(-2), x.unsqueeze(-1)
        log_p = (pair * self.prior.log_softmax(-1)).sum((-1, -2))
        log_p = log_p + (last * self._last_prior(flat).log_softmax(-1)).sum(-1)
        log_p = log_p + dist.Normal(flat @ self.weight + last[..., 0], 1.0).log_prob(x)
        log_q = (pair * self._pair_logits(x).log_softmax(-1)).sum((-1, -2))
        return log_p, log_q + (last * self._last_logits(x.expand(-1, 18), flat).log_softmax(-1)).sum(-1)


class Integers(pyro.nn.PyroModule):
    """One of four classes per datum, an integer, and a normal observation of its weight."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        self.prior, self.weight = torch.nn.Parameter(draw(4)), torch.nn.Parameter(draw(4))
        self.encoder = torch.nn.Parameter(0.5 * draw(2, 4))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=self.prior))
            pyro.sample("x", dist.Normal(self.weight[z], 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=self.encoder[0] + self.encoder[1] * x.unsqueeze(-1)))

    def tables(self, x):
        """Log p(x, z) and log q(z | x) for every datum and each of the 4 states, (B, 4) both."""
        x = x.unsqueeze(-1)
        log_p = self.prior.log_softmax(-1) + dist.Normal(self.weight, 1.0).log_prob(x)
        return log_p, (self.encoder[0] + self.encoder[1] * x).log_softmax(-1)


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


def exact_bound(program, bound, num_particles=2):
    """The expectation of a bound, summed over the data, by enumeration of all draws of all particles."""
    log_p, log_q = program.tables(X)  # (B, S)
    draws = torch.tensor(list(itertools.product(range(log_p.shape[1]), repeat=num_particles)))  # (S^K, K)
    log_weights = (log_p - log_q)[:, draws].permute(2, 0, 1)  # (K, B, S^K)
    values = bound(log_weights.flatten(1)).unflatten(0, log_weights.shape[1:])
    return (log_q[:, draws].sum(-1).exp() * values).sum()


def sampled_bound_of_chain(program, bound, copies, num_particles=2):
    """The reparameterised bound of a chain written by hand, on noise of its own, averaged over copies of the data."""
    x = X.repeat(copies)
    noise = torch.randn(2, num_particles, len(x), 2, dtype=torch.float64)  # latent, particle, datum, feature
    loc = x.unsqueeze(-1) * program.encoder[0]
    z = loc + program.encoder[1].exp() * noise[0]
    w_loc = z * program.encoder[2] + loc
    w = w_loc + 0.9 * noise[1]
    log_p = dist.Normal(program.prior, 1.0).log_prob(z).sum(-1) + dist.Normal(z, 0.8).log_prob(w).sum(-1)
    log_p = log_p + dist.Normal(w @ program.weight, 1.0).log_prob(x)
    log_q = dist.Normal(loc, program.encoder[1].exp()).log_prob(z).sum(-1) + dist.Normal(w_loc, 0.9).log_prob(w).sum(-1)
    return bound(log_p - log_q).sum() / copies


class Surrogate(torch.nn.Module):
    """RELAX's free network, of the relaxed latents and the datum."""

    def __init__(self, units):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.hidden, self.out = torch.nn.Linear(units + 1, 8).double(), torch.nn.Linear(8, 1).double()
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)

    def forward(self, latents, x):
        x = x.expand(latents.shape[:-1]).unsqueeze(-1)
        return self.out(self.hidden(torch.cat([latents, x], dim=-1)).tanh())


def relaxation(units=3):
    """A relaxation whose control variate does something, in float64."""
    return Relaxation(0.7, Surrogate(units)).double()


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
