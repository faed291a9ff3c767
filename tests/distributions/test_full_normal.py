"""The normal with full covariance, against its textbook density."""

import math

import pytest
import torch
from torch import nn

from pyro_dgm.distributions import DiagonalNormal, FullNormal


def cholesky_by_hand(parameters: torch.Tensor, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and Cholesky factor of one datum, entry by entry."""
    loc, values = parameters[:d], iter(parameters[2 * d :])
    zero = parameters.new_zeros(())
    rows = [
        torch.stack([next(values) if j < i else parameters[d + i].exp() if j == i else zero for j in range(d)])
        for i in range(d)
    ]
    return loc, torch.stack(rows)


def log_density(x: torch.Tensor, parameters: torch.Tensor, d: int) -> torch.Tensor:
    loc, factor = cholesky_by_hand(parameters, d)
    covariance = factor @ factor.T
    r = x - loc
    return -0.5 * (
        r @ torch.linalg.inv(covariance) @ r + torch.linalg.slogdet(covariance)[1] + d * math.log(2 * math.pi)
    )


@pytest.mark.parametrize("d", [1, 2, 5])
def test_log_prob_and_its_gradient_are_the_textbook_ones(d):
    parameters = torch.randn(7, FullNormal.num_parameters(d), dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, d, dtype=torch.float64)
    ours = FullNormal(nn.Identity())(parameters).log_prob(x)
    theirs = torch.stack([log_density(x[b], parameters[b], d) for b in range(7)])
    torch.testing.assert_close(ours, theirs)
    gradient = torch.autograd.grad(ours.sum(), parameters, retain_graph=True)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs.sum(), parameters)[0])


def test_samples_have_the_mean_and_covariance_asked_for():
    torch.manual_seed(0)
    parameters = torch.randn(FullNormal.num_parameters(3), dtype=torch.float64)
    loc, factor = cholesky_by_hand(parameters, 3)
    covariance = factor @ factor.T
    num = 40_000
    x = FullNormal(nn.Identity())(parameters).sample((num,))
    spread = covariance.diagonal()
    assert ((x.mean(0) - loc).abs() < 5 * (spread / num).sqrt()).all()
    error = ((covariance**2 + torch.outer(spread, spread)) / num).sqrt()  # of a sample covariance
    assert ((torch.cov(x.T) - covariance).abs() < 5 * error).all()


def test_without_correlations_it_is_the_diagonal_normal():
    loc, log_scale, x = torch.randn(3, 6, 4).unbind()
    full = FullNormal(nn.Identity())(torch.cat([loc, log_scale, torch.zeros(6, 6)], dim=-1))
    diagonal = DiagonalNormal(nn.Identity())(torch.cat([loc, log_scale], dim=-1))
    torch.testing.assert_close(full.log_prob(x), diagonal.log_prob(x))


def test_a_tiny_or_huge_scale_keeps_the_density_finite():
    for log_scale in (-30.0, 30.0):
        parameters = torch.tensor([0.0, 0.0, log_scale, log_scale, 0.0], requires_grad=True)
        log_prob = FullNormal(nn.Identity())(parameters).log_prob(torch.zeros(2))
        torch.testing.assert_close(log_prob, torch.tensor(-2 * log_scale - math.log(2 * math.pi)))
        assert torch.autograd.grad(log_prob, parameters)[0].isfinite().all()


@pytest.mark.parametrize("features", [1, 2, 3, 50, 1000])
def test_the_number_of_parameters_gives_the_number_of_features_back(features):
    length = FullNormal.num_parameters(features)
    assert length == 2 * features + features * (features - 1) // 2
    assert FullNormal(nn.Identity())._features(torch.zeros(length)) == features
