"""Facts about Bernoulli draws of grey levels."""

import math

import pytest
import torch

from pyro_dgm.datasets import binarize, digits, fix_binarization, ring


def test_draws_are_bernoulli_with_the_grey_level_as_probability():
    levels = torch.linspace(0, 1, 17)
    num = 10_000
    draws = binarize(levels.expand(num, 17), torch.Generator().manual_seed(0))
    error = (levels * (1 - levels) / num).sqrt()
    assert ((draws.mean(dim=0) - levels).abs() <= 4 * error).all()
    assert draws.unique().tolist() == [0, 1]


def test_draws_come_from_the_generator_alone():
    x = torch.full((50,), 0.5)
    one, same, other = (binarize(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("wrong", [255.0, -0.1, math.nan, math.inf])
def test_value_that_is_no_grey_level_is_refused(wrong):
    with pytest.raises(ValueError, match=r"grey levels in \[0, 1\]; got values from .* Divide pixels of 0-255 by 255"):
        binarize(torch.tensor([[0.5, wrong]]))


def test_eight_bit_pixels_are_refused():
    with pytest.raises(ValueError, match=r"got torch.uint8. Use x.float\(\) / 255"):
        binarize(torch.zeros(3, dtype=torch.uint8))


def test_no_rows_give_no_rows():
    assert binarize(torch.zeros(0, 4)).shape == (0, 4)


def test_fixed_binarisation_is_of_the_seed_and_leaves_training_grey():
    grey = digits()
    fixed, same, other = fix_binarization(grey, seed=7), fix_binarization(grey, seed=7), fix_binarization(grey, seed=8)
    assert fixed.train is grey.train
    for part in ("valid", "test"):
        x = getattr(fixed, part).x
        assert x.unique().tolist() == [0, 1]
        assert torch.equal(x, getattr(same, part).x)
        assert not torch.equal(x, getattr(other, part).x)
        assert torch.equal(getattr(fixed, part).y, getattr(grey, part).y)
    assert fixed.digest == grey.digest
    assert "seed 7" in fixed.protocol
    assert "not binarised" not in fixed.protocol


def test_only_grey_levels_are_binarised():
    with pytest.raises(ValueError, match="got 'ring', of kind 'real'"):
        fix_binarization(ring())
