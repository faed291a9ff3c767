"""Densities over the plane."""

__all__ = ["density_maps", "plane"]

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_dgm.plotting.figures import FAINT, new_figure, to_array

SIDE = 2.3  # inches
MAX_COLUMNS = 6
FULL = 0.999  # share of the points below the darkest shade, so that a spike leaves the rest to be seen


def plane(extent: float, side: int = 100) -> Tensor:
    """The points of a square lattice over [-extent, extent]^2, row by row from the bottom, of shape (side^2, 2).

    Arguments:
        extent: half the width of the square.
        side: points along an edge, in the middle of equal cells.

    Raises:
        ValueError: if the extent is not positive, or there are fewer than two points along an edge.
    """
    if not 0 < extent < float("inf") or side < 2:
        raise ValueError(
            f"a plane needs a positive extent and at least 2 points along an edge; got {extent} and {side}. "
            "plane(4.0) suits standardised data."
        )
    ticks = ((torch.arange(side) + 0.5) / side * 2 - 1) * extent
    second, first = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([first.flatten(), second.flatten()], dim=1)


def density_maps(
    log_densities: Mapping[str, Tensor | ArrayLike],
    extent: float,
    points: Mapping[str, Tensor | ArrayLike] | None = None,
    columns: int = MAX_COLUMNS,
) -> Figure:
    """Log-densities over the plane as heat maps side by side, each on a scale of its own.

    A map shows the density, not its logarithm, from white (none) to dark (its largest values).

    Arguments:
        log_densities: by title, at the points of ``plane(extent, side)``, of shape (side^2,); they need not be
            normalised.
        extent: half the width of the square.
        points: by title, points to draw over a map, of shape (N, 2).
        columns: the most maps in a row.

    Returns:
        A figure with one axes per map.

    Raises:
        ValueError: if there is no map, or one is not square or not finite.
    """
    points = points or {}
    if not log_densities or columns < 1:
        raise ValueError(
            f"there must be a density and a column; got {len(log_densities)} and {columns}. Pass {{title: log_p}}."
        )
    if unknown := [title for title in points if title not in log_densities]:
        raise ValueError(
            f"points must belong to a map; got {unknown}, the maps are {list(log_densities)}. Use a map's title."
        )
    columns = min(columns, len(log_densities))
    rows = -(-len(log_densities) // columns)
    with new_figure(SIDE * columns, (SIDE + 0.25) * rows) as figure:
        figure.set_layout_engine("constrained")
        for place, (title, values) in enumerate(log_densities.items(), start=1):
            log_p = to_array(values, f"log_densities[{title!r}]")
            side = round(log_p.size**0.5)
            if log_p.shape != (side**2,):
                raise ValueError(
                    f"a map needs the values at a square of points; got shape {log_p.shape} for {title!r}. Evaluate "
                    "the density at plane(extent, side)."
                )
            axes = figure.add_subplot(rows, columns, place)
            density = np.exp(log_p - np.quantile(log_p, FULL)).clip(max=1).reshape(side, side)
            box = (-extent, extent, -extent, extent)
            axes.imshow(density, cmap="Blues", origin="lower", extent=box, interpolation="bilinear", vmin=0, vmax=1)
            if title in points:
                first, second = to_array(points[title], f"points[{title!r}]").T
                axes.scatter(first, second, 2.0, FAINT, alpha=0.6, linewidths=0)
            axes.set(title=title, xlim=(-extent, extent), ylim=(-extent, extent), xticks=[], yticks=[])
    return figure
