"""Latent spaces: the points are where they should be, and have the colour of their class."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from pyro_dgm.plotting import latent_space
from pyro_dgm.plotting.figures import COLOURS


@pytest.fixture
def z() -> torch.Tensor:
    return torch.randn(60, 2, generator=torch.Generator().manual_seed(0))


def legend(figure: object) -> list[str]:
    found = figure.axes[0].get_legend()  # type: ignore[attr-defined]
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def test_two_dimensions_are_shown_as_they_are_in_the_colour_of_their_class(z: torch.Tensor) -> None:
    labels = torch.arange(60) % 3 + 4
    figure = latent_space(z, labels)
    (axes,) = figure.axes
    (points,) = axes.collections
    np.testing.assert_allclose(points.get_offsets(), z.numpy())
    colours = [to_hex(colour) for colour in points.get_facecolors()]
    assert colours == [COLOURS[label - 4] for label in labels.tolist()]
    assert legend(figure) == ["4", "5", "6"]
    keys = [to_hex(handle.get_color()) for handle in axes.get_legend().legend_handles]
    assert keys == list(COLOURS[:3])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    assert axes.get_aspect() == 1


def test_without_labels_there_is_one_colour_and_no_legend(z: torch.Tensor) -> None:
    figure = latent_space(z.numpy())
    assert {to_hex(colour) for colour in figure.axes[0].collections[0].get_facecolors()} == {COLOURS[0]}
    assert legend(figure) == []


def test_more_dimensions_are_shown_by_their_principal_components(z: torch.Tensor) -> None:
    scales = torch.tensor([0.1, 5.0, 1.0, 2.0])
    points = torch.randn(400, 4, generator=torch.Generator().manual_seed(1)) * scales
    (axes,) = latent_space(points).axes
    centred = (points - points.mean(0)).double()
    variances, vectors = torch.linalg.eigh(centred.T @ centred)
    shares = (variances / variances.sum()).flip(0)
    assert axes.get_xlabel() == f"PC 1 ({shares[0]:.0%} of the variance)"
    assert axes.get_ylabel() == f"PC 2 ({shares[1]:.0%} of the variance)"
    expected = (centred @ vectors.flip(1)[:, :2]).abs().numpy()  # a component's sign is arbitrary
    np.testing.assert_allclose(np.abs(axes.collections[0].get_offsets()), expected, atol=1e-5)


def test_a_collapsed_latent_space_is_a_point() -> None:
    (axes,) = latent_space(torch.zeros(20, 5), torch.arange(20) % 2).axes
    assert axes.get_xlabel() == "PC 1 (0% of the variance)"
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), np.zeros((20, 2)))


def test_one_dimension_is_a_histogram_per_class() -> None:
    z = torch.cat([torch.randn(300, 1) - 3, torch.randn(200, 1) + 3])
    labels = torch.tensor([0] * 300 + [1] * 200)
    figure = latent_space(z, labels)
    (axes,) = figure.axes
    assert legend(figure) == ["0", "1"]
    outlines = [patch for patch in axes.patches if not patch.get_fill()]
    assert [to_hex(patch.get_edgecolor()) for patch in outlines] == list(COLOURS[:2])
    edges = np.histogram_bin_edges(z.double().numpy(), 22)  # about the square root of 500
    for patch, values in zip(outlines, (z[:300], z[300:]), strict=True):
        heights = patch.get_xy()[1:-1:2, 1]
        np.testing.assert_array_equal(heights, np.histogram(values.double().numpy(), edges)[0])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z$", "points")


def test_past_ten_classes_the_colours_return_with_another_marker(z: torch.Tensor) -> None:
    labels = np.array([chr(ord("a") + n % 12) for n in range(60)])
    figure = latent_space(z, labels)
    (axes,) = figure.axes
    assert len(axes.collections) == 2
    assert legend(figure) == [chr(ord("a") + n) for n in range(12)]
    looks = {(to_rgb(key.get_color()), key.get_marker()) for key in axes.get_legend().legend_handles}
    assert len(looks) == 12
    assert sum(len(points.get_offsets()) for points in axes.collections) == 60


def test_points_and_labels_that_do_not_fit_are_refused(z: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"labels must be of shape \(60,\), one per row of z; got \(3,\)"):
        latent_space(z, [0, 1, 2])
    with pytest.raises(ValueError, match="at most 50 different values, to be told apart; got 60"):
        latent_space(z, torch.arange(60))
    with pytest.raises(ValueError, match=r"z must be of shape \(N, d\).*got \(60, 2, 1\)"):
        latent_space(z[:, :, None])
    with pytest.raises(ValueError, match=r"got \(1, 3\)"):
        latent_space(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="z must be finite; got 2 of 120"):
        latent_space(torch.cat([z[:59], torch.full((1, 2), torch.inf)]))
