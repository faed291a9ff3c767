"""What gradient estimators are worth, side by side."""

__all__ = ["gradient_audits"]

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pyro_dgm.evaluation import GradientAudit, ParameterAudit
from pyro_dgm.plotting.figures import COLOURS, FAINT, new_figure

BIAS = 5.0  # standard errors beyond which an element's gradient is called biased
COLOUR_OF = {"model": COLOURS[0], "guide": COLOURS[1], "store": COLOURS[4]}
PANELS = ("noise of a step / gradient", "largest bias, standard errors", "cost of a step, ms")


def gradient_audits(audits: Mapping[str, GradientAudit]) -> Figure:
    """Noise, bias and cost of several estimators of one gradient, a row for each.

    The first panel shows the root of the summed variance of one step over the length of the reference gradient, so
    that its square is how many steps must be averaged for the noise to be as large as the gradient; one without noise
    is marked so. The second shows the largest bias of any element in standard errors, with a line at 5. Large marks
    stand for all parameters of a program, small ones for each parameter; parameters of neither are of the ``store``.

    Arguments:
        audits: by name, from the top downwards.

    Returns:
        A figure with three axes.

    Raises:
        ValueError: if there is none.
    """
    if not audits:
        raise ValueError("audits must hold at least one; got none. Pass {'loo': gradient_audit(...)}.")
    found = {_group(row) for audit in audits.values() for row in audit.rows}
    groups = [group for group in COLOUR_OF if group in found]
    with new_figure(9.6, 1.1 + 0.32 * len(audits)) as figure:
        figure.set_layout_engine("constrained")
        noise, bias, cost = figure.subplots(1, 3, sharey=True)
        for place, audit in enumerate(audits.values()):
            for k, group in enumerate(groups):
                rows = [row for row in audit.rows if _group(row) == group]
                if not rows:
                    continue
                height = place + 0.3 * ((k + 0.5) / len(groups) - 0.5)
                _draw_noise(noise, rows, height, COLOUR_OF[group])
                _draw_points(
                    bias, [_largest_z(row) for row in rows], max(map(_largest_z, rows)), height, COLOUR_OF[group]
                )
            cost.plot(1000 * audit.seconds_per_step, place, "o", color=FAINT)
        _finish(noise, bias, cost, list(audits), groups)
    return figure


def _group(row: ParameterAudit) -> str:
    program = row.name.partition(".")[0]
    return program if program in ("model", "guide") else "store"


def _largest_z(row: ParameterAudit) -> float:
    return float(row.z.abs().max())


def _noise(rows: Sequence[ParameterAudit]) -> float:
    """Noise over signal of several parameters together."""
    noise = math.sqrt(sum(float(row.variance.sum()) for row in rows))
    signal = float(torch.cat([(row.mean - row.bias).flatten() for row in rows]).norm())
    return noise / signal if signal else math.inf


def _draw_noise(axes: Axes, rows: Sequence[ParameterAudit], height: float, colour: str) -> None:
    single, together = [_noise([row]) for row in rows], _noise(rows)
    if together == 0:
        place = (0.02 + 0.25 * list(COLOUR_OF.values()).index(colour), height)
        axes.annotate("no noise", place, xycoords=("axes fraction", "data"), color=colour, va="center", size=7)
    elif math.isfinite(together):
        _draw_points(axes, [value for value in single if 0 < value < math.inf], together, height, colour)


def _draw_points(axes: Axes, single: Sequence[float], together: float, height: float, colour: str) -> None:
    axes.plot(single, [height] * len(single), ".", color=colour, alpha=0.4, markersize=3)
    axes.plot(together, height, "o", color=colour)


def _finish(noise: Axes, bias: Axes, cost: Axes, names: Sequence[str], groups: Sequence[str]) -> None:
    for axes, title in zip((noise, bias, cost), PANELS, strict=True):
        axes.set_title(title, loc="left")
        axes.grid(axis="both", alpha=0.3, linewidth=0.5)
        axes.set_axisbelow(True)
    noise.set_xscale("log")
    noise.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    noise.xaxis.set_major_formatter("{x:g}")
    noise.xaxis.set_minor_formatter(NullFormatter())
    largest = max(float(np.max(line.get_xdata(), initial=0.0)) for line in bias.get_lines())
    if largest > 10 * BIAS:
        bias.set_xscale("symlog", linthresh=BIAS, linscale=1.5)
        ticks = [0, BIAS, *(10.0**power for power in range(1, 1 + math.ceil(math.log10(largest))))]
        bias.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        bias.set_xlim(-0.15, 1.5 * largest)
    else:
        bias.set_xlim(left=-0.15)
    bias.axvline(BIAS, color=COLOURS[2], linestyle="dashed", linewidth=1)
    cost.set_xlim(left=0)
    noise.set_yticks(range(len(names)), names)
    noise.set_ylim(len(names) - 0.5, -0.5)
    if len(groups) > 1:
        for group in groups:
            noise.plot([], [], "o", color=COLOUR_OF[group], label=group)
        noise.figure.legend(loc="outside lower left", ncols=len(groups))
