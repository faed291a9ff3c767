"""Clouds of points over what they are compared with."""

import numpy as np
import pytest
import torch

from contracts import refuses
from pyro_dgm.plotting import point_clouds


def test_every_cloud_lies_over_the_same_reference():
    torch.manual_seed(0)
    clouds = {"a": torch.randn(50, 2), "b": torch.randn(30, 2).double()}
    reference = torch.randn(20, 2)
    figure = point_clouds(clouds, reference=reference)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    for axes, points in zip(figure.axes, clouds.values(), strict=True):
        behind, cloud = axes.collections
        np.testing.assert_array_equal(behind.get_offsets(), reference.double().numpy())
        np.testing.assert_array_equal(cloud.get_offsets(), points.double().numpy())
        assert tuple(behind.get_facecolor()[0]) != tuple(cloud.get_facecolor()[0])
        assert axes.get_aspect() == 1
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_without_a_reference_there_is_the_cloud_alone():
    figure = point_clouds({"a": np.zeros((3, 2)), "b": np.ones((3, 2)), "c": np.ones((1, 2))}, columns=2)
    assert [len(axes.collections) for axes in figure.axes] == [1, 1, 1]
    tops = [axes.get_subplotspec().rowspan.start for axes in figure.axes]
    assert tops == [0, 0, 1]


def test_all_of_the_reference_is_seen_and_what_is_far_away_is_counted():
    torch.manual_seed(0)
    far = torch.cat([torch.randn(998, 2), torch.tensor([[500.0, 0.0], [0.0, -500.0]])])
    reference = torch.tensor([[9.0, 0.0], [0.0, -7.0]])
    (axes,) = point_clouds({"x": far}, reference).axes
    assert axes.get_xlabel() == "2 of 1000 outside"
    assert 9 < axes.get_xlim()[1] < 20
    assert -20 < axes.get_ylim()[0] < -7
    (same,) = point_clouds({"x": torch.zeros(5, 2)}).axes
    assert same.get_xlim() == (-1, 1)
    assert same.get_xlabel() == ""


@pytest.mark.parametrize(
    ("parts", "build"),
    [
        (("a cloud", "0"), lambda: point_clouds({})),
        (("a column", "0"), lambda: point_clouds({"a": torch.zeros(1, 2)}, columns=0)),
        (("clouds['a']", "(4, 3)"), lambda: point_clouds({"a": torch.zeros(4, 3)})),
        (("reference", "(2,)"), lambda: point_clouds({"a": torch.zeros(4, 2)}, torch.zeros(2))),
        (("finite", "NaN"), lambda: point_clouds({"a": torch.full((4, 2), torch.nan)})),
        (("empty", "(0, 2)"), lambda: point_clouds({"a": torch.zeros(0, 2)})),
    ],
)
def test_bad_input_is_refused(parts, build):
    with refuses(ValueError, *parts):
        build()
