"""What critics, estimators and penalties are given, checked at the door."""

__all__ = ["check_number", "check_scores", "check_sites"]

import math
from collections.abc import Callable, Sequence

from torch import Tensor


def check_number(name: str, value: float, rule: str, holds: Callable[[float], bool], cure: str) -> float:
    """Returns a finite number for which a rule holds.

    Arguments:
        name: what it is called.
        value: the number.
        rule: in words, after "must".
        holds: the rule.
        cure: a sentence.

    Raises:
        TypeError: it is no number.
        ValueError: it breaks the rule.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number; got {value!r}. {cure}")
    if not math.isfinite(value) or not holds(value):
        raise ValueError(f"{name} must {rule}; got {value}. {cure}")
    return float(value)


def check_scores(num: Tensor, den: Tensor, name: str) -> None:
    """Checks that the scores of two sets of draws are vectors, one number a draw.

    Raises:
        TypeError: they are no tensors of floating point.
        ValueError: they have another shape, or there are none.
    """
    for side, scores in (("num", num), ("den", den)):
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            found = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise TypeError(f"{name} reads scores of floating point; got {found} of {side}. Pass critic(*values).")
        if scores.dim() != 1 or not len(scores):
            raise ValueError(
                f"{name} reads one score per draw, of shape (B,); got shape {tuple(scores.shape)} of {side}. Wrap the "
                "network in a Critic, or squeeze its last dimension, and pass at least one draw."
            )


def check_sites(num: Sequence[Tensor], den: Sequence[Tensor], name: str) -> tuple[tuple[Tensor, ...], ...]:
    """Returns the values of the sites of two sets of draws as tuples, if they can be compared.

    Arguments:
        num: values (B, *event) of each site.
        den: values (B', *event) of the same sites.
        name: who asks.

    Raises:
        TypeError: they are no sequences of tensors.
        ValueError: there is no site or no draw, or the two have other sites or shapes.
    """
    for side, values in (("num", num), ("den", den)):
        if isinstance(values, Tensor) or not all(isinstance(value, Tensor) for value in values):
            raise TypeError(
                f"{name} reads a tuple of tensors, one per site; got {type(values).__name__} of {side}. Write (x,) for "
                "a single site."
            )
        rows = {value.shape[:1] for value in values}
        if len(rows) != 1 or not all(row.numel() for row in rows):
            raise ValueError(
                f"{name} reads sites of one batch, one row per draw; got shapes {_shapes(values)} of {side}. Give "
                "every site as many rows, at least one."
            )
    if [value.shape[1:] for value in num] != [value.shape[1:] for value in den]:
        raise ValueError(
            f"{name} compares the same sites of num and den; got shapes {_shapes(num)} and {_shapes(den)}. Pass the "
            "sites in one order, with one event shape."
        )
    return tuple(num), tuple(den)


def _shapes(values: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(value.shape) for value in values]
