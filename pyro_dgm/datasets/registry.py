"""Data sets by name."""

__all__ = ["NAMES", "load"]

import difflib
from collections.abc import Callable
from typing import Any

from pyro_dgm.datasets.dataset import Dataset
from pyro_dgm.datasets.images import digits, fashion_mnist, mnist
from pyro_dgm.datasets.larochelle import binarized_mnist
from pyro_dgm.datasets.linear_gaussian import ppca
from pyro_dgm.datasets.music import jsb_chorales
from pyro_dgm.datasets.text import names, qm9_smiles, tiny_shakespeare
from pyro_dgm.datasets.toys import grid, moons, pinwheel, ring

_LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "binarized_mnist": binarized_mnist,
    "jsb_chorales": jsb_chorales,
    "tiny_shakespeare": tiny_shakespeare,
    "names": names,
    "qm9_smiles": qm9_smiles,
    "ring": ring,
    "grid": grid,
    "moons": moons,
    "pinwheel": pinwheel,
    "ppca": lambda **options: ppca(**options).dataset,
}

NAMES: tuple[str, ...] = tuple(_LOADERS)
"""The names that `load` knows."""


def load(name: str, **options: Any) -> Dataset:
    """The data set of a name.

    Arguments:
        name: One of `NAMES`.
        options: Arguments of the loader of that name, such as `seed`.

    Raises:
        ValueError: If the name is unknown; the message gives the nearest ones.
        DatasetError: If a file is missing and cannot be downloaded, or is truncated or altered.

    Example:
        >>> load("digits")
        Dataset('digits', 1,285 + 256 + 256 rows of (1, 8, 8) grey, sha256 ...)
    """
    if name not in _LOADERS:
        near = difflib.get_close_matches(name, NAMES) or NAMES
        raise ValueError(
            f"name must be a data set of pyro_dgm.datasets.NAMES; got {name!r}. Did you mean {' or '.join(near)}?"
        )
    return _LOADERS[name](**options)
