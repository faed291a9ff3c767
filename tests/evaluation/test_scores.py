"""Class entropies and the inception score, where they are known."""

import math

import pytest
import torch

from contracts import refuses
from pyro_dgm.evaluation import class_entropies, inception_score


def test_certain_and_even_classes_score_their_number():
    log_probs = torch.eye(5).repeat(20, 1).log()  # minus infinity where a class has no chance
    assert class_entropies(log_probs) == pytest.approx((0.0, math.log(5)))
    assert inception_score(log_probs, 4).mean == pytest.approx(5.0)
    assert inception_score(log_probs, 4).sd == pytest.approx(0.0, abs=1e-12)


def test_images_that_tell_nothing_or_are_all_the_same_score_one():
    even = torch.full((30, 4), math.log(0.25))
    assert class_entropies(even) == pytest.approx((math.log(4), math.log(4)))
    same = torch.tensor([[0.7, 0.2, 0.1]]).log().expand(30, 3)
    for log_probs in (even, same):
        assert inception_score(log_probs, 3) == pytest.approx((1.0, 0.0))


def test_the_score_is_the_mean_divergence_of_a_loop():
    torch.manual_seed(0)
    log_probs = (2 * torch.randn(21, 6, dtype=torch.float64)).log_softmax(1)
    scores = []
    for first in range(3):
        rows = [log_probs[i].exp() for i in range(first, 21, 3)]
        marginal = sum(rows) / len(rows)
        divergences = [sum(float(p * (p / q).log()) for p, q in zip(row, marginal, strict=True)) for row in rows]
        scores.append(math.exp(sum(divergences) / len(rows)))
    found = inception_score(log_probs, 3)
    assert found.mean == pytest.approx(sum(scores) / 3, rel=1e-12)
    assert found.sd == pytest.approx(float(torch.tensor(scores).double().std()), rel=1e-6)
    intra, inter = class_entropies(log_probs)
    assert inception_score(log_probs, 1).mean == pytest.approx(math.exp(inter - intra), rel=1e-12)
    assert math.isnan(inception_score(log_probs, 1).sd)
    assert str(found) == f"{found.mean:.2f} ± {found.sd:.2f}"


def test_images_sorted_by_class_do_no_harm():
    assert inception_score(torch.eye(10).repeat_interleave(50, dim=0).log(), 10).mean == pytest.approx(10.0)


def test_few_images_score_too_little():
    """Random classes, 200 repetitions of 20 images, seed 0: below the score of 4000 of them by many errors."""
    torch.manual_seed(0)
    log_probs = (3 * torch.randn(4000, 10)).log_softmax(1)
    few = inception_score(log_probs, 200)
    assert few.mean + 4 * few.sd / math.sqrt(200) < inception_score(log_probs, 1).mean


def test_bad_input_is_refused():
    good = torch.zeros(6, 3).log_softmax(1)
    for score in (class_entropies, inception_score):
        with refuses(TypeError, "list"):
            score([[0.0]])
        with refuses(TypeError, "torch.int64"):
            score(torch.zeros(6, 1, dtype=torch.int64))
        with refuses(ValueError, "(6,)"):
            score(good[:, 0])
        with refuses(ValueError, "(0, 3)"):
            score(good[:0])
        with refuses(ValueError, "add up to 1", "6 of 6"):
            score(good.exp())
        with refuses(ValueError, "1 of 6"):
            score(torch.cat([good[:5], good[:1] * math.nan]))
    with refuses(ValueError, "6 for 7 splits"):
        inception_score(good, 7)
    with refuses(ValueError, "num_splits", "0"):
        inception_score(good, 0)
