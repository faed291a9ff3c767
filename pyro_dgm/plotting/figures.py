"""What all pictures share: arrays from tensors, a style that stays local, colours, files."""

__all__ = ["COLOURS", "new_figure", "save_figure", "to_array"]

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pyro_dgm.files import replace_atomically

Array: TypeAlias = NDArray[np.float64]

COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
"""Ten colours told apart under colour-vision deficiency: Petroff (2021), arXiv:2107.02270."""

INK, FAINT = "#333333", "#999999"
STYLE = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.markersize": 5.0,
    "figure.facecolor": "white",
    "image.interpolation": "nearest",
    "image.origin": "upper",
}


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of that size in inches, in the house style for as long as the block lasts."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height))


def to_array(values: Tensor | ArrayLike, name: str) -> Array:
    """A float64 array that is finite and not empty, wherever the tensor was.

    Raises:
        ValueError: if there is nothing in it, or something that is not finite.
    """
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError(f"{name} must not be empty; got shape {array.shape}. Pass at least one.")
    wrong = array.size - int(np.isfinite(array).sum())
    if wrong:
        raise ValueError(
            f"{name} must be finite; got {wrong} of {array.size} values that are NaN or infinite. "
            "Look for the step or the datum where they first occur."
        )
    return array


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 200) -> Path:
    """Writes a figure as PNG; the file is either complete or not there.

    Arguments:
        figure: any Matplotlib figure.
        path: ends in `.png`; its folder is made if need be; what was there is replaced by a complete picture.
        dpi: pixels per inch.

    Returns:
        The path.

    Raises:
        ValueError: if the path has another ending.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(
            f"a picture's path must end in .png; got {str(path)!r}. Use {str(path.with_suffix('.png'))!r}."
        )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as draft:
        draft.write_bytes(picture.getvalue())
    return path
