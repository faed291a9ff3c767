"""Minibatches without end."""

__all__ = ["endless", "same"]

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from pyro_dgm.datasets import Batches


def endless(
    *tensors: Tensor, size: int, seed: int, transform: Any = None
) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
    """Begins minibatches of so many rows, epoch after epoch, always in the order of the seed."""

    def begin() -> Iterator[tuple[Tensor, ...]]:
        batches = Batches(*tensors, batch_size=size, seed=seed, transform=transform, drop_last=True)
        while True:
            for batch in batches:
                yield batch if isinstance(batch, tuple) else (batch,)

    return begin


def same(*tensors: Tensor) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
    """Begins minibatches that are all of the data, every time."""

    def begin() -> Iterator[tuple[Tensor, ...]]:
        while True:
            yield tensors

    return begin
