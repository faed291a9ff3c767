"""Birthdays: the formula, the simulation, and the size of a support that is known."""

import math

import pytest
import torch

from contracts import refuses
from pyro_dgm.evaluation import birthday_paradox, birthday_probability, support_size


def test_the_probability_is_that_of_the_product():
    assert birthday_probability(23, 365) == pytest.approx(1 - math.perm(365, 23) / 365**23, rel=1e-12)
    assert birthday_probability(1, 10) == 0
    assert birthday_probability(2, 10) == pytest.approx(0.1)
    assert birthday_probability(11, 10) == 1


@pytest.mark.parametrize("size", [100, 1000, 10_000])
def test_the_support_is_found_from_the_probability(size):
    for batch_size in (math.isqrt(size) // 2, math.isqrt(size), 2 * math.isqrt(size)):
        found = support_size(birthday_probability(batch_size, size), batch_size)
        assert found == pytest.approx(size, rel=(batch_size / size) ** 2)
    assert support_size(0.0, 10) == math.inf
    assert support_size(1.0, 10) == 0
    assert support_size(0.5, 1000) == pytest.approx(1000**2 / (2 * math.log(2)), rel=1e-3)


def test_uniform_draws_of_things_meet_as_the_formula_says():
    """400 batches of 30 of 500 things, seed 0: 4 standard errors; the support within what these allow."""
    torch.manual_seed(0)
    things = torch.randn(500, 3)
    found = birthday_paradox(things[torch.randint(500, (400 * 30,))], 30, threshold=0.0)
    expected = birthday_probability(30, 500)
    error = math.sqrt(expected * (1 - expected) / 400)
    assert found.probability.mean == pytest.approx(expected, abs=4 * error)
    assert found.probability.standard_error == pytest.approx(error, rel=0.1)
    low, high = (support_size(expected + sign * 4 * error, 30) for sign in (1, -1))
    assert low < found.support_size < high


def test_things_that_are_not_equally_likely_give_too_small_a_support():
    torch.manual_seed(0)
    weights = torch.arange(1, 501).double() ** -1
    drawn = torch.multinomial(weights, 400 * 15, replacement=True).double().unsqueeze(1)
    assert birthday_paradox(drawn, 15, threshold=0.5).support_size < 250


def test_the_nearest_pairs_are_those_of_a_loop():
    torch.manual_seed(0)
    x = torch.randn(24, 2, 3)
    found = birthday_paradox(x, 8)
    for batch in range(3):
        rows = range(8 * batch, 8 * batch + 8)
        pairs = {(i, j): float((x[i] - x[j]).norm()) for i in rows for j in rows if i < j}
        nearest = min(pairs, key=pairs.get)
        assert tuple(found.pairs[batch].tolist()) == nearest
        assert float(found.distances[batch]) == pytest.approx(pairs[nearest], rel=1e-5)
    assert math.isnan(found.probability.mean)
    assert math.isnan(found.support_size)
    assert birthday_paradox(x, 8, num_batches=2).pairs.shape == (2, 2)


def test_the_threshold_decides_and_features_are_what_it_is_about():
    x = torch.tensor([[0.0, 5.0], [0.25, -5.0], [9.0, 0.0], [20.0, 1.0]])
    assert birthday_paradox(x, 2, threshold=1.0).probability.mean == 0.0
    first = birthday_paradox(x, 2, threshold=0.25, features=lambda rows: rows[:, :1].double())
    assert first.probability.mean == 0.5  # at a distance of exactly 0.25 in one batch, 11 in the other
    assert first.support_size == pytest.approx(2 / (2 * math.log(2)) + 0.5)
    assert birthday_paradox(x, 2, threshold=100.0).support_size == 0
    assert birthday_paradox(x, 2, threshold=0.0).support_size == math.inf


def test_bad_input_is_refused():
    x = torch.randn(20, 2)
    with refuses(TypeError, "samples", "list"):
        birthday_paradox([1.0], 2)
    for bad in (1, 0, 2.5):
        with refuses(ValueError, "batch_size", repr(bad)):
            birthday_paradox(x, bad)
    with refuses(ValueError, "1 batches of 21", "(20, 2)"):
        birthday_paradox(x, 21)
    with refuses(ValueError, "3 batches of 10"):
        birthday_paradox(x, 10, num_batches=3)
    with refuses(ValueError, "batches", "()"):
        birthday_paradox(torch.tensor(0.0), 2)
    with refuses(ValueError, "finite"):
        birthday_paradox(x * math.nan, 2)
    for bad in (-1.0, math.nan, math.inf):
        with refuses(ValueError, "threshold", str(bad)):
            birthday_paradox(x, 2, threshold=bad)
    with refuses(ValueError, "features", "(20,)"):
        birthday_paradox(x, 2, features=lambda rows: rows[:, 0])
    with refuses(ValueError, "one row per sample", "40 for 20"):
        birthday_paradox(x, 2, features=lambda rows: rows.reshape(-1, 1))
    with refuses(ValueError, "probability", "1.5"):
        support_size(1.5, 10)
    with refuses(ValueError, "support_size", "0"):
        birthday_probability(3, 0)
