"""Fréchet and kernel distances: Gaussians in closed form, loops, and the biases that are claimed."""

import math

import numpy as np
import pytest
import torch

from contracts import refuses
from pyro_dgm.evaluation import (
    frechet_distance,
    frechet_distance_at_infinity,
    frechet_distance_of_moments,
    kernel_distance,
)


def covariance(features: int, rank: int | None = None) -> torch.Tensor:
    root = torch.randn(features, rank or 2 * features, dtype=torch.float64)
    return root @ root.T / root.shape[1]


def test_commuting_gaussians_have_the_closed_form():
    """With diagonal covariances the distance is the sum of squared differences of means and standard deviations."""
    torch.manual_seed(0)
    means, sds = torch.randn(2, 6, dtype=torch.float64), torch.rand(2, 6, dtype=torch.float64) + 0.1
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    found = frechet_distance_of_moments(
        means[0], turn @ sds[0].square().diag() @ turn.T, means[1], turn @ sds[1].square().diag() @ turn.T
    )
    expected = (means[0] - means[1]).square().sum() + (sds[0] - sds[1]).square().sum()
    assert found == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("rank", [None, 2])
def test_any_gaussians_agree_with_the_general_matrix_root(rank):
    from scipy.linalg import sqrtm

    torch.manual_seed(1)
    first, second = covariance(5), covariance(5, rank)
    zeros = torch.zeros(5)
    root = np.real(sqrtm((first @ second).numpy() + (0 if rank is None else 1e-12) * np.eye(5)))
    expected = float(first.trace() + second.trace()) - 2 * float(np.trace(root))
    assert frechet_distance_of_moments(zeros, first, zeros, second) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance_of_moments(zeros, first, zeros, first) == pytest.approx(0, abs=1e-12)


def test_a_distance_to_a_point_is_the_second_moment():
    torch.manual_seed(2)
    spread, mean = covariance(4), torch.randn(4)
    found = frechet_distance_of_moments(mean, spread, torch.zeros(4), torch.zeros(4, 4))
    assert found == pytest.approx(float(mean.square().sum() + spread.trace()), rel=1e-6)


def test_sets_are_compared_by_their_moments():
    torch.manual_seed(3)
    x, y = torch.randn(50, 3), 2 * torch.randn(70, 3) + 1
    moments = [f(v.double()) for v in (x, y) for f in (lambda v: v.mean(0), lambda v: v.T.cov())]
    assert frechet_distance(x, y) == pytest.approx(frechet_distance_of_moments(*moments), rel=1e-12)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, x + 3.0) == pytest.approx(27, rel=1e-5)
    assert frechet_distance(x[:, :1], 2 * x[:, :1]) == pytest.approx(
        float(x[:, 0].mean().square() + x[:, 0].var()), rel=1e-5
    )


def test_the_bias_is_upwards_and_falls_as_one_over_n():
    """Equal distributions in 10 dimensions, 30 pairs of each size, seed 0: n times the distance is constant to 10 %."""
    torch.manual_seed(0)
    scaled = []
    for n in (200, 800):
        found = [frechet_distance(torch.randn(n, 10), torch.randn(n, 10)) for _ in range(30)]
        assert min(found) > 0
        scaled.append(n * sum(found) / 30)
    assert scaled[0] == pytest.approx(scaled[1], rel=0.1)


def test_extrapolation_takes_the_bias_of_the_samples_away():
    """20 sets of 500 samples of 8 features, 20,000 data, seed 0: 4 standard errors around the bias of the data."""
    torch.manual_seed(0)
    x = torch.randn(20_000, 8)
    raw, at_infinity = [], []
    for _ in range(20):
        y = torch.randn(500, 8)
        raw.append(frechet_distance(x, y))
        found = frechet_distance_at_infinity(x, y)
        assert found.slope > 0
        at_infinity.append(found.value)
    mean, sd = np.mean(at_infinity), np.std(at_infinity, ddof=1)
    assert abs(mean) < 4 * sd / math.sqrt(20) + np.mean(raw) * 500 / 20_000
    assert abs(mean) < 0.3 * np.mean(raw)


def test_extrapolation_is_seeded_by_its_generator():
    x, y = torch.randn(100, 2), torch.randn(100, 2) + 1
    found = [frechet_distance_at_infinity(x, y, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert found[0].residual > 0


def kernel_by_loop(x: torch.Tensor, y: torch.Tensor, degree: int) -> float:
    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / len(a) + 1) ** degree)

    within = [sum(k(v[i], v[j]) for i in range(len(v)) for j in range(len(v)) if i != j) for v in (x, y)]
    between = sum(k(a, b) for a in x for b in y)
    n = len(x)
    return (within[0] + within[1]) / (n * (n - 1)) - 2 * between / n**2


def test_the_kernel_distance_of_one_whole_subset_is_that_of_a_loop():
    torch.manual_seed(4)
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64) + 0.5
    for degree in (1, 3):
        found = kernel_distance(x, y, degree, num_subsets=1, subset_size=12)
        assert found.mean == pytest.approx(kernel_by_loop(x, y, degree), rel=1e-10)
        assert math.isnan(found.standard_error)
    assert math.isnan(kernel_distance(x, y, num_subsets=5, subset_size=12).standard_error)


def test_the_kernel_distance_is_unbiased_and_its_error_is_right():
    """200 pairs of 100 draws, seed 0. Linear kernel: the truth is |difference of means|^2 / D; within 4 errors."""
    torch.manual_seed(0)
    shift = torch.tensor([0.6, 0.0])
    found = [kernel_distance(torch.randn(100, 2) + shift, torch.randn(100, 2), 1, num_subsets=30) for _ in range(200)]
    values = torch.tensor([one.mean for one in found])
    assert float(values.mean()) == pytest.approx(0.18, abs=4 * float(values.std()) / math.sqrt(200))
    claimed = sum(one.standard_error for one in found) / 200
    assert claimed == pytest.approx(float(values.std()), rel=0.2)


def test_of_equal_distributions_the_kernel_distance_is_zero_on_average():
    """200 pairs of 60 draws, cubic kernel, seed 0, 4 standard errors; the claimed error is not too small."""
    torch.manual_seed(0)
    found = [kernel_distance(torch.randn(60, 3), torch.randn(60, 3), num_subsets=10) for _ in range(200)]
    values = torch.tensor([one.mean for one in found])
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(200)
    assert values.min() < 0
    assert sum(one.standard_error for one in found) / 200 > float(values.std())


def test_bad_input_is_refused():
    x = torch.randn(10, 2)
    for distance in (frechet_distance, frechet_distance_at_infinity, kernel_distance):
        with refuses(TypeError, "x must be a tensor", "ndarray"):
            distance(x.numpy(), x)
        with refuses(ValueError, "y", "at least 2", "(1, 2)"):
            distance(x, x[:1])
        with refuses(ValueError, "same number of features", "2 and 1"):
            distance(x, x[:, :1])
        with refuses(ValueError, "y must be finite"):
            distance(x, x / 0)
    with refuses(ValueError, "subset_size", "11", "10 and 10"):
        kernel_distance(x, x, subset_size=11)
    for name, bad in (("degree", 0), ("num_subsets", 0), ("subset_size", 1), ("degree", 1.5)):
        with refuses(ValueError, name, repr(bad)):
            kernel_distance(x, x, **{name: bad})
    with refuses(ValueError, "num_sizes", "2"):
        frechet_distance_at_infinity(x, x, num_sizes=2)
    with refuses(ValueError, "least_size", "10 for 10"):
        frechet_distance_at_infinity(x, x, least_size=10)
    eye, zeros = torch.eye(2), torch.zeros(2)
    with refuses(ValueError, "covariance_x", "symmetric"):
        frechet_distance_of_moments(zeros, torch.tensor([[1.0, 0.5], [0.0, 1.0]]), zeros, eye)
    with refuses(ValueError, "covariance_y", "positive"):
        frechet_distance_of_moments(zeros, eye, zeros, -eye)
    with refuses(ValueError, "covariance_y", "(3, 3) for D = 2"):
        frechet_distance_of_moments(zeros, eye, zeros, torch.eye(3))
    with refuses(ValueError, "same number of features", "2 and 3"):
        frechet_distance_of_moments(zeros, eye, torch.zeros(3), torch.eye(3))
    with refuses(ValueError, "mean_x"):
        frechet_distance_of_moments(eye, eye, zeros, eye)
    with refuses(TypeError, "mean_y", "float"):
        frechet_distance_of_moments(zeros, eye, 0.0, eye)
