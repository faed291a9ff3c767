"""Where the guide puts the data."""

__all__ = ["latent_space"]

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pyro_dgm.plotting.figures import COLOURS, Array, new_figure, to_array

MARKERS = "o^sDv"
SIDE = 4.4  # inches


def latent_space(z: Tensor | ArrayLike, labels: Tensor | ArrayLike | None = None) -> Figure:
    """Points of a latent space, one colour per label.

    Two dimensions are shown as they are, more as their first two principal components, whose share of the variance is
    on the axes; one dimension gives a histogram per label. Points are drawn in their order, so that no class hides
    another; past ten classes the colours return with another marker.

    Arguments:
        z: latent points, such as the means of the guide, of shape (N, d).
        labels: one class per point (integers or strings, at most fifty different ones), of shape (N,).

    Returns:
        A figure with one axes.

    Raises:
        ValueError: if the shapes do not fit, z is not finite, or there are too many classes.
    """
    points = to_array(z, "z")
    if points.ndim != 2 or (points.shape[1] > 2 and len(points) < 2):
        raise ValueError(
            f"z must be of shape (N, d), with N of at least 2 beyond two dimensions; got {points.shape}. "
            "Flatten the event dimensions: z.flatten(1)."
        )
    names, members = _classes(labels, len(points))
    flat = points.shape[1] == 1
    with new_figure(SIDE + 0.8 * bool(names), 0.65 * SIDE if flat else SIDE) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot()
        if flat:
            _histograms(axes, points[:, 0], members)
        else:
            _scatter(axes, points, members)
        if names:
            _legend(axes, names)
    return figure


def _classes(labels: Tensor | ArrayLike | None, count: int) -> tuple[list[str], NDArray[np.int64]]:
    """The names of the classes in order, and the class of each point."""
    if labels is None:
        return [], np.zeros(count, dtype=np.int64)
    array = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if array.shape != (count,):
        raise ValueError(
            f"labels must be of shape ({count},), one per row of z; got {array.shape}. "
            "For one-hot labels take the argmax over their last dimension."
        )
    classes, members = np.unique(array, return_inverse=True)
    if len(classes) > len(COLOURS) * len(MARKERS):
        raise ValueError(
            f"labels must have at most {len(COLOURS) * len(MARKERS)} different values, to be told apart; "
            f"got {len(classes)}. Group them, or pass labels=None."
        )
    return [str(label) for label in classes], members


def _scatter(axes: Axes, points: Array, members: NDArray[np.int64]) -> None:
    names = ["$z_1$", "$z_2$"]
    if points.shape[1] > 2:
        points, shares = _principal_components(points)
        names = [f"PC {i} ({share:.0%} of the variance)" for i, share in enumerate(shares, start=1)]
    size = min(max(16000 / len(points), 3.0), 18.0)
    markers, colours = np.divmod(members, len(COLOURS))
    for marker in np.unique(markers):
        chosen = markers == marker
        first, second = points[chosen].T
        colour = np.array(COLOURS)[colours[chosen]]
        axes.scatter(first, second, size, colour, marker=MARKERS[marker], alpha=0.8, linewidths=0)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.set_aspect("equal", adjustable="datalim")


def _principal_components(points: Array) -> tuple[Array, Array]:
    """The first two principal components, and their shares of the variance (zero if there is none)."""
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):
        pca = PCA(n_components=2, svd_solver="full").fit(points)
    return pca.transform(points), np.nan_to_num(pca.explained_variance_ratio_)


def _histograms(axes: Axes, points: Array, members: NDArray[np.int64]) -> None:
    bins = min(60, max(10, int(np.sqrt(len(points)))))
    edges = np.histogram_bin_edges(points, bins).tolist()
    for index in np.unique(members):
        colour = COLOURS[index % len(COLOURS)]
        axes.hist(points[members == index], edges, histtype="stepfilled", color=colour, alpha=0.15)
        axes.hist(points[members == index], edges, histtype="step", color=colour, linewidth=1.2)
    axes.set_xlabel("$z$")
    axes.set_ylabel("points")


def _legend(axes: Axes, names: Sequence[str]) -> None:
    keys = []
    for index, name in enumerate(names):
        marker, colour = divmod(index, len(COLOURS))
        keys.append(Line2D([], [], linestyle="", marker=MARKERS[marker], color=COLOURS[colour], label=name))
    columns = -(-len(names) // 16)
    axes.legend(handles=keys, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns, handletextpad=0.3)
