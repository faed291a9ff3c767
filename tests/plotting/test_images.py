"""Pictures of images hold the images that were given, in their places."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from contracts import refuses
from pyro_dgm.plotting import (
    image_grid,
    interpolations,
    manifold,
    manifold_grid,
    reconstructions,
    vector_arithmetic,
)


def drawn(figure: Figure) -> list[np.ndarray]:
    (axes,) = figure.axes
    return [np.asarray(image.get_array()) for image in axes.images]


def corners(figure: Figure) -> list[tuple[float, float]]:
    """Left and top of each image, in pixels of the images."""
    return [(image.get_extent()[0], image.get_extent()[3]) for image in figure.axes[0].images]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 1, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", ["channel", "plain", "flat", "array", "gradient"])
def test_a_grid_shows_every_image_as_given(images: Tensor, form: str) -> None:
    given = {
        "channel": images,
        "plain": images[:, 0],
        "flat": images.flatten(1),
        "array": images.numpy(),
        "gradient": images.clone().requires_grad_(),
    }[form]
    figure = image_grid(given, image_shape=(4, 6) if form == "flat" else None)
    for shown, image in zip(drawn(figure), images[:, 0], strict=True):
        np.testing.assert_array_equal(shown, image.double().numpy())
    for image in figure.axes[0].images:
        assert image.get_clim() == (0, 1)
        assert image.get_cmap().name == "gray"
        assert image.get_interpolation() == "nearest"


def test_a_grid_reads_like_a_page(images: Tensor) -> None:
    places = corners(image_grid(images, columns=3))
    assert len({left for left, _ in places}) == 3
    assert places == sorted(places, key=lambda place: (place[1], place[0]))
    assert len({top for _, top in places}) == 3
    assert places[1][0] > 6  # a gap after the first image, six pixels wide
    bottom, top = image_grid(images).axes[0].get_ylim()
    assert bottom > top  # downwards


def test_a_grid_is_nearly_square_by_default() -> None:
    for count, columns in ((1, 1), (5, 3), (16, 4), (17, 5)):
        places = corners(image_grid(torch.zeros(count, 2, 2)))
        assert len({left for left, _ in places}) == columns


def test_colours_are_kept() -> None:
    images = torch.rand(2, 3, 5, 4)
    for flat in (False, True):
        figure = image_grid(images.flatten(1), image_shape=(3, 5, 4)) if flat else image_grid(images)
        np.testing.assert_array_equal(drawn(figure)[1], images[1].movedim(0, -1).double().numpy())


def test_a_grid_has_its_title_and_square_pixels(images: Tensor) -> None:
    figure = image_grid(images, title="samples")
    (axes,) = figure.axes
    assert axes.get_title() == "samples"
    assert image_grid(images).axes[0].get_title() == ""
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    assert box.width / right == pytest.approx(box.height / bottom)


def test_each_reconstruction_is_under_its_original(images: Tensor) -> None:
    figure = reconstructions(images, 1 - images, columns=4)
    shown, places = drawn(figure), corners(figure)
    for n in range(7):
        np.testing.assert_array_equal(shown[n], images[n, 0].double().numpy())
        np.testing.assert_allclose(shown[7 + n], 1 - images[n, 0].double().numpy(), atol=1e-7)
        assert places[7 + n][0] == places[n][0]
        assert 4 < places[7 + n][1] - places[n][1] < 5  # right below, four pixels high
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["original", "reconstructed"] * 2


@pytest.mark.parametrize("shape", [(2, 5, 1, 4, 4), (2, 5, 4, 4), (2, 5, 3, 4, 4)])
def test_interpolations_are_one_row_per_pair(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    figure = interpolations(images)
    shown, places = drawn(figure), corners(figure)
    assert len(shown) == 10
    assert [left for left, _ in places] == [0, 4, 8, 12, 16] * 2
    assert [top for _, top in places[:5]] == [0] * 5
    assert places[5][1] > 4
    last = images[1, 4].reshape(-1, 4, 4).movedim(0, -1).squeeze(-1)
    np.testing.assert_array_equal(shown[9], last.double().numpy())
    ends = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ends == ["start", "end"]


@pytest.mark.parametrize("form", ["channel", "flat", "colour"])
def test_a_sum_of_latents_reads_from_left_to_right(form: str) -> None:
    shape = (3, 4, 6) if form == "colour" else (1, 4, 6)
    parts = [torch.rand(3, *shape, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    given = [part.flatten(1) for part in parts] if form == "flat" else parts
    figure = vector_arithmetic(*given, image_shape=shape if form == "flat" else None)
    shown, places = drawn(figure), corners(figure)
    assert len(shown) == 12
    for number, image in enumerate(shown):
        row, column = divmod(number, 4)
        expected = parts[column][row].movedim(0, -1).squeeze(-1)
        np.testing.assert_array_equal(image, expected.double().numpy())
    assert [top for _, top in places] == sorted(top for _, top in places)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == list("−+=") * 3
    for number, text in enumerate(axes.texts):
        row, column = divmod(number, 3)
        left, right = places[4 * row + column][0] + 6, places[4 * row + column + 1][0]
        assert left < text.get_position()[0] < right
        assert places[4 * row][1] < text.get_position()[1] < places[4 * row][1] + 4


def test_sums_of_other_shapes_are_refused() -> None:
    x = torch.zeros(2, 4, 4)
    with refuses(ValueError, "one shape", "(1, 4, 4)"):
        vector_arithmetic(x, x, x[:1], x)
    with pytest.raises(ValueError, match="result must be finite"):
        vector_arithmetic(x, x, x, x * torch.nan)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_manifold_is_one_picture_without_gaps(channels: int) -> None:
    images = torch.rand(6, channels, 4, 5)
    (mosaic,) = drawn(manifold(images, columns=3))
    assert mosaic.shape[:2] == (8, 15)
    for n, image in enumerate(images):
        row, column = divmod(n, 3)
        tile = mosaic[4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
        np.testing.assert_array_equal(tile, image.movedim(0, -1).squeeze(-1).double().numpy())


def test_a_manifold_of_the_grid_is_a_map() -> None:
    # A decoder that paints z_1 gets lighter to the right; one that paints z_2 gets lighter upwards.
    z = manifold_grid(5)
    shade = (z / 8 + 0.5)[:, :, None, None].expand(-1, -1, 2, 2)
    (across,), (up,) = drawn(manifold(shade[:, 0])), drawn(manifold(shade[:, 1]))
    assert (np.diff(across[:, ::2], axis=1) > 0).all()
    assert (np.diff(up[::2], axis=0) < 0).all()
    axes = manifold(shade[:, 0]).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")


def test_the_manifold_grid_has_equal_probability_between_its_lines() -> None:
    z = manifold_grid(9, (0.1, 0.9))
    assert z.shape == (81, 2)
    u = torch.distributions.Normal(0.0, 1.0).cdf(z).reshape(9, 9, 2)
    torch.testing.assert_close(u[0, :, 0], torch.linspace(0.1, 0.9, 9))
    torch.testing.assert_close(u[:, 0, 1], torch.linspace(0.9, 0.1, 9))


def test_images_that_are_not_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values in \[0, 1\]; got 0 to 255"):
        image_grid(torch.tensor([[[0.0, 255.0]]]))
    with pytest.raises(ValueError, match="must be finite; got 1 of 4"):
        image_grid(torch.tensor([[[0.0, 1.0], [0.5, torch.nan]]]))
    with pytest.raises(ValueError, match=r"got \(3, 64\)\. Give image_shape"):
        image_grid(torch.zeros(3, 64))
    with pytest.raises(ValueError, match="as many features as image_shape"):
        image_grid(torch.zeros(3, 64), image_shape=(8, 9))
    with pytest.raises(ValueError, match=r"got \(3, 2, 4, 4\)"):
        image_grid(torch.zeros(3, 2, 4, 4))
    with pytest.raises(ValueError, match="must not be empty"):
        image_grid(torch.zeros(0, 4, 4))
    with pytest.raises(ValueError, match="columns must be at least 1"):
        image_grid(torch.zeros(3, 4, 4), columns=0)
    with pytest.raises(ValueError, match="x_hat must have the shape of x"):
        reconstructions(torch.zeros(3, 4, 4), torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match=r"got \(5, 4, 4\)"):
        interpolations(torch.zeros(5, 4, 4))
    with pytest.raises(ValueError, match="got 6 for 4 columns"):
        manifold(torch.zeros(6, 4, 4), columns=4)
    with pytest.raises(ValueError, match="got 7 for 2 columns"):
        manifold(torch.zeros(7, 4, 4))
    for num, quantiles in ((1, (0.1, 0.9)), (5, (0.0, 0.9)), (5, (0.9, 0.1))):
        with pytest.raises(ValueError, match="manifold's grid"):
            manifold_grid(num, quantiles)


def test_rounding_beyond_the_range_is_forgiven() -> None:
    (shown,) = drawn(image_grid(torch.tensor([[[-1e-6, 1 + 1e-6]]])))
    np.testing.assert_array_equal(shown, [[0, 1]])
