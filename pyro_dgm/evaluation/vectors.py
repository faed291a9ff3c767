"""Sets of feature vectors: what they must be, and the distances between them in bounded memory."""

__all__ = ["check_number", "check_pair", "check_vectors", "distances"]

import math
from collections.abc import Iterator
from numbers import Real

import torch
from torch import Tensor

MAX_DISTANCES = 5_000_000  # that are in memory at once


def check_vectors(x: Tensor, name: str, least: int = 1) -> Tensor:
    """Returns vectors in float64 and without gradient, if they are of shape (n, D), n at least ``least``, and finite.

    Raises:
        TypeError: they are no tensor, or a complex one.
        ValueError: the shape is another, or a value is NaN or infinite.
    """
    if not isinstance(x, Tensor) or x.is_complex():
        kind = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a tensor of real numbers; got {kind}. Convert it with torch.as_tensor.")
    if x.dim() != 2 or len(x) < least or not x.shape[1]:
        raise ValueError(
            f"{name} must have shape (n, D) with n of at least {least}; got {tuple(x.shape)}. Flatten what one row "
            "holds: x.flatten(1)."
        )
    bad = int((~x.isfinite()).any(dim=1).sum())
    if bad:
        raise ValueError(
            f"{name} must be finite; got NaN or infinite values in {bad} of {len(x)} rows. Look at what made them."
        )
    return x.detach().double()


def check_pair(x: Tensor, y: Tensor, names: tuple[str, str] = ("x", "y"), least: int = 2) -> tuple[Tensor, Tensor]:
    """Returns two sets of vectors as ``check_vectors`` does, if they have the same number of features.

    Raises:
        TypeError: one is no tensor, or a complex one.
        ValueError: a shape is another, or a value is NaN or infinite.
    """
    first, second = check_vectors(x, names[0], least), check_vectors(y, names[1], least)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same number of features; got {first.shape[1]} and "
            f"{second.shape[1]}. Take both from one network."
        )
    return first, second


def check_number(name: str, value: float, cure: str, most: float = math.inf, positive: bool = True) -> float:
    """Returns a finite number if it is positive (or at least 0) and at most that.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number; got {value!r}. {cure}")
    if not 0 <= value <= most or value == math.inf or (positive and not value):
        kind = "positive and finite" if positive else "finite and at least 0"
        limit = "" if most == math.inf else f", at most {most:g}"
        raise ValueError(f"{name} must be {kind}{limit}; got {value}. {cure}")
    return float(value)


def distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances from some rows of x after the other to all of y: the rows, and (their number, m).

    They are sums of squared differences, not differences of squared norms, so that equal rows are at distance zero.
    """
    at_once = max(1, MAX_DISTANCES // len(y))
    for start in range(0, len(x), at_once):
        rows = slice(start, min(start + at_once, len(x)))
        yield rows, torch.cdist(x[rows], y, compute_mode="donot_use_mm_for_euclid_dist")
