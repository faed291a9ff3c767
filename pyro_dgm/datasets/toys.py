"""Two-dimensional toys: distributions whose shape, or modes, one can see."""

__all__ = ["grid", "moons", "pinwheel", "ring"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_dgm.datasets.dataset import Dataset, Split, content_digest

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


def ring(
    num_modes: int = 8,
    radius: float = 2.0,
    sd: float = 0.02,
    *,
    num_train: int = 10_000,
    num_valid: int = 1_000,
    num_test: int = 1_000,
    seed: int = 0,
) -> Dataset:
    """Equal mixture of Gaussians whose means stand evenly on a circle, the first at (radius, 0).

    References:
        Metz, Poole, Pfau and Sohl-Dickstein (2017), Unrolled Generative Adversarial Networks, arXiv:1611.02163.

    Arguments:
        num_modes: Number of Gaussians.
        radius: Radius of the circle.
        sd: Standard deviation of each Gaussian, in both directions.
        num_train: Rows of the training part.
        num_valid: Rows of the validation part.
        num_test: Rows of the test part.
        seed: Seed of the generator of all draws.

    Returns:
        Points of shape (2,), labelled by their mode, counted anticlockwise.

    Raises:
        ValueError: If a number of rows or modes is less than 1.
    """
    _require_positive(num_modes=num_modes)
    angles = torch.arange(num_modes) * (2 * math.pi / num_modes)
    means = radius * torch.stack([angles.cos(), angles.sin()], dim=1)
    protocol = f"ring of {num_modes} Gaussians, radius {radius}, sd {sd}"
    return _toy("ring", protocol, _mixture(means, sd), (num_train, num_valid, num_test), seed)


def grid(
    side: int = 5,
    spacing: float = 2.0,
    sd: float = 0.05,
    *,
    num_train: int = 10_000,
    num_valid: int = 1_000,
    num_test: int = 1_000,
    seed: int = 0,
) -> Dataset:
    """Equal mixture of Gaussians whose means stand on a square grid centred at 0.

    References:
        Srivastava et al. (2017), VEEGAN, arXiv:1705.07761.

    Arguments:
        side: Number of Gaussians along each axis.
        spacing: Distance of neighbouring means.
        sd: Standard deviation of each Gaussian, in both directions.
        num_train: Rows of the training part.
        num_valid: Rows of the validation part.
        num_test: Rows of the test part.
        seed: Seed of the generator of all draws.

    Returns:
        Points of shape (2,), labelled by their mode, row by row.

    Raises:
        ValueError: If a number of rows or modes is less than 1.
    """
    _require_positive(side=side)
    ticks = spacing * (torch.arange(side) - (side - 1) / 2)
    protocol = f"{side} x {side} grid of Gaussians, spacing {spacing}, sd {sd}"
    return _toy(
        "grid", protocol, _mixture(torch.cartesian_prod(ticks, ticks), sd), (num_train, num_valid, num_test), seed
    )


def moons(
    sd: float = 0.1, *, num_train: int = 10_000, num_valid: int = 1_000, num_test: int = 1_000, seed: int = 0
) -> Dataset:
    """Two interleaved half circles with Gaussian noise, placed as scikit-learn's `make_moons`.

    Arguments:
        sd: Standard deviation of the noise, in both directions.
        num_train: Rows of the training part.
        num_valid: Rows of the validation part.
        num_test: Rows of the test part.
        seed: Seed of the generator of all draws.

    Returns:
        Points of shape (2,), labelled 0 for the upper and 1 for the lower half circle.

    Raises:
        ValueError: If a number of rows is less than 1.
    """

    def draw(num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(2, (num,), generator=generator)
        angle = math.pi * torch.rand(num, generator=generator)
        upper = torch.stack([angle.cos(), angle.sin()], dim=1)
        lower = upper.new_tensor([1.0, 0.5]) - upper
        return torch.where(y.bool().unsqueeze(1), lower, upper) + sd * torch.randn(num, 2, generator=generator), y

    return _toy("moons", f"two moons, sd {sd}", draw, (num_train, num_valid, num_test), seed)


def pinwheel(
    num_arms: int = 5,
    radial_sd: float = 0.3,
    tangential_sd: float = 0.1,
    rate: float = 0.25,
    *,
    num_train: int = 10_000,
    num_valid: int = 1_000,
    num_test: int = 1_000,
    seed: int = 0,
) -> Dataset:
    """Gaussians around (1, 0), one per arm, twisted by rate * exp(first coordinate) and turned to their arm.

    References:
        Johnson, Duvenaud, Wiltschko, Datta and Adams (2016), Composing Graphical Models with Neural Networks,
        arXiv:1603.06277.

    Arguments:
        num_arms: Number of arms.
        radial_sd: Standard deviation along an arm.
        tangential_sd: Standard deviation across an arm.
        rate: How strongly the arms are bent; 0 leaves them straight.
        num_train: Rows of the training part.
        num_valid: Rows of the validation part.
        num_test: Rows of the test part.
        seed: Seed of the generator of all draws.

    Returns:
        Points of shape (2,), labelled by their arm, counted anticlockwise.

    Raises:
        ValueError: If a number of rows or arms is less than 1.
    """
    _require_positive(num_arms=num_arms)

    def draw(num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(num_arms, (num,), generator=generator)
        along, across = torch.randn(2, num, generator=generator)
        along, across = 1 + radial_sd * along, tangential_sd * across
        angle = y * (2 * math.pi / num_arms) + rate * along.exp()
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([along * cos - across * sin, along * sin + across * cos], dim=1), y

    protocol = f"pinwheel of {num_arms} arms, radial sd {radial_sd}, tangential sd {tangential_sd}, rate {rate}"
    return _toy("pinwheel", protocol, draw, (num_train, num_valid, num_test), seed)


def _mixture(means: Tensor, sd: float) -> Draw:
    """Draws from an equal mixture of round Gaussians with means of shape (M, 2)."""

    def draw(num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(len(means), (num,), generator=generator)
        return means[y] + sd * torch.randn(num, 2, generator=generator), y

    return draw


def _toy(name: str, protocol: str, draw: Draw, sizes: tuple[int, int, int], seed: int) -> Dataset:
    num_train, num_valid, num_test = sizes
    _require_positive(num_train=num_train, num_valid=num_valid, num_test=num_test)
    x, y = draw(sum(sizes), torch.Generator().manual_seed(seed))
    train, valid, test = (Split(*part) for part in zip(x.split(sizes), y.split(sizes), strict=True))
    return Dataset(
        name=name,
        train=train,
        valid=valid,
        test=test,
        digest=content_digest(x, y),
        protocol=f"{protocol}; {num_train:,} / {num_valid:,} / {num_test:,} draws, seed {seed}",
        event_shape=(2,),
        kind="real",
    )


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1; got {size}. A toy needs at least one row in every part.")
