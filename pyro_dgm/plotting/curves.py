"""How a training run went."""

__all__ = ["training_curves"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_dgm.plotting.figures import COLOURS, new_figure

CLOCKS = ("epoch", "step")
NO_METRICS = (*CLOCKS, "seconds")
SPLITS = {"": "training", "valid": "validation", "test": "test"}
LOGARITHMIC = ("lr", "grad_norm")
NAMES = {"lr": "learning rate", "grad_norm": "gradient norm", "elbo": "ELBO", "kl": "KL", "kl_weight": "KL weight"}
NATS = ("loss", "elbo", "bound", "iwae", "kl", "reconstruction", "log_evidence")


def training_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """One panel per quantity over epochs (or steps), the training and validation curves of a quantity together.

    A loss, a bound and its parts are in nats per datum. A gap in a curve is a value that is not finite.

    Arguments:
        history: rows such as `{"epoch": 1, "loss": 120.5, "valid_loss": 118.0, "lr": 1e-3}`. A row may lack any key
            but the clock's; what is not a number is left out. Prefixes `valid_` and `test_` name the split.

    Returns:
        A figure with one axes per quantity.

    Raises:
        ValueError: if no row has a number to draw, or some rows have no `epoch` and some no `step`.
    """
    panels = _panels(history)
    if not panels:
        raise ValueError(
            f"history must hold at least one number besides {', '.join(NO_METRICS)}; got {len(history)} rows without. "
            "Pass the rows that fit returns, such as {'epoch': 1, 'loss': 120.5}."
        )
    clock = _clock(history)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with new_figure(3.4 * columns, 2.5 * rows) as figure:
        figure.set_layout_engine("constrained")
        for place, (name, keys) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(rows, columns, place)
            for key in keys:
                times, values = _curve(history, clock, key)
                _draw(axes, times, values, _split(key)[0])
            _label(axes, clock, name, legend=len(keys) > 1)
    return figure


def _panels(history: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The keys that have numbers, by quantity, in the order of their first appearance."""
    keys = dict.fromkeys(key for row in history for key, value in row.items() if _is_number(value))
    panels: dict[str, list[str]] = {}
    for key in keys:
        if key not in NO_METRICS:
            panels.setdefault(_split(key)[1], []).append(key)
    return panels


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _split(key: str) -> tuple[str, str]:
    split, _, name = key.partition("_")
    return (split, name) if split in SPLITS and name else ("", key)


def _clock(history: Sequence[Mapping[str, Any]]) -> str:
    """The first clock that every row has and that does not stand still."""
    complete = [clock for clock in CLOCKS if all(_is_number(row.get(clock)) for row in history)]
    moving = [clock for clock in complete if len({row[clock] for row in history}) == len(history)]
    if not complete:
        raise ValueError(
            f"every row of a history must have a number for one of {CLOCKS}; got none that all {len(history)} have. "
            "Add the epoch to each row."
        )
    return (moving or complete)[0]


def _curve(history: Sequence[Mapping[str, Any]], clock: str, key: str) -> tuple[list[float], list[float]]:
    rows = [row for row in history if _is_number(row.get(key))]
    return [row[clock] for row in rows], [row[key] if np.isfinite(row[key]) else np.nan for row in rows]


def _draw(axes: Axes, times: list[float], values: list[float], split: str) -> None:
    colour = COLOURS[list(SPLITS).index(split)]
    marker = "o" if len(times) < 12 else ""
    axes.plot(times, values, color=colour, linewidth=1.4, marker=marker, markersize=3, label=SPLITS[split])


def _label(axes: Axes, clock: str, name: str, legend: bool) -> None:
    axes.set_title(NAMES.get(name, name.replace("_", " ")), loc="left")
    axes.set_xlabel(clock)
    if name.startswith(NATS) and "weight" not in name:
        axes.set_ylabel("nats per datum")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    lines = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()])
    positive = lines[lines > 0]
    if name in LOGARITHMIC and positive.size and positive.max() > 10 * positive.min():
        axes.set_yscale("log")
    if legend:
        axes.legend(loc="best")
