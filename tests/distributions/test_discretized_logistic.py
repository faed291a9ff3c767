"""Masses of 8-bit levels, against enumeration."""

import math

import pytest
import torch
from torch import nn

from contracts import refuses
from pyro_dgm.distributions import DiscretizedLogistic, DiscretizedLogisticDistribution, DiscretizedLogisticMixture

LEVELS = torch.arange(256) / 255


@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 5.0, 50.0, 300.0])
@pytest.mark.parametrize("loc", [-1e3, -0.3, 0.0, 0.5, 77 / 255, 1.0, 1.2, 1e3])
def test_masses_sum_to_one_in_float32_with_finite_gradients(loc, log_scale):
    parameters = torch.tensor([loc, log_scale], requires_grad=True)
    log_mass = DiscretizedLogistic(nn.Identity(), event_dim=1)(parameters).log_prob(LEVELS[:, None])
    assert log_mass.isfinite().all()
    assert log_mass.exp().sum().item() == pytest.approx(1.0, abs=2e-4)
    for mass in log_mass:
        (gradient,) = torch.autograd.grad(mass, parameters, retain_graph=True)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("levels", [2, 3, 256])
def test_masses_are_differences_of_the_logistic_distribution_function(levels):
    x = torch.arange(levels, dtype=torch.float64) / (levels - 1)
    loc, scale, half = 0.4, 0.07, 0.5 / (levels - 1)
    upper = torch.sigmoid((x + half - loc) / scale)
    lower = torch.sigmoid((x - half - loc) / scale)
    upper[-1], lower[0] = 1.0, 0.0
    d = DiscretizedLogisticDistribution(
        torch.tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64).log(), levels
    )
    torch.testing.assert_close(d.log_prob(x).exp(), upper - lower)


@pytest.mark.parametrize(("loc", "scale"), [(0.5, 0.1), (0.02, 0.05), (-0.2, 0.3), (1.5, 0.001), (0.3, 20.0)])
def test_mean_and_variance_are_those_of_enumeration(loc, scale):
    d = DiscretizedLogisticDistribution(
        torch.tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64).log()
    )
    x = torch.arange(256, dtype=torch.float64) / 255
    mass = d.log_prob(x).exp()
    mean = (mass * x).sum()
    torch.testing.assert_close(d.mean, mean)
    torch.testing.assert_close(d.variance, (mass * (x - mean) ** 2).sum(), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize(("loc", "log_scale"), [(0.5, -3.0), (0.05, -2.0), (1.1, -1.0)])
def test_samples_have_the_exact_mean_and_variance(loc, log_scale):
    torch.manual_seed(0)
    num = 40_000
    d = DiscretizedLogisticDistribution(torch.tensor(loc), torch.tensor(log_scale))
    x = d.sample((num,)).double()
    assert torch.isin(x.float(), LEVELS).all()
    assert abs(x.mean() - d.mean) < 5 * (d.variance / num).sqrt()
    spread = (x - d.mean).square()
    assert abs(spread.mean() - d.variance) < 5 * spread.std() / math.sqrt(num)


def test_a_mixture_is_the_weighted_sum_of_its_components():
    logits, loc, log_scale = torch.randn(3, 4, dtype=torch.float64).unbind()
    loc, log_scale = torch.sigmoid(loc), log_scale - 2
    mixture = DiscretizedLogisticMixture(nn.Identity(), 4, event_dim=1)(torch.cat([logits, loc, log_scale]))
    assert mixture.event_shape == (1,)
    x = torch.arange(256, dtype=torch.float64) / 255
    expected = sum(
        w * DiscretizedLogisticDistribution(m, s).log_prob(x).exp()
        for w, m, s in zip(logits.softmax(0), loc, log_scale, strict=True)
    )
    mass = mixture.log_prob(x[:, None]).exp()
    torch.testing.assert_close(mass, expected)
    torch.testing.assert_close(mixture.mean[0], (mass * x).sum())


def test_parameters_of_a_colour_image_are_read_channel_by_channel():
    loc, log_scale = torch.rand(2, 3, 4, 4).unbind()
    d = DiscretizedLogistic(nn.Identity())(torch.cat([loc, log_scale - 3]))
    assert d.event_shape == (3, 4, 4)
    expected = DiscretizedLogisticDistribution(loc, log_scale - 3)
    x = expected.sample()
    torch.testing.assert_close(d.log_prob(x), expected.log_prob(x).sum())

    logits, loc, log_scale = torch.rand(3, 2, 3, 4, 4).unbind()  # two components
    mixture = DiscretizedLogisticMixture(nn.Identity(), 2)(torch.cat([logits, loc, log_scale - 3]).flatten(0, 1))
    weights = logits.log_softmax(0)
    by_hand = torch.logsumexp(weights + DiscretizedLogisticDistribution(loc, log_scale - 3).log_prob(x), dim=0)
    torch.testing.assert_close(mixture.log_prob(x), by_hand.sum())


def test_a_uniform_mass_is_eight_bits_per_dimension():
    d = DiscretizedLogistic(nn.Identity(), event_dim=1)(torch.tensor([0.5] * 10 + [3.0] * 10))
    centre = d.log_prob(torch.full((10,), 128 / 255)) / (-10 * math.log(2))
    assert 8 < centre < 15
    two_levels = DiscretizedLogisticDistribution(torch.tensor(0.5), torch.tensor(0.0), levels=2)
    torch.testing.assert_close(two_levels.log_prob(torch.tensor(1.0)), torch.tensor(-math.log(2)))


def test_values_between_levels_are_refused_by_the_distribution_itself():
    d = DiscretizedLogisticDistribution(torch.tensor(0.5), torch.tensor(0.0))
    with pytest.raises(ValueError, match="support"):
        d.log_prob(torch.tensor(0.5))
    with refuses(ValueError, "levels", "got 1"):
        DiscretizedLogisticDistribution(torch.tensor(0.5), torch.tensor(0.0), levels=1)
