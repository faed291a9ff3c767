"""Facts about the generated data: their moments, their shapes and their seeds."""

import math

import pytest
import torch

from pyro_dgm.datasets import grid, moons, pinwheel, ring

TOYS = [ring, grid, moons, pinwheel]


def within(sample, mean, sd, standard_errors=4.5):
    """Whether column means of a sample of shape (N, ...) are the stated ones."""
    return ((sample.mean(dim=0) - mean).abs() <= standard_errors * sd / math.sqrt(len(sample))).all()


@pytest.mark.parametrize("toy", TOYS)
def test_toy_is_fixed_by_its_seed_and_sizes(toy):
    data, same, other = (toy(num_train=30, num_valid=20, num_test=10, seed=seed) for seed in (1, 1, 2))
    assert [len(part.x) for part in (data.train, data.valid, data.test)] == [30, 20, 10]
    assert torch.equal(data.train.x, same.train.x)
    assert data.digest == same.digest != other.digest
    assert data.train.x.dtype == torch.get_default_dtype()
    assert "seed 1" in data.protocol


@pytest.mark.parametrize("toy", TOYS)
def test_toy_without_rows_is_refused(toy):
    with pytest.raises(ValueError, match="num_valid must be at least 1; got 0"):
        toy(num_valid=0)


def test_ring_and_grid_are_equal_mixtures_around_their_means():
    angles = torch.arange(6) * math.pi / 3
    ring_means = 3 * torch.stack([angles.cos(), angles.sin()], dim=1)
    grid_means = torch.tensor([[a, b] for a in (-2.0, 0.0, 2.0) for b in (-2.0, 0.0, 2.0)])
    cases = [
        (ring(6, 3.0, 0.1, num_train=12_000), ring_means, 0.1),
        (grid(3, num_train=12_000), grid_means, 0.05),
    ]
    for data, means, sd in cases:
        x, y = data.train.x, data.train.y
        residual = (x - means[y]) / sd
        assert within(residual, 0, 1)
        assert within(residual**2, 1, math.sqrt(2))
        share = 1 / len(means)
        assert within(torch.nn.functional.one_hot(y, len(means)).float(), share, math.sqrt(share * (1 - share)))


def test_moons_lie_on_two_half_circles():
    data = moons(sd=0.0, num_train=2_000)
    x, y = data.train.x, data.train.y
    upper, lower = x[y == 0], torch.tensor([1.0, 0.5]) - x[y == 1]
    for half in (upper, lower):
        assert torch.allclose(half.norm(dim=1), torch.ones(len(half)), atol=1e-6)
        assert half[:, 1].min() >= -1e-6
        # the mean of (cos, sin) at a uniform angle in [0, pi] is (0, 2 / pi); both variances are at most 1/2
        assert within(half, torch.tensor([0, 2 / math.pi]), math.sqrt(0.5))


def test_straightened_pinwheel_is_gaussian_around_one_in_every_arm():
    arms, rate = 4, 0.3
    data = pinwheel(arms, 0.2, 0.05, rate, num_train=8_000)
    x, y = data.train.x, data.train.y
    # undo the turn, then the twist: |across| << along, so along is nearly the radius
    radius, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    along = radius.clone()
    for _ in range(50):  # fixed point: across = radius * sin(angle - turn(along))
        across = radius * torch.sin(angle - y * (2 * math.pi / arms) - rate * along.exp())
        along = (radius**2 - across**2).clamp(min=0).sqrt()
    near = (along > 0.4) & (along < 1.6)  # all within 3 sd, where the fixed point converges
    assert near.float().mean() > 0.99
    assert within(across[near], 0, 0.05)
    assert (along[near].mean() - 1).abs() < 0.02
