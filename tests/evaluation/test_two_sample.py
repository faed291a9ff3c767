"""Two-sample tests: exact statistics, the level that they promise, and the power that is known."""

import itertools
import math

import pytest
import torch

from contracts import refuses
from pyro_dgm.evaluation import classifier_two_sample_test, mmd_test
from pyro_dgm.infer.divergences import mmd


@pytest.mark.parametrize("kernel", ["gaussian", "imq"])
def test_the_statistic_is_the_divergence_of_that_kernel(kernel):
    torch.manual_seed(0)
    x, y = torch.randn(13, 3, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64) + 0.5
    found = mmd_test(x, y, 5, kernel, bandwidth=1.7)
    assert found.statistic == pytest.approx(float(mmd(x, y, kernel, 1.7)), rel=1e-10)
    assert (found.bandwidth, found.num_permutations) == (1.7, 5)


def test_the_statistic_estimates_its_closed_form():
    """N(0, 1) against N(1, 1), l = 1, 100 pairs of 100 draws, seed 0: 0.177268 within 4 standard errors."""
    torch.manual_seed(0)
    values = [mmd_test(torch.randn(100, 1), torch.randn(100, 1) + 1, 1, bandwidth=1.0).statistic for _ in range(100)]
    found = torch.tensor(values)
    assert float(found.mean()) == pytest.approx(0.177268, abs=4 * float(found.std()) / 10)


def test_the_bandwidth_is_the_median_distance():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [7.0]])
    assert mmd_test(x, y, 1).bandwidth == 3.0  # of 1, 2, 3, 4, 6, 7: the lower median


def test_the_p_value_is_that_of_all_permutations():
    """Six draws dealt to three and three, 20 ways; 4000 random ones, seed 0, 4 standard errors."""
    torch.manual_seed(3)
    both = torch.randn(6, 2, dtype=torch.float64)
    both[3:] += 1
    observed = float(mmd(both[:3], both[3:], "gaussian", 1.0))
    dealt = []
    for rows in itertools.combinations(range(6), 3):
        others = [i for i in range(6) if i not in rows]
        dealt.append(float(mmd(both[list(rows)], both[others], "gaussian", 1.0)))
    exact = sum(value >= observed - 1e-12 for value in dealt) / 20
    found = mmd_test(both[:3], both[3:], 4000, bandwidth=1.0).p_value
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000) + 1e-3)


@pytest.mark.parametrize(("shift", "share"), [(0.5, 0.83), (0.0, 0.05)])
def test_power_and_level_are_those_that_are_known(shift, share):
    """100 draws of each in the plane, 200 repetitions of 200 permutations, seed 0: 3 binomial standard errors."""
    torch.manual_seed(0)
    move = torch.tensor([shift, 0.0])
    rejected = sum(mmd_test(torch.randn(100, 2), torch.randn(100, 2) + move, 200).p_value <= 0.05 for _ in range(200))
    assert rejected / 200 == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / 200))


@pytest.mark.parametrize("classifier", ["knn", "logistic"])
def test_a_classifier_keeps_its_level(classifier):
    """40 draws of each, 200 repetitions, seed 0: at most 5 % and 3 binomial errors are rejected; accuracy 1/2."""
    torch.manual_seed(0)
    found = [classifier_two_sample_test(torch.randn(40, 2), torch.randn(40, 2), classifier) for _ in range(200)]
    assert sum(one.p_value <= 0.05 for one in found) / 200 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    mean = sum(one.statistic for one in found) / 200
    assert mean == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 40 / 200))
    assert found[0].num_held_out == 40


@pytest.mark.parametrize("classifier", ["knn", "logistic"])
def test_a_classifier_reaches_the_best_accuracy(classifier):
    """N(0, 1) against N(1, 1), 4000 draws of each, seed 0: the best is 0.691462; the neighbours lose a little."""
    torch.manual_seed(0)
    found = classifier_two_sample_test(torch.randn(4000, 1), torch.randn(4000, 1) + 1, classifier)
    assert found.statistic == pytest.approx(0.691462, abs=0.01 + 3 * math.sqrt(0.22 / 4000))
    assert found.p_value < 1e-30


def test_neighbours_see_what_a_plane_cannot():
    torch.manual_seed(0)
    x, y = torch.randn(400, 2), 2 * torch.randn(400, 2)
    assert classifier_two_sample_test(x, y).p_value < 1e-4
    assert classifier_two_sample_test(x, y, "logistic").p_value > 1e-3


def test_a_p_value_is_the_binomial_tail():
    """Two clusters: all 6 held-out draws are told right, which fair coins do once in 64 times."""
    x, y = torch.randn(6, 2), torch.randn(6, 2) + 100
    found = classifier_two_sample_test(x, y, num_neighbours=1)
    assert found == pytest.approx((1.0, 2.0**-6, 6))


def test_sets_of_unequal_size_are_made_equal():
    torch.manual_seed(0)
    found = classifier_two_sample_test(torch.randn(1000, 2), torch.randn(50, 2))
    assert found.num_held_out == 50
    assert found.statistic < 0.75


def test_tests_are_seeded_by_their_generator_alone():
    x, y = torch.randn(30, 2), torch.randn(30, 2) + 0.3
    before = torch.get_rng_state()
    for test in (mmd_test, classifier_two_sample_test):
        found = [test(x, y, generator=torch.Generator().manual_seed(s)) for s in (1, 1)]
        assert found[0] == found[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_input_is_refused():
    x = torch.randn(10, 2)
    for test in (mmd_test, classifier_two_sample_test):
        with refuses(TypeError, "x", "list"):
            test([1.0], x)
        with refuses(ValueError, "y", "(1, 2)"):
            test(x, x[:1])
        with refuses(ValueError, "x", "(10,)"):
            test(x[:, 0], x)
        with refuses(ValueError, "same number of features"):
            test(x, x[:, :1])
        with refuses(ValueError, "finite"):
            test(x * math.nan, x)
    with refuses(ValueError, "num_permutations", "0"):
        mmd_test(x, x, 0)
    with refuses(ValueError, "kernel", "'linear'"):
        mmd_test(x, x, kernel="linear")
    for bad in (0.0, -1.0, math.nan, math.inf):
        with refuses(ValueError, "bandwidth", str(bad)):
            mmd_test(x, x, bandwidth=bad)
    with refuses(TypeError, "bandwidth", "'median'"):
        mmd_test(x, x, bandwidth="median")
    with refuses(ValueError, "most of them must differ"):
        mmd_test(torch.zeros(5, 2), torch.zeros(5, 2))
    with refuses(ValueError, "classifier", "'svm'"):
        classifier_two_sample_test(x, x, "svm")
    for bad in (2, 11, 0):
        with refuses(ValueError, "num_neighbours", str(bad)):
            classifier_two_sample_test(x, x, num_neighbours=bad)
