"""Training curves: what was logged is what is drawn."""

import math

import numpy as np
import pytest
from matplotlib.axes import Axes

from pyro_dgm.plotting import training_curves

HISTORY = [
    {"epoch": n, "step": 10 * n, "seconds": 0.5 * n, "loss": 100.0 / n, "lr": 10.0 ** (1 - n), "grad_norm": 1.0 + n}
    | ({"valid_loss": 110.0 / n, "valid_kl_z": float(n), "note": "fine"} if n % 2 else {})
    for n in range(1, 6)
]


def panels(history: list[dict]) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in training_curves(history).axes}


def test_there_is_one_panel_per_quantity_and_none_for_a_clock() -> None:
    assert list(panels(HISTORY)) == ["loss", "learning rate", "gradient norm", "kl z"]


def test_training_and_validation_share_a_panel_and_sparse_values_keep_their_epochs() -> None:
    axes = panels(HISTORY)["loss"]
    training, validation = axes.get_lines()
    np.testing.assert_allclose(training.get_xydata(), [(n, 100 / n) for n in range(1, 6)])
    np.testing.assert_allclose(validation.get_xydata(), [(n, 110 / n) for n in (1, 3, 5)])
    assert training.get_color() != validation.get_color()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation"]


def test_axes_say_what_they_count() -> None:
    for name, axes in panels(HISTORY).items():
        assert axes.get_xlabel() == "epoch"
        assert axes.get_ylabel() == ("nats per datum" if name in ("loss", "kl z") else "")
    assert panels(HISTORY)["learning rate"].get_yscale() == "log"
    assert panels(HISTORY)["gradient norm"].get_yscale() == "linear"


def test_steps_are_the_clock_where_epochs_are_missing_or_repeat() -> None:
    without = [{"step": n, "loss": 1.0} for n in (5, 10)]
    repeated = [{"epoch": 1, "step": n, "loss": 1.0} for n in (5, 10)]
    for history in (without, repeated):
        axes = panels(history)["loss"]
        assert axes.get_xlabel() == "step"
        np.testing.assert_array_equal(axes.get_lines()[0].get_xdata(), [5, 10])


def test_a_value_that_is_not_finite_is_a_gap() -> None:
    history = [{"epoch": n, "loss": loss} for n, loss in enumerate([3.0, math.inf, 1.0, math.nan])]
    values = panels(history)["loss"].get_lines()[0].get_ydata()
    np.testing.assert_array_equal(values, [3.0, math.nan, 1.0, math.nan])


def test_a_single_row_is_a_visible_point() -> None:
    (line,) = panels([{"epoch": 1, "loss": 2.0}])["loss"].get_lines()
    assert line.get_marker() == "o"


def test_a_history_without_numbers_or_clock_is_refused() -> None:
    for history in ([], [{"epoch": 1, "seconds": 2.0, "note": "fine"}]):
        with pytest.raises(ValueError, match=rf"at least one number.*got {len(history)} rows without"):
            training_curves(history)
    with pytest.raises(ValueError, match="must have a number for one of"):
        training_curves([{"epoch": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}])
