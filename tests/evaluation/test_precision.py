"""Precision, recall, density and coverage against a loop over all pairs, and their expectations."""

import math

import pytest
import torch

from contracts import refuses
from pyro_dgm.evaluation import expected_coverage, precision_recall, vectors


def by_loop(real: torch.Tensor, fake: torch.Tensor, k: int) -> list[float]:
    def radius(points: torch.Tensor, i: int) -> float:
        others = [float((points[i] - points[j]).norm()) for j in range(len(points)) if j != i]
        return sorted(others)[k - 1]

    real_radii, fake_radii = ([radius(v, i) for i in range(len(v))] for v in (real, fake))
    d = [[float((x - y).norm()) for y in fake] for x in real]
    n, m = len(real), len(fake)
    precision = sum(any(d[i][j] <= real_radii[i] for i in range(n)) for j in range(m)) / m
    recall = sum(any(d[i][j] <= fake_radii[j] for j in range(m)) for i in range(n)) / n
    density = sum(d[i][j] <= real_radii[i] for i in range(n) for j in range(m)) / (k * m)
    coverage = sum(any(d[i][j] <= real_radii[i] for j in range(m)) for i in range(n)) / n
    return [precision, recall, density, coverage]


@pytest.mark.parametrize(("n", "m", "k"), [(30, 25, 3), (25, 40, 5), (7, 9, 1)])
@pytest.mark.parametrize("most", [5_000_000, 100])
def test_all_four_are_those_of_a_loop_however_they_are_cut(n, m, k, most, monkeypatch):
    monkeypatch.setattr(vectors, "MAX_DISTANCES", most)
    torch.manual_seed(n)
    real, fake = torch.randn(n, 3, dtype=torch.float64), 0.7 * torch.randn(m, 3, dtype=torch.float64) + 0.3
    assert list(precision_recall(real, fake, k)) == pytest.approx(by_loop(real, fake, k), abs=1e-12)


def test_a_generator_of_one_mode_is_precise_and_of_little_recall():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [20.0, 0.0]])
    real = centres[torch.arange(600) % 2] + torch.randn(600, 2)
    one = precision_recall(real, torch.randn(600, 2))
    assert one.precision > 0.95
    assert one.density == pytest.approx(1.0, abs=0.15)
    assert one.recall < 0.52
    assert one.coverage < 0.52
    wide = precision_recall(real, 60 * (torch.rand(600, 2) - 0.5))
    assert wide.precision < 0.1
    assert wide.recall > 0.95
    assert precision_recall(real, real + 1000.0) == (0.0, 0.0, 0.0, 0.0)


def test_of_one_distribution_density_and_coverage_are_as_expected():
    """40 pairs of 200 draws in 4 dimensions, seed 0: within 4 standard errors of 1, and of lemma 2 of Naeem et al."""
    torch.manual_seed(0)
    found = [precision_recall(torch.randn(200, 4), torch.randn(150, 4), k=3) for _ in range(40)]
    for name, expected in (("density", 1.0), ("coverage", expected_coverage(200, 150, 3))):
        values = torch.tensor([getattr(one, name) for one in found])
        assert float(values.mean()) == pytest.approx(expected, abs=4 * float(values.std()) / math.sqrt(40))


def test_the_expected_coverage_goes_to_one_minus_two_to_the_minus_k():
    assert expected_coverage(10**7, 10**7, 4) == pytest.approx(1 - 2**-4, abs=1e-6)
    assert expected_coverage(2, 1, 1) == pytest.approx(1 / 2)  # which of the two others is nearer


def test_copies_of_the_data_are_perfect():
    torch.manual_seed(0)
    x = torch.randn(50, 8)
    copied = precision_recall(x, x, k=3)
    assert (copied.precision, copied.recall, copied.coverage) == (1.0, 1.0, 1.0)
    repeated = torch.zeros(10, 8)  # balls of radius zero
    assert precision_recall(repeated, repeated, k=3) == pytest.approx((1.0, 1.0, 10 / 3, 1.0))


def test_bad_input_is_refused():
    x = torch.randn(10, 2)
    with refuses(TypeError, "real", "list"):
        precision_recall([1.0], x)
    with refuses(ValueError, "fake", "(10, 2, 1)"):
        precision_recall(x, x[..., None])
    with refuses(ValueError, "real must be finite", "10 of 10 rows"):
        precision_recall(x * math.inf, x)
    with refuses(ValueError, "same number of features", "2 and 1"):
        precision_recall(x, x[:, :1])
    for bad in (0, -1, 2.5, True):
        with refuses(ValueError, "k must be an integer", repr(bad)):
            precision_recall(x, x, bad)
    with refuses(ValueError, "k=4", "10 and 4"):
        precision_recall(x, x[:4], 4)
    with refuses(ValueError, "k=9"):
        expected_coverage(9, 9, 9)
