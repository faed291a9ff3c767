"""Densities over the plane."""

import numpy as np
import pytest
import torch

from contracts import refuses
from pyro_dgm.plotting import density_maps, plane


def test_the_plane_is_a_lattice_row_by_row_from_the_bottom():
    points = plane(2.0, 4)
    assert points.shape == (16, 2)
    assert points[:4].tolist() == [[-1.5, -1.5], [-0.5, -1.5], [0.5, -1.5], [1.5, -1.5]]
    assert points[-1].tolist() == [1.5, 1.5]
    total = torch.distributions.Normal(0.0, 1.0).log_prob(plane(6.0, 200)).sum(-1).exp().sum() * (12 / 200) ** 2
    assert total.item() == pytest.approx(1.0, abs=1e-4)


def test_a_map_is_dark_where_the_density_is_high():
    points = plane(3.0, 31)
    log_p = -0.5 * (points - torch.tensor([1.0, -1.0])).square().sum(-1)
    figure = density_maps({"p": log_p, "q": -points.square().sum(-1)}, 3.0, {"q": torch.zeros(4, 2)}, columns=1)
    first, second = figure.axes
    image = np.asarray(first.images[0].get_array())
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert points.reshape(31, 31, 2)[row, column].tolist() == pytest.approx([1.0, -1.0], abs=0.1)
    assert image.max() == 1.0
    assert first.images[0].origin == "lower"
    assert [axes.get_title() for axes in figure.axes] == ["p", "q"]
    assert len(second.collections[0].get_offsets()) == 4


@pytest.mark.parametrize(
    ("parts", "build"),
    [
        (("extent", "0"), lambda: plane(0.0)),
        (("2 points", "1"), lambda: plane(1.0, 1)),
        (("a density", "0"), lambda: density_maps({}, 1.0)),
        (("square", "(5,)"), lambda: density_maps({"p": torch.zeros(5)}, 1.0)),
        (("finite", "NaN"), lambda: density_maps({"p": torch.full((4,), torch.nan)}, 1.0)),
        (("belong to a map", "['q']"), lambda: density_maps({"p": torch.zeros(4)}, 1.0, {"q": torch.zeros(1, 2)})),
    ],
)
def test_bad_input_is_refused(parts, build):
    with refuses(ValueError, *parts):
        build()
