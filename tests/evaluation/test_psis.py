"""Pareto-smoothed importance sampling, against ArviZ (either of its signs), exact Pareto draws and edge cases."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from pyro_dgm.evaluation._arviz_compat import arviz_major, import_arviz
from pyro_dgm.evaluation.psis import pareto_k, pareto_k_from_tail, psis, tail_size


def arviz_psis(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """ArviZ's normalised log-weights (K, B) and k (B,): 0.x takes log-weights, 1.x their negative."""
    values = log_weights.T.double().numpy()
    if arviz_major() == 0:
        smoothed, k = import_arviz().psislw(values)
    else:
        from arviz_stats.base import array_stats

        smoothed, k = array_stats.psislw(-values, axis=-1)
    return torch.as_tensor(np.array(smoothed)).T, torch.as_tensor(np.array(k))


def rounds_alike(num_particles: int) -> bool:
    """Whether both ArviZ versions choose the same tail: 1.x rounds its size down, and gives NaN for five draws."""
    size = min(num_particles / 5, 3 * math.sqrt(num_particles))
    return size == int(size) > 5


@pytest.mark.parametrize("num_particles", [25, 30, 100, 137, 225, 400, 999, 2500, 5000])
@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0, 30.0])
def test_agrees_with_arviz(num_particles: int, spread: float) -> None:
    if arviz_major() > 0 and not rounds_alike(num_particles):
        pytest.skip("ArviZ 1.x takes a smaller tail here")
    torch.manual_seed(num_particles)
    log_weights = spread * torch.randn(num_particles, 20, dtype=torch.float64) - 100
    expected_weights, expected_k = arviz_psis(log_weights)
    ours = psis(log_weights)
    torch.testing.assert_close(ours.pareto_k, expected_k, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.log_weights.log_softmax(dim=0), expected_weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("levels", [8, 30])
def test_agrees_with_arviz_0_on_ties(levels: int) -> None:
    if arviz_major() > 0:
        pytest.skip("ArviZ 1.x splits ties by position")
    torch.manual_seed(0)
    log_weights = -torch.distributions.Binomial(levels, 0.5).sample((1000, 20)).double()
    expected_weights, expected_k = arviz_psis(log_weights)
    ours = psis(log_weights)
    assert expected_k.isfinite().any()
    torch.testing.assert_close(ours.pareto_k, expected_k, rtol=0, atol=1e-6)
    # Which of two equal weights gets the larger quantile is arbitrary, so the sorted weights are compared.
    normalised = ours.log_weights.log_softmax(dim=0).sort(dim=0).values
    torch.testing.assert_close(normalised, expected_weights.sort(dim=0).values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3, 0.7, 1.2])
def test_recovers_the_shape_of_exact_pareto_draws(shape: float) -> None:
    # K = 5000, seed 0, 200 data: M = 213; the standard error of an efficient fit is (1 + k) / sqrt(M).
    num_particles, data = 5000, 200
    draws = scipy.stats.genpareto.rvs(shape, size=(num_particles, data), random_state=0)
    fits = pareto_k(torch.as_tensor(draws).log())
    size = tail_size(num_particles)
    unshrunk = (fits * (size + 10) - 10 * 0.5) / size
    standard_error = (1 + shape) / math.sqrt(size * data)
    assert abs(unshrunk.mean().item() - shape) < 4 * standard_error


def test_the_tail_alone_gives_the_same_k_in_any_order() -> None:
    torch.manual_seed(0)
    log_weights = 2 * torch.randn(1000, 7, dtype=torch.float64)
    tail = log_weights.topk(tail_size(1000) + 1, dim=0).values
    shuffled = tail[torch.randperm(len(tail))]
    torch.testing.assert_close(pareto_k_from_tail(shuffled, 1000), pareto_k(log_weights), rtol=0, atol=0)


def test_k_and_smoothing_do_not_depend_on_constants_order_or_neighbours() -> None:
    torch.manual_seed(0)
    log_weights = 2 * torch.randn(500, 6, dtype=torch.float64)
    order = torch.randperm(500)
    base, moved = psis(log_weights), psis(log_weights[order] + torch.arange(6.0) * 100)
    torch.testing.assert_close(moved.pareto_k, base.pareto_k, rtol=0, atol=1e-9)
    torch.testing.assert_close(moved.log_weights - torch.arange(6.0) * 100, base.log_weights[order], rtol=0, atol=1e-9)
    torch.testing.assert_close(psis(log_weights[:, 2:3]).log_weights, base.log_weights[:, 2:3])


def test_only_the_largest_weights_change_and_none_passes_the_largest() -> None:
    torch.manual_seed(0)
    log_weights = 3 * torch.randn(400, 5, dtype=torch.float64)
    smoothed = psis(log_weights).log_weights
    changed = smoothed != log_weights
    threshold = log_weights.sort(dim=0).values[-tail_size(400) - 1]
    assert (changed <= (log_weights > threshold)).all()
    assert (changed.sum(dim=0) > 0.9 * tail_size(400)).all()
    assert (smoothed <= log_weights.max(dim=0).values).all()


def test_smoothing_lowers_the_error_of_a_heavy_tailed_estimate() -> None:
    # Weights with k = 0.7 and mean 1 / 0.3: seed 0, K = 1000, 500 data.
    draws = torch.as_tensor(scipy.stats.genpareto.rvs(0.7, size=(1000, 500), random_state=0))
    smoothed = psis(draws.log()).log_weights.exp()
    truth = 1 / (1 - 0.7)
    assert (smoothed.mean(0) - truth).square().mean() < 0.5 * (draws.mean(0) - truth).square().mean()


def test_equal_weights_have_no_tail() -> None:
    log_weights = torch.full((1000, 3), -87.5)
    ours = psis(log_weights)
    assert ours.pareto_k.tolist() == [-math.inf] * 3
    assert torch.equal(ours.log_weights, log_weights)


def test_rounding_noise_around_equal_weights_is_harmless() -> None:
    torch.manual_seed(0)
    k = pareto_k(1e-15 * torch.randn(1000, 3, dtype=torch.float64))
    assert (k < 0.5).all()


def test_equal_weights_within_the_tail_give_a_bounded_fit() -> None:
    # 110 weights above all others: the grid of Zhang and Stephens then holds b = 0, the exponential distribution.
    log_weights = torch.where(torch.arange(2000) < 110, 0.0, -1.0).double()[:, None]
    ours = psis(log_weights)
    assert ours.pareto_k.item() < 0
    assert ours.log_weights.isfinite().all()


@pytest.mark.parametrize("num_particles", [1, 2, 5, 20])
def test_too_few_draws_are_not_trusted(num_particles: int) -> None:
    log_weights = torch.randn(num_particles, 2)
    ours = psis(log_weights)
    assert ours.pareto_k.tolist() == [math.inf] * 2
    assert torch.equal(ours.log_weights, log_weights)


def test_impossible_draws_and_data_are_not_trusted() -> None:
    log_weights = torch.full((1000, 2), -math.inf)
    log_weights[:3, 1] = torch.tensor([0.0, -1.0, -2.0])
    ours = psis(log_weights)
    assert ours.pareto_k.tolist() == [math.inf] * 2
    assert torch.equal(ours.log_weights, log_weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_type_of_the_weights_and_no_gradient(dtype: torch.dtype) -> None:
    log_weights = torch.randn(100, 3, dtype=dtype, requires_grad=True)
    ours = psis(log_weights)
    assert ours.log_weights.dtype == ours.pareto_k.dtype == pareto_k(log_weights).dtype == dtype
    assert not ours.log_weights.requires_grad
    assert not ours.pareto_k.requires_grad


def test_no_data_give_no_k() -> None:
    assert pareto_k(torch.zeros(100, 0)).shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_numbers_are_refused_by_datum(bad: float) -> None:
    log_weights = torch.randn(100, 4)
    log_weights[3, 2] = bad
    for function in (psis, pareto_k):
        with pytest.raises(ValueError, match=r"NaN or positive infinity; got them in 1 data, first \[2\]"):
            function(log_weights)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(K, B\); got \(100,\)"):
        pareto_k(torch.randn(100))
    with pytest.raises(ValueError, match=r"must hold the 96 largest log-weights; got 95"):
        pareto_k_from_tail(torch.randn(95, 2), 1000)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        tail_size(0)
