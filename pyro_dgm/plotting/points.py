"""Clouds of points in the plane, such as samples over the modes of their data."""

__all__ = ["point_clouds"]

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_dgm.plotting.figures import COLOURS, FAINT, Array, new_figure, to_array

SIDE = 2.3  # inches
MAX_COLUMNS = 6
MARGIN = 0.08  # of the extent
HALO = 6.0  # area of a point of the reference, over that of a sample that may cover it
INSIDE = 0.99  # share of the points that must be seen: a few that are far away do not shrink the rest


def point_clouds(
    clouds: Mapping[str, Tensor | ArrayLike],
    reference: Tensor | ArrayLike | None = None,
    columns: int = MAX_COLUMNS,
) -> Figure:
    """Points of the plane side by side on one scale, each cloud over the same reference.

    The scale shows all of the reference and at least 99 % of each cloud; how many points lie outside is said below it.

    Arguments:
        clouds: by title, samples of shape (N, 2).
        reference: what they are compared with, data or the means of modes, of shape (M, 2); drawn in grey and larger,
            below.
        columns: the most clouds in a row.

    Returns:
        A figure with one axes per cloud, which holds the reference, if there is one, and then the cloud.

    Raises:
        ValueError: if there is no cloud, points are not in the plane, or something is not finite.
    """
    if not clouds or columns < 1:
        raise ValueError(
            f"there must be a cloud and a column; got {len(clouds)} and {columns}. Pass {{title: points}}."
        )
    behind = None if reference is None else _points(reference, "reference")
    arrays = {title: _points(points, f"clouds[{title!r}]") for title, points in clouds.items()}
    centre, extent = _window(arrays, behind)
    columns = min(columns, len(arrays))
    rows = -(-len(arrays) // columns)
    with new_figure(SIDE * columns, (SIDE + 0.3) * rows) as figure:
        figure.set_layout_engine("constrained")
        for place, (title, points) in enumerate(arrays.items(), start=1):
            axes = figure.add_subplot(rows, columns, place)
            if behind is not None:
                axes.scatter(behind[:, 0], behind[:, 1], HALO * _area(behind), FAINT, alpha=0.4, linewidths=0)
            axes.scatter(points[:, 0], points[:, 1], _area(points), COLOURS[0], alpha=0.6, linewidths=0)
            low, high = centre - extent, centre + extent
            axes.set(title=title, xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
            axes.set_aspect("equal")
            outside = int((np.abs(points - centre) > extent).any(axis=1).sum())
            if outside:
                axes.set_xlabel(f"{outside} of {len(points)} outside")
    return figure


def _points(values: Tensor | ArrayLike, name: str) -> Array:
    points = to_array(values, name)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{name} must be of shape (N, 2); got {points.shape}. Choose two features: x[:, :2].")
    return points


def _window(clouds: Mapping[str, Array], behind: Array | None) -> tuple[Array, float]:
    """Centre and half the side of a square with all of the reference and most of every cloud."""
    tail = (1 - INSIDE) / 4  # at each of four sides
    corners = [np.quantile(points, [tail, 1 - tail], axis=0) for points in clouds.values()]
    corners += [] if behind is None else [behind]
    seen = np.concatenate(corners)
    low, high = seen.min(axis=0), seen.max(axis=0)
    return (low + high) / 2, float((high - low).max() / 2) * (1 + MARGIN) or 1.0


def _area(points: Array) -> float:
    """The area of a point, in points squared: smaller the more there are."""
    return min(max(4000 / len(points), 1.0), 14.0)
