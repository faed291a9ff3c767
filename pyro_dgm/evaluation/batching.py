"""Evaluation in bounded memory: data in pieces, with a bar."""

__all__ = ["Estimate", "count_rows", "pieces"]

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm


class Estimate(NamedTuple):
    """A mean over data and its standard error, both in nats per datum unless it says otherwise."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Tensor) -> "Estimate":
        """The mean of one value per datum, of shape (N,), with the standard error of sampling the data."""
        values = values.double()
        error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(values.mean().item(), error)

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.standard_error:.2f}"


def count_rows(args: Sequence[Any]) -> int:
    """The number of data in the arguments of a program: the first dimension of the first tensor.

    Raises:
        ValueError: there is no tensor, or it is empty.
    """
    for arg in args:
        if isinstance(arg, Tensor):
            if arg.dim() and len(arg):
                return len(arg)
            raise ValueError(f"there must be at least one datum; got shape {tuple(arg.shape)}. Pass data (N, *event).")
    raise ValueError("evaluation needs data; got no tensor. Pass them as the programs take them, (N, *event).")


def pieces(args: Sequence[Any], size: int, label: str, progress: bool) -> Iterator[tuple[slice, list[Any]]]:
    """Cuts every tensor argument with one row per datum into pieces of at most ``size`` rows.

    Yields:
        The rows of the piece and the arguments cut to them.
    """
    num_rows = count_rows(args)
    with tqdm(total=num_rows, desc=label, unit="datum", disable=not progress, leave=False) as bar:
        for start in range(0, num_rows, size):
            rows = slice(start, min(start + size, num_rows))
            yield rows, [arg[rows] if isinstance(arg, Tensor) and len(arg) == num_rows else arg for arg in args]
            bar.update(rows.stop - rows.start)
