"""Stochastic-gradient Hamiltonian Monte Carlo: its stationary law in closed form, its state, and what it refuses."""

import copy
import functools

import pyro
import pytest
import torch
from torch import nn

from contracts import refuses
from pyro_dgm.adversarial import SGHMC, AdversarialTrainer, Contrast, Critic, Steps
from pyro_dgm.distributions import Implicit
from pyro_dgm.infer import DATA, P

CHAINS, BURN_IN, KEPT = 4000, 300, 40


def variance_of(lr, friction, curvature, num_data):
    """The stationary variance of the recursion on a quadratic loss, from its equations for the second moments."""
    return 1 / (num_data * curvature) / (1 - lr * curvature / (4 - 2 * friction))


@pytest.mark.parametrize(("lr", "friction"), [(0.05, 0.1), (0.5, 0.3), (0.05, 1.0)])
@pytest.mark.parametrize("prior_sd", [None, 0.2])
def test_draws_have_the_moments_of_a_normal_target(lr, friction, prior_sd):
    """4000 independent chains, seed 0, each averaged over 40 draws; tolerance 4 standard errors over the chains.

    The loss per datum is 2 (theta - 1)^2 for N = 25 data; the errors between chains count no draw twice, however
    correlated the draws of one chain are.
    """
    theta = torch.zeros(CHAINS, dtype=torch.float64, requires_grad=True)
    num_data, own_curvature = 25, 4.0
    sampler = SGHMC([theta], lr, friction, num_data=num_data, prior_sd=prior_sd)
    curvature = own_curvature + (0 if prior_sd is None else 1 / (num_data * prior_sd**2))
    mean = own_curvature / curvature
    kept = []
    for step in range(BURN_IN + 5 * KEPT):
        theta.grad = own_curvature * (theta.detach() - 1)
        sampler.step()
        if step >= BURN_IN and step % 5 == 0:
            kept.append(theta.detach().clone())
    deviation = torch.stack(kept) - mean
    expected = variance_of(lr, friction, curvature, num_data)
    for found, truth in ((deviation.mean(0), 0.0), (deviation.square().mean(0), expected)):
        assert abs(found.mean() - truth) < 4 * found.std() / CHAINS**0.5
    assert expected > 1 / (num_data * curvature)
    assert variance_of(1e-4, friction, curvature, num_data) == pytest.approx(1 / (num_data * curvature), rel=1e-3)


def test_without_noise_it_is_gradient_descent_with_momentum():
    torch.manual_seed(0)
    start = torch.randn(5, dtype=torch.float64)
    one, other = (start.clone().requires_grad_() for _ in range(2))
    ours = SGHMC([one], 0.05, 0.1, num_data=10, noise=False)
    theirs = torch.optim.SGD([other], 0.05, momentum=0.9)
    for _ in range(20):
        for theta, optimizer in ((one, ours), (other, theirs)):
            theta.grad = theta.detach() ** 3
            optimizer.step()
    torch.testing.assert_close(one, other)


def test_a_prior_is_weight_decay():
    theta = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    theta.grad = torch.zeros_like(theta)
    SGHMC([theta], 0.1, num_data=5, prior_sd=2.0, noise=False).step()
    assert theta.item() == pytest.approx(2 - 0.1 * 2 / (5 * 2.0**2))


def test_noise_is_torchs_and_parameters_without_gradient_stand_still():
    thetas = []
    for _ in range(2):
        torch.manual_seed(3)
        still, theta = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
        theta.grad = torch.zeros_like(theta)
        SGHMC([still, theta], 0.1, num_data=5).step()
        assert not still.any()
        thetas.append(theta.detach())
    assert thetas[0].all()
    assert torch.equal(*thetas)


def test_a_closure_is_called_with_gradients():
    theta = torch.ones(2, requires_grad=True)
    sampler = SGHMC([theta], 0.1, num_data=5, noise=False)

    def closure():
        theta.grad = None
        loss = theta.square().sum()
        loss.backward()
        return float(loss.detach())

    assert sampler.step(closure) == 2.0
    torch.testing.assert_close(theta.detach(), torch.full((2,), 0.8))


def test_a_run_resumes_bit_for_bit():
    def step(theta, sampler):
        theta.grad = theta.detach() - 1
        sampler.step()

    torch.manual_seed(0)
    theta = torch.zeros(3, requires_grad=True)
    sampler = SGHMC([theta], 0.1, num_data=5, prior_sd=1.0)
    for _ in range(5):
        step(theta, sampler)
    saved = copy.deepcopy((theta.detach(), sampler.state_dict(), torch.get_rng_state()))
    for _ in range(5):
        step(theta, sampler)
    value, state, generator = saved
    again = value.clone().requires_grad_()
    other = SGHMC([again], 0.7, 0.9, num_data=1)  # options are part of the state
    other.load_state_dict(state)
    torch.set_rng_state(generator)
    for _ in range(5):
        step(again, other)
    assert torch.equal(again, theta)


class Shifted(nn.Module):
    """x = theta + noise."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("x", Implicit(self.theta + torch.randn_like(x), 0), obs=x)


def bayesian_gan(num_data):
    torch.manual_seed(1)
    sampler = functools.partial(SGHMC, lr=0.02, num_data=num_data, prior_sd=1.0)
    critic = Critic(nn.Linear(1, 1, dtype=torch.float64))
    return AdversarialTrainer(Shifted(), Contrast("x", DATA, P, critic), sampler, sampler, schedule=Steps())


def test_a_bayesian_gan_wanders_and_resumes():
    """Both players draw: with N = 20 data the generator does not settle; its state and torch's give the same path."""
    x = torch.randn(20, dtype=torch.float64)
    trainer = bayesian_gan(20)
    path = []
    for step in range(60):
        if step == 40:
            saved = copy.deepcopy(trainer.state_dict()), torch.get_rng_state()
        trainer.step(x)
        path.append(trainer.model.theta.item())
    assert torch.tensor(path[20:]).std() > 0.01
    again = bayesian_gan(20)
    again.step(x)
    again.load_state_dict(saved[0])
    torch.set_rng_state(saved[1])
    for expected in path[40:]:
        again.step(x)
        assert again.model.theta.item() == expected


@pytest.mark.parametrize(
    ("error", "options", "parts"),
    [
        (ValueError, {"lr": 0.0}, ("lr must be positive", "got 0")),
        (ValueError, {"lr": float("nan")}, ("lr must be positive", "nan")),
        (TypeError, {"lr": "fast"}, ("lr must be a number", "'fast'")),
        (ValueError, {"friction": 0.0}, ("friction", "(0, 1]")),
        (ValueError, {"friction": 1.5}, ("friction", "1.5")),
        (ValueError, {"num_data": 0}, ("num_data", "training set")),
        (ValueError, {"num_data": 2.5}, ("num_data", "2.5")),
        (ValueError, {"prior_sd": -1.0}, ("prior_sd", "flat")),
        (TypeError, {"noise": 1}, ("noise must be a bool", "1")),
    ],
)
def test_options_out_of_range_are_refused(error, options, parts):
    with refuses(error, *parts):
        SGHMC([torch.zeros(1, requires_grad=True)], **{"lr": 0.1, "num_data": 5, **options})
