"""Images side by side: samples, reconstructions, the manifold of a latent space, interpolations.

Images have values in [0, 1], 0 black and 1 white. They may be of shape (N, H, W), (N, 1, H, W) or (N, 3, H, W), or flat
vectors (N, D) with `image_shape` given as (H, W) or (C, H, W).
"""

__all__ = ["image_grid", "interpolations", "manifold", "manifold_grid", "reconstructions", "vector_arithmetic"]

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_dgm.plotting.figures import Array, new_figure, to_array

Images = Tensor | ArrayLike

TILE = 0.62  # inches across
NARROWEST, WIDEST = 2.0, 9.0  # inches, of a picture
PAD, LABEL, TITLE = 0.06, 0.25, 0.35  # inches around it
GAP = 0.06  # of a tile
SIGN = 0.35  # of a tile, between those of a sum
ROUNDING = 1e-4


def image_grid(
    images: Images,
    columns: int | None = None,
    title: str | None = None,
    image_shape: Sequence[int] | None = None,
) -> Figure:
    """Images row by row, such as samples of a model.

    Arguments:
        images: of shape (N, H, W), (N, 1, H, W), (N, 3, H, W), or (N, D) with `image_shape`; in [0, 1].
        columns: images per row; by default the grid is nearly square.
        title: a line above.
        image_shape: (H, W) or (C, H, W) of flat images.

    Returns:
        A figure with one axes, which holds one image artist per image, in order.
    """
    tiles = _tiles(images, "images", image_shape)
    columns = _columns(columns, len(tiles), math.ceil(math.sqrt(len(tiles))))
    step = 1 + GAP
    places = [(n % columns * step, n // columns * step) for n in range(len(tiles))]
    figure, axes = _picture(tiles, places, top=TITLE if title else PAD)
    if title:
        axes.set_title(title)
    return figure


def reconstructions(
    x: Images, x_hat: Images, columns: int | None = None, image_shape: Sequence[int] | None = None
) -> Figure:
    """Each image above its reconstruction.

    Arguments:
        x: the originals, of shape (N, H, W), (N, 1, H, W), (N, 3, H, W), or (N, D) with `image_shape`; in [0, 1].
        x_hat: the reconstructions, of the same shape.
        columns: pairs per row; by default at most ten.
        image_shape: (H, W) or (C, H, W) of flat images.

    Returns:
        A figure with one axes, which holds the N originals and then the N reconstructions as image artists.
    """
    originals, copies = _tiles(x, "x", image_shape), _tiles(x_hat, "x_hat", image_shape)
    if originals.shape != copies.shape:
        raise ValueError(
            f"x_hat must have the shape of x; got {copies.shape} for {originals.shape}. Pass the images of one batch."
        )
    columns = _columns(columns, len(originals), 10)
    step, band = 1 + GAP, 2 + 5 * GAP
    above = [(n % columns * step, n // columns * band) for n in range(len(originals))]
    below = [(left, top + step) for left, top in above]
    figure, axes = _picture(np.concatenate([originals, copies]), above + below, left=0.95)
    bands = -(-len(originals) // columns)
    height = originals.shape[1]
    middles = [(b * band + row * step + 0.5) * height for b in range(bands) for row in (0, 1)]
    axes.set_yticks(middles, ["original", "reconstructed"] * bands)
    return figure


def interpolations(images: Images) -> Figure:
    """One row per path through the latent space, from its start on the left to its end on the right.

    Arguments:
        images: the decoded points, of shape (rows, steps, H, W), (rows, steps, 1, H, W) or (rows, steps, 3, H, W);
            in [0, 1].

    Returns:
        A figure with one axes, which holds one image artist per image, row by row.
    """
    array = to_array(images, "images")
    if array.ndim not in (4, 5):
        raise ValueError(
            "interpolations must be of shape (rows, steps, H, W) or (rows, steps, C, H, W); "
            f"got {array.shape}. For a single row add a dimension: images[None]."
        )
    rows, steps = array.shape[:2]
    tiles = _tiles(array.reshape(rows * steps, *array.shape[2:]), "images", None)
    figure, axes = _picture(tiles, [(s, r * (1 + 3 * GAP)) for r in range(rows) for s in range(steps)], bottom=LABEL)
    width = tiles.shape[2]
    axes.set_xticks([0.5 * width, (steps - 0.5) * width], ["start", "end"])
    return figure


def vector_arithmetic(
    a: Images, b: Images, c: Images, result: Images, image_shape: Sequence[int] | None = None
) -> Figure:
    """Rows of a - b + c = result, as sums of latents look in data space.

    Arguments:
        a: images, of shape (N, H, W), (N, 1, H, W), (N, 3, H, W), or (N, D) with `image_shape`; in [0, 1].
        b: images that are subtracted, of the same shape.
        c: images that are added, of the same shape.
        result: the decoded sums, of the same shape, as `evaluation.latent_arithmetic` gives them.
        image_shape: (H, W) or (C, H, W) of flat images.

    Returns:
        A figure with one axes, which holds four image artists per row, row by row, and the signs between them.
    """
    given = {"a": a, "b": b, "c": c, "result": result}
    columns = [_tiles(images, name, image_shape) for name, images in given.items()]
    if len({tiles.shape for tiles in columns}) > 1:
        shapes = ", ".join(str(tiles.shape) for tiles in columns)
        raise ValueError(f"a, b, c and result must have one shape; got {shapes}. Pass one row of each per sum.")
    num, height, width = columns[0].shape[:3]
    across, down = 1 + SIGN, 1 + 3 * GAP
    places = [(column * across, row * down) for row in range(num) for column in range(4)]
    figure, axes = _picture(np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:]), places)
    for row in range(num):
        for column, sign in enumerate("−+="):
            x, y = (column * across + 1 + SIGN / 2) * width, (row * down + 0.5) * height
            axes.text(x, y, sign, ha="center", va="center", fontsize=12)
    return figure


def manifold(images: Images, columns: int | None = None, image_shape: Sequence[int] | None = None) -> Figure:
    """A map of a two-dimensional latent space: the decoded points of `manifold_grid`, without gaps.

    Arguments:
        images: the decoded lattice, row by row from the top left, of shape (N, H, W), (N, 1, H, W), (N, 3, H, W), or
            (N, D) with `image_shape`; in [0, 1].
        columns: images per row; by default N is taken for a square.
        image_shape: (H, W) or (C, H, W) of flat images.

    Returns:
        A figure with one axes, which holds a single image artist.
    """
    tiles = _tiles(images, "images", image_shape)
    columns = _columns(columns, len(tiles), math.isqrt(len(tiles)))
    if len(tiles) % columns:
        raise ValueError(
            f"a manifold must have as many images in each row; got {len(tiles)} for {columns} columns. "
            "Decode manifold_grid(num), or give the number of columns."
        )
    height, width = tiles.shape[1:3]
    rows = len(tiles) // columns
    mosaic = tiles.reshape(rows, columns, height, width, -1).swapaxes(1, 2)
    mosaic = mosaic.reshape(1, rows * height, columns * width, *tiles.shape[3:])
    inches = min(max(0.35 * columns, NARROWEST), WIDEST)
    figure, axes = _picture(mosaic, [(0, 0)], inches, left=LABEL, bottom=LABEL)
    axes.set_xlabel("$z_1$", labelpad=1)
    axes.set_ylabel("$z_2$", labelpad=1)
    return figure


def manifold_grid(num: int, quantiles: tuple[float, float] = (0.02, 0.98)) -> Tensor:
    r"""A lattice over a two-dimensional standard normal latent, with equal probability between its lines.

    :math:`z = \Phi^{-1}(u)` for evenly spaced :math:`u`, as in figure 4 of the reference. The first point is at the
    top left, with the smallest :math:`z_1` and the largest :math:`z_2`; :math:`z_1` varies fastest.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114.

    Arguments:
        num: points along each side.
        quantiles: the least and the greatest u.

    Returns:
        The points, of shape (num * num, 2).

    >>> manifold_grid(3, (0.1, 0.9))[:2]
    tensor([[-1.2816,  1.2816],
            [ 0.0000,  1.2816]])
    """
    low, high = quantiles
    if num < 2 or not 0 < low < high < 1:
        raise ValueError(
            "a manifold's grid must have num of at least 2 and quantiles 0 < low < high < 1; "
            f"got num={num} and quantiles={quantiles}. The ends of the normal are at infinity: stay inside (0, 1)."
        )
    line = torch.special.ndtri(torch.linspace(low, high, num))
    z_2, z_1 = torch.meshgrid(line.flip(0), line, indexing="ij")
    return torch.stack([z_1, z_2], dim=-1).reshape(-1, 2)


def _tiles(images: Images, name: str, image_shape: Sequence[int] | None) -> Array:
    """The images as an array of shape (N, H, W), or (N, H, W, 3) if they have colours."""
    array = to_array(images, name)
    if array.ndim == 2 and image_shape is not None:
        if array.shape[1] != math.prod(image_shape):
            raise ValueError(
                f"{name} must have as many features as image_shape {tuple(image_shape)} has pixels; "
                f"got {array.shape[1]}. Give the shape of one image."
            )
        array = array.reshape(len(array), *image_shape)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise ValueError(
            f"{name} must be of shape (N, H, W), (N, 1, H, W) or (N, 3, H, W); got {array.shape}. "
            "Give image_shape=(H, W) for flat images, and add a dimension to a single one."
        )
    if array.min() < -ROUNDING or array.max() > 1 + ROUNDING:
        raise ValueError(
            f"{name} must have values in [0, 1]; got {array.min():.4g} to {array.max():.4g}. "
            "Divide 8-bit pixels by 255, or clamp: images.clamp(0, 1)."
        )
    array = array.clip(0, 1)
    return array[:, 0] if array.shape[1] == 1 else np.moveaxis(array, 1, -1)


def _columns(columns: int | None, count: int, default: int) -> int:
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be at least 1; got {columns}. Leave it out for the default.")
    return min(columns or default, count)


def _picture(
    tiles: Array,
    places: list[tuple[float, float]],
    inches: float | None = None,
    left: float = PAD,
    bottom: float = PAD,
    top: float = PAD,
) -> tuple[Figure, Axes]:
    """Draws tiles at places (left, top), in units of a tile; the axes count pixels of the images, downwards.

    The tiles are `inches` across; the other lengths are room for labels, in inches too.
    """
    height, width = tiles.shape[1:3]
    across = max(place for place, _ in places) + 1
    down = max(place for _, place in places) + 1
    inches = inches or min(max(TILE * across, NARROWEST), WIDEST)
    tall = inches * (down * height) / (across * width)
    whole = (left + inches + PAD, bottom + tall + top)
    with new_figure(*whole) as figure:
        axes = figure.add_axes((left / whole[0], bottom / whole[1], inches / whole[0], tall / whole[1]))
        for tile, (x, y) in zip(tiles, places, strict=True):
            corners = (x * width, (x + 1) * width, (y + 1) * height, y * height)
            axes.imshow(tile, cmap="gray", vmin=0, vmax=1, extent=corners)
        axes.set(xlim=(0, across * width), ylim=(down * height, 0), xticks=[], yticks=[])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure, axes
