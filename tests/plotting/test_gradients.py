"""The picture of gradient audits shows their numbers."""

import math

import numpy as np
import pytest
import torch

from contracts import refuses
from pyro_dgm.evaluation import GradientAudit, ParameterAudit
from pyro_dgm.plotting import gradient_audits, save_figure


def audit(mean, variance, z, names=("model.weight", "guide.weight"), seconds=0.002):
    row = [torch.full((2,), float(value)) for value in (mean + 0.5, variance, 0.5, z)]  # and a bias of 0.5
    return GradientAudit([ParameterAudit(name, *row) for name in names], 100, seconds)


def heavy_marks(axes):
    return [line.get_xdata().item() for line in axes.get_lines() if line.get_marker() == "o" and len(line.get_xdata())]


def test_noise_bias_and_cost_are_those_of_the_audits():
    figure = gradient_audits({"noisy": audit(3.0, 4.0, 1.5), "biased": audit(1.0, 1.0, -9.0, seconds=0.03)})
    noise, bias, cost = figure.axes
    np.testing.assert_allclose(heavy_marks(noise), [2 / 3, 2 / 3, 1, 1])
    np.testing.assert_allclose(heavy_marks(bias), [1.5, 1.5, 9, 9])
    np.testing.assert_allclose(heavy_marks(cost), [2, 30])
    assert [label.get_text() for label in noise.get_yticklabels()] == ["noisy", "biased"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["model", "guide"]


def test_parameters_of_one_program_are_taken_together_and_each_by_itself():
    rows = audit(3.0, 4.0, 1.0).rows[0], audit(4.0, 12.0, 2.0).rows[0]
    (noise, bias, _) = gradient_audits({"loo": GradientAudit(list(rows), 100, 0.1)}).axes
    assert heavy_marks(noise) == pytest.approx([4 / 5])
    assert heavy_marks(bias) == [2]
    (small,) = (line for line in noise.get_lines() if line.get_marker() == ".")
    np.testing.assert_allclose(small.get_xdata(), [2 / 3, math.sqrt(12) / 4])


def test_an_exact_gradient_is_said_to_have_no_noise(tmp_path):
    figure = gradient_audits({"enumerate": audit(1.0, 0.0, 0.0, names=("weight",)), "loo": audit(0.0, 1.0, 0.0)})
    assert [text.get_text() for text in figure.axes[0].texts] == ["no noise"]
    save_figure(figure, tmp_path / "audits.png")


def test_nothing_to_draw_is_refused():
    with refuses(ValueError, "at least one", "gradient_audit("):
        gradient_audits({})
