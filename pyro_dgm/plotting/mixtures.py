"""Where a mixture of Gaussians has put its components."""

__all__ = ["mixture_components"]

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_dgm.plotting.figures import COLOURS, FAINT, Array, new_figure, to_array

SIDE = 4.4  # inches
POINT = 4.0  # area of a datum
FAINTEST = 0.25  # how opaque a component of weight zero is


def mixture_components(
    x: Tensor | ArrayLike, weights: Tensor | ArrayLike, loc: Tensor | ArrayLike, covariance: Tensor | ArrayLike
) -> Figure:
    """Data and the components of a mixture of Gaussians, as ellipses at one and two standard deviations.

    A component fades with its weight. Beyond two dimensions both are shown as they are projected on the data's first
    two principal components; in one dimension the data are a histogram, and the components their densities.

    Arguments:
        x: data, of shape (N, D).
        weights: the components' probabilities, of shape (K,).
        loc: their means, of shape (K, D).
        covariance: their covariances, of shape (K, D, D).

    Returns:
        A figure with one axes, which holds two ellipses (or a line) for every component, in order.

    Raises:
        ValueError: if the shapes do not fit, or something is not finite.
    """
    points, shares = to_array(x, "x"), to_array(weights, "weights")
    means, spreads = to_array(loc, "loc"), to_array(covariance, "covariance")
    features = points.shape[-1]
    if points.ndim != 2 or means.shape != (len(shares), features) or spreads.shape != (*means.shape, features):
        raise ValueError(
            "x, weights, loc and covariance must be of shapes (N, D), (K,), (K, D) and (K, D, D); got "
            f"{points.shape}, {shares.shape}, {means.shape} and {spreads.shape}. Pass those of one mixture."
        )
    names = ["$x_1$", "$x_2$"]
    if features > 2:
        names = ["PC 1", "PC 2"]
        centre = points.mean(0)
        basis = np.linalg.svd(points - centre, full_matrices=False)[2][:2]
        points, means, spreads = (points - centre) @ basis.T, (means - centre) @ basis.T, basis @ spreads @ basis.T
    with new_figure(SIDE, SIDE if features > 1 else 0.65 * SIDE) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot()
        if features == 1:
            _densities(axes, points[:, 0], shares, means[:, 0], np.sqrt(spreads[:, 0, 0]))
        else:
            _ellipses(axes, points, shares, means, spreads)
            axes.set(xlabel=names[0], ylabel=names[1])
    return figure


def _ellipses(axes: Axes, points: Array, shares: Array, means: Array, spreads: Array) -> None:
    axes.scatter(points[:, 0], points[:, 1], POINT, FAINT, alpha=0.5, linewidths=0)
    for k, (share, mean, spread) in enumerate(zip(shares, means, spreads, strict=True)):
        variances, directions = np.linalg.eigh(spread)
        width, height = 2 * np.sqrt(variances.clip(min=0))  # of one standard deviation to either side
        angle = np.degrees(np.arctan2(directions[1, 0], directions[0, 0]))
        colour, opacity = COLOURS[k % len(COLOURS)], _opacity(share, shares)
        for number in (1, 2):
            axes.add_patch(
                Ellipse(
                    (mean[0], mean[1]),
                    number * width,
                    number * height,
                    angle=angle,
                    fill=False,
                    edgecolor=colour,
                    linewidth=1.6 / number,
                    alpha=opacity,
                )
            )
    axes.set_aspect("equal", adjustable="datalim")
    axes.autoscale_view()


def _densities(axes: Axes, points: Array, shares: Array, means: Array, sds: Array) -> None:
    bins = min(60, max(10, int(np.sqrt(len(points)))))
    axes.hist(points, bins, density=True, color=FAINT, alpha=0.3)
    line = np.linspace(min(points.min(), (means - 3 * sds).min()), max(points.max(), (means + 3 * sds).max()), 500)
    for k, (share, mean, sd) in enumerate(zip(shares, means, sds, strict=True)):
        density = share * np.exp(-0.5 * ((line - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
        axes.plot(line, density, color=COLOURS[k % len(COLOURS)], linewidth=1.4, alpha=_opacity(share, shares))
    axes.set(xlabel="$x$", ylabel="density")


def _opacity(share: float, shares: Array) -> float:
    return float(FAINTEST + (1 - FAINTEST) * share / shares.max())
