"""What recipes do to data before they model them."""

__all__ = ["moved", "num_classes"]

import math
from dataclasses import replace

from pyro_dgm.datasets import Dataset, Split


def moved(dataset: Dataset, device: str, flat: bool) -> Dataset:
    """The data on a device, as vectors if asked for."""

    def move(split: Split) -> Split:
        x = split.x.flatten(1) if flat else split.x
        return Split(x.to(device), None if split.y is None else split.y.to(device), split.lengths)

    shape = (math.prod(dataset.event_shape),) if flat else dataset.event_shape
    return replace(
        dataset, train=move(dataset.train), valid=move(dataset.valid), test=move(dataset.test), event_shape=shape
    )


def num_classes(dataset: Dataset) -> int:
    """The number of classes, or 0 where a split has no labels."""
    labels = [split.y for split in (dataset.train, dataset.valid, dataset.test)]
    return 0 if any(y is None for y in labels) else 1 + max(int(y.max()) for y in labels if y is not None)
