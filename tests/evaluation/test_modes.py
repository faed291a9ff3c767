"""Modes that were found: against counts by hand, the mixture's own draws, and integrals."""

import math

import pytest
import torch

from contracts import refuses
from pyro_dgm import datasets
from pyro_dgm.evaluation import mode_coverage, perfect_coverage

SD = 0.02


def ring(num_modes: int = 8) -> torch.Tensor:
    angles = torch.arange(num_modes, dtype=torch.float64) * 2 * math.pi / num_modes
    return 2 * torch.stack([angles.cos(), angles.sin()], dim=1)


def draws(num: int, ratio: float = 1.0, modes: int = 8) -> torch.Tensor:
    """Draws of the ring's first modes, as sharp or wide as asked for."""
    means = ring()
    return means[torch.randint(modes, (num,))] + ratio * SD * torch.randn(num, 2, dtype=torch.float64)


def test_counts_are_those_by_hand():
    means = torch.tensor([[0.0], [1.0], [5.0]])
    samples = torch.tensor([[0.1], [-0.2], [0.0], [0.39], [1.2], [1.31], [4.0], [1.0]])
    found = mode_coverage(samples, means, sd=0.1, least_share=0.5)
    assert found.masses.tolist() == [4 / 8, 3 / 8, 1 / 8]
    assert found.high_quality == 5 / 8  # the draw at 0.39 is 3.9 sd away, 1.31 is 3.1, 4.0 is 10
    assert (found.num_hit, found.num_covered, found.num_samples) == (2, 2, 8)
    assert mode_coverage(samples, means, sd=0.1, least_share=0.8).num_covered == 1  # 3 and 2 of 2.67 that are due
    expected = 4 / 8 * math.log(3 * 4 / 8) + 3 / 8 * math.log(3 * 3 / 8) + 1 / 8 * math.log(3 / 8)
    assert found.reverse_kl == pytest.approx(expected, rel=1e-12)
    squares = (0.1**2 + 0.2**2 - 3 * (0.1 / 3) ** 2) + 2 * 0.1**2
    kept = math.erf(3 / math.sqrt(2)) - 6 * math.exp(-4.5) / math.sqrt(2 * math.pi)
    kept /= math.erf(3 / math.sqrt(2))  # the variance of a normal cut at 3
    assert found.sd_ratio == pytest.approx(math.sqrt(squares / 3 / kept) / 0.1, rel=1e-5)


def test_the_mixtures_own_draws_score_what_is_expected_of_them():
    """50 sets of 2000 draws, seed 0: every field within 4 standard errors of its expectation."""
    torch.manual_seed(0)
    perfect = perfect_coverage(2000, 8)
    found = [mode_coverage(draws(2000), ring(), SD) for _ in range(50)]
    for name in ("num_hit", "num_covered", "high_quality", "reverse_kl", "sd_ratio"):
        values = torch.tensor([float(getattr(one, name)) for one in found], dtype=torch.float64)
        slack = 4 * float(values.std()) / math.sqrt(50) + 1e-9
        assert getattr(perfect, name) == pytest.approx(float(values.mean()), abs=slack), name
    assert perfect.num_samples == 2000
    assert perfect.masses.tolist() == [1 / 8] * 8


def test_what_is_perfect_has_closed_forms():
    perfect = perfect_coverage(1, 4)
    good = 1 - math.exp(-4.5)
    assert perfect.high_quality == pytest.approx(good, rel=1e-12)
    assert perfect.num_hit == pytest.approx(good, rel=1e-12)  # a single draw
    assert perfect.reverse_kl == pytest.approx(math.log(4), rel=1e-12)
    assert perfect_coverage(500, 25).num_hit == pytest.approx(25 * (1 - (1 - good / 25) ** 500), rel=1e-10)
    assert perfect_coverage(100, 1, features=1).high_quality == pytest.approx(math.erf(3 / math.sqrt(2)), rel=1e-12)
    assert perfect_coverage(100, 1).reverse_kl == 0
    assert perfect_coverage(10_000, 8).reverse_kl == pytest.approx(7 / 20_000, rel=1e-2)  # (M - 1) / 2n


def test_the_expected_number_of_covered_modes_is_that_of_all_outcomes():
    """Two modes of unequal weight and four draws: a mode is covered by at least half of the draws that are due."""
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    good = 1 - math.exp(-4.5)
    expected = 0.0
    for weight in weights.tolist():
        p, least = weight * good, max(1, math.ceil(0.5 * 4 * weight))
        expected += sum(math.comb(4, k) * p**k * (1 - p) ** (4 - k) for k in range(least, 5))
    found = perfect_coverage(4, 2, weights=weights, least_share=0.5)
    assert found.num_covered == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("ratio", [0.3, 0.7, 1.2])
def test_sharp_and_wide_modes_are_told_from_perfect_ones(ratio):
    """5000 draws, seed 0: a sharp generator has more high quality than a perfect one, a wide one less."""
    torch.manual_seed(0)
    found, perfect = mode_coverage(draws(5000, ratio), ring(), SD), perfect_coverage(5000, 8)
    assert (found.high_quality > perfect.high_quality) == (ratio < 1)
    assert (found.sd_ratio < 1) == (ratio < 1)
    assert found.sd_ratio == pytest.approx(ratio, rel=0.1)  # the correction is exact at 1, and 3 % off far below


def test_the_width_does_not_depend_on_where_a_mode_is():
    torch.manual_seed(0)
    samples = draws(4000)
    shifted = mode_coverage(samples + 0.2 * SD, ring(), SD)
    assert shifted.sd_ratio == pytest.approx(mode_coverage(samples, ring(), SD).sd_ratio, rel=0.02)


def test_modes_that_were_dropped_are_missed():
    torch.manual_seed(0)
    found = mode_coverage(draws(4000, modes=2), ring(), SD)
    assert (found.num_hit, found.num_covered) == (2, 2)
    assert found.reverse_kl == pytest.approx(math.log(4), abs=1e-3)  # 2 of 8, equally often
    torch.manual_seed(0)
    rare = torch.cat([draws(4000, modes=2), ring()])
    assert mode_coverage(rare, ring(), SD).num_hit == 8
    assert mode_coverage(rare, ring(), SD).num_covered == 2


def test_weights_are_what_the_masses_are_compared_with():
    torch.manual_seed(0)
    weights = torch.tensor([0.7, 0.3])
    means = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    samples = means[torch.multinomial(weights, 20_000, replacement=True)] + torch.randn(20_000, 2)
    assert mode_coverage(samples, means, 1.0, weights).reverse_kl < 1e-3
    expected = math.log(2) + 0.7 * math.log(0.7) + 0.3 * math.log(0.3)
    assert mode_coverage(samples, means, 1.0).reverse_kl == pytest.approx(expected, abs=0.02)


def test_the_data_of_ring_and_grid_are_near_perfect():
    for dataset, means in (
        (datasets.ring(), ring()),
        (datasets.grid(), torch.cartesian_prod(*[2.0 * (torch.arange(5) - 2)] * 2)),
    ):
        sd = 0.02 if dataset.name == "ring" else 0.05
        found, perfect = mode_coverage(dataset.train.x, means, sd), perfect_coverage(10_000, len(means))
        assert found.num_hit == found.num_covered == len(means)
        assert found.high_quality == pytest.approx(perfect.high_quality, abs=4 * math.sqrt(0.011 / 10_000))
        assert found.sd_ratio == pytest.approx(1, abs=4 / math.sqrt(2 * 20_000))


def test_without_two_good_draws_in_a_mode_there_is_no_width():
    found = mode_coverage(ring()[:3], ring(), SD)
    assert math.isnan(found.sd_ratio)
    assert found.num_hit == 3
    far = mode_coverage(torch.full((4, 2), 50.0), ring(), SD)
    assert (far.num_hit, far.high_quality) == (0, 0.0)
    assert math.isnan(far.sd_ratio)


def test_bad_input_is_refused():
    x, means = torch.zeros(4, 2), torch.eye(2)
    with refuses(TypeError, "samples", "list"):
        mode_coverage([[0.0, 0.0]], means, 1.0)
    with refuses(ValueError, "samples", "(4,)"):
        mode_coverage(x[:, 0], means, 1.0)
    with refuses(ValueError, "samples", "(0, 2)"):
        mode_coverage(x[:0], means, 1.0)
    with refuses(ValueError, "samples must be finite", "1 of 4 rows"):
        mode_coverage(torch.tensor([[0.0, 0.0]] * 3 + [[math.nan, 0.0]]), means, 1.0)
    with refuses(ValueError, "same number of features", "2 and 3"):
        mode_coverage(x, torch.eye(3), 1.0)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with refuses(ValueError, "sd must be positive", str(bad)):
            mode_coverage(x, means, bad)
        with refuses(ValueError, "num_sds must be positive", str(bad)):
            mode_coverage(x, means, 1.0, num_sds=bad)
    with refuses(TypeError, "sd must be a number", "'a'"):
        mode_coverage(x, means, "a")
    with refuses(ValueError, "least_share", "at most 1", "1.5"):
        mode_coverage(x, means, 1.0, least_share=1.5)
    for weights in (torch.ones(2), torch.tensor([1.0, 0.0]), torch.ones(3) / 3, torch.tensor([math.nan, 1.0])):
        with refuses(ValueError, "weights must be 2 positive numbers"):
            mode_coverage(x, means, 1.0, weights)
    with refuses(TypeError, "weights", "list"):
        mode_coverage(x, means, 1.0, [0.5, 0.5])
    with refuses(ValueError, "num_samples", "0"):
        perfect_coverage(0, 8)
    with refuses(ValueError, "num_modes", "0"):
        perfect_coverage(10, 0)
    with refuses(ValueError, "features", "0"):
        perfect_coverage(10, 8, features=0)
