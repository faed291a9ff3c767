"""The components of a mixture, over the data."""

import numpy as np
import pytest

from contracts import refuses
from pyro_dgm.plotting import mixture_components


def parts(features: int, components: int = 3) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(0)
    spread = draw.normal(size=(components, features, features))
    return (
        draw.normal(size=(50, features)),
        draw.dirichlet(np.ones(components)),
        draw.normal(size=(components, features)),
        spread @ spread.swapaxes(1, 2),
    )


def test_an_ellipse_is_a_level_set_of_its_component():
    """The corners of the ellipse at s standard deviations have Mahalanobis distance s."""
    x, weights, loc, covariance = parts(2)
    (axes,) = mixture_components(x, weights, loc, covariance).axes
    np.testing.assert_allclose(axes.collections[0].get_offsets(), x)
    for i, ellipse in enumerate(axes.patches):
        k, number = i // 2, 1 + i % 2
        away = ellipse.get_corners().mean(0) - loc[k]
        np.testing.assert_allclose(away, 0, atol=1e-9)
        ends = np.concatenate([ellipse.get_vertices(), ellipse.get_co_vertices()]) - loc[k]
        distance = np.einsum("ni,ij,nj->n", ends, np.linalg.inv(covariance[k]), ends)
        np.testing.assert_allclose(np.sqrt(distance), number)


def test_the_heaviest_component_is_the_most_visible():
    x, _, loc, covariance = parts(2)
    (axes,) = mixture_components(x, [0.1, 0.7, 0.2], loc, covariance).axes
    opacity = [ellipse.get_alpha() for ellipse in axes.patches[::2]]
    assert opacity[1] == pytest.approx(1)
    assert opacity[0] < opacity[2] < opacity[1]


@pytest.mark.parametrize("features", [3, 5])
def test_more_dimensions_are_projected_on_principal_components(features):
    x, weights, loc, covariance = parts(features)
    (axes,) = mixture_components(x, weights, loc, covariance).axes
    assert axes.get_xlabel() == "PC 1"
    points = np.asarray(axes.collections[0].get_offsets())
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1][:2]
    np.testing.assert_allclose(np.cov(points.T), np.diag(values), atol=1e-9)
    assert len(axes.patches) == 6


def test_one_dimension_gives_densities():
    x, weights, loc, covariance = parts(1)
    (axes,) = mixture_components(x, weights, loc, covariance).axes
    assert len(axes.lines) == 3
    total = sum(np.trapezoid(line.get_ydata(), line.get_xdata()) for line in axes.lines)
    assert total == pytest.approx(1, abs=0.02)


def test_shapes_that_do_not_fit_are_refused():
    x, weights, loc, covariance = parts(2)
    with refuses(ValueError, "(N, D), (K,), (K, D)", "(3, 2, 2)"):
        mixture_components(x, weights[:2], loc, covariance)
    with refuses(ValueError, "finite"):
        mixture_components(x, weights * np.nan, loc, covariance)
