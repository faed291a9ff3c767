"""Inference without densities on models whose answers are known: every adversarial method against a closed form.

All models are linear and normal, in float64, and critics quadratic, which is the form of their exact log-ratios; both
learning rates fall to nothing. Each test says its seed, steps and tolerance.
"""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyro_dgm.adversarial import (
    R1,
    R2,
    AdversarialTrainer,
    Contrast,
    Critic,
    DonskerVaradhan,
    Logistic,
    NWJ,
    ReverseKL,
    Steps,
)
from pyro_dgm.distributions import Implicit
from pyro_dgm.infer import DATA, KL, NLL, P, Q, RatioLikelihood, log_weights

REAL = torch.float64


class Quadratic(nn.Module):
    """A critic's network: linear in the entries of all its inputs, their squares and products. It starts at zero."""

    def __init__(self, features):
        super().__init__()
        self.rows, self.columns = torch.triu_indices(features, features)
        self.linear = nn.Linear(features + len(self.rows), 1, dtype=REAL)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, *inputs):
        value = torch.cat(inputs, -1)
        return self.linear(torch.cat([value, value[:, self.rows] * value[:, self.columns]], -1))


class Numbers(nn.Module):
    """Learned numbers by name, and what may be made of them."""

    def __init__(self, **start):
        super().__init__()
        for name, value in start.items():
            setattr(self, name, nn.Parameter(torch.as_tensor(value, dtype=REAL)))

    def of(self, *names):
        return [getattr(self, name).detach() for name in names]


def adam(lr):
    return functools.partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.99))


def fit(trainer, batch, steps, *args):
    """So many steps, on a batch or on what a function of the step gives, learning rates falling to nothing."""
    starts = [(group, group["lr"]) for group in groups(trainer)]
    for step in range(steps):
        for group, lr in starts:
            group["lr"] = lr * (1 - step / steps)
        trainer.step(batch(step) if callable(batch) else batch, *args)
    return trainer


def groups(trainer):
    optimizers = [trainer.critic_optimizer] + ([trainer.optimizer] if trainer.schedule.player else [])
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def quantiles(num, loc=0.0, sd=1.0):
    """A normal sample without noise: as many quantiles, scaled to have exactly these moments."""
    x = dist.Normal(0.0, 1.0).icdf((torch.arange(num, dtype=REAL) + 0.5) / num)
    return loc + sd * x / x.square().mean().sqrt()


# Adversarial variational Bayes


class Conjugate(Numbers):
    """z ~ N(0, 1), x | z ~ N(z, 1); the guide is z = a x + b noise, without a density."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Implicit(self.a * x + self.b * torch.randn_like(x), 0))


def test_adversarial_variational_bayes_finds_the_posterior():
    """Posterior N(x / 2, 1 / 2). Seed 0, 800 steps, 500 data; a, b^2 and the ratio estimate within 0.03.

    The evidence of a batch is that of N(0, 2). The ratio estimate comes close to it, from either side: it is no bound.
    """
    programs = Conjugate(a=0.0, b=1.0)
    x = quantiles(500, sd=math.sqrt(2))
    critic = Critic(Quadratic(2))
    contrast = Contrast(["x", "z"], P.observed(), Q, critic, objective=ReverseKL())
    terms = NLL("x", of="model", at=Q, through_draws=True) + contrast
    trainer = AdversarialTrainer(programs.model, terms, adam(0.02), adam(0.03), programs.guide, schedule=Steps(2))
    fit(trainer, x, 800)
    a, b = programs.of("a", "b")
    print("AVB", a, b**2)
    assert a == pytest.approx(0.5, abs=0.03)
    assert b**2 == pytest.approx(0.5, abs=0.03)
    evidence = dist.Normal(0.0, math.sqrt(2)).log_prob(x).mean()
    big = x.repeat(40)
    estimate = -trainer.evaluate_loss(big)["loss"]
    print(estimate, evidence)
    assert estimate == pytest.approx(float(evidence), abs=0.03)
