"""Pictures of a comparison for a README: curves of a quality, and average ranks with the critical difference."""

__all__ = ["curves_picture", "ranks_picture"]

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.comparison.bands import Band, Broken
from benchmarks.comparison.ranks import MIN_TESTED, Ranks, rank_text
from benchmarks.comparison.summaries import title_of
from pyro_dgm.plotting.figures import FAINT, INK, new_figure

COLOURS = ("#4c81fa", "#681500", "#367036", "#e2559f", "#a79100", "#440598")
"""Those of the page: told apart under colour-vision deficiency, 3 : 1 or more against white."""
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
MARKERS = "os^Dv"
COLUMNS = 3
LABELS = {"step": "steps", "seconds": "seconds of training"}
LETTERS = 44  # of a title, in a legend
TITLE_LETTERS = 32  # in a line over a panel
CROWD = 6  # methods in a panel, from which on only the medians are told apart


def curves_picture(
    bands: Sequence[Band],
    broken: Sequence[Broken],
    titles: Mapping[tuple[str, str], str],
    units: Mapping[str, str],
    metric: str,
    axis: str,
) -> Figure:
    """A panel for each task: median over seeds and their range, and crosses where a seed failed or was killed.

    The range is left out where many methods share a panel. The units are given once, or by each panel if they differ.

    As much as a quarter of the medians, the worst, is cut off below or above, mostly first looks, but no last one.

    Arguments:
        bands: of any metrics and axes.
        broken: likewise.
        titles: of tasks and methods, by kind and name; methods have their colours by the order here.
        units: of the metric, by task.
        metric: whose curves are drawn.
        axis: ``"step"`` or ``"seconds"``.

    Raises:
        ValueError: there is no such curve.
    """
    kept = [band for band in bands if (band.metric, band.axis) == (metric, axis)]
    ended = [line for line in broken if (line.metric, line.axis) == (metric, axis)]
    tasks = list(dict.fromkeys([band.task for band in kept] + [line.task for line in ended]))
    if not tasks:
        known = sorted({(band.metric, band.axis) for band in bands})
        raise ValueError(f"a picture needs at least one curve; got none of {metric!r} by {axis!r}. There are: {known}.")
    styles = _styles(titles)
    rows = math.ceil(len(tasks) / COLUMNS)
    shown = {band.method for band in kept} | {line.method for line in ended}
    keys = [
        Line2D([], [], label=_shortened(titles["method", method]), **styles[method])
        for method in styles
        if method in shown
    ]
    unit, *others = dict.fromkeys(units.get(task, "") for task in tasks)
    with new_figure(9.6, 0.4 + 2.2 * rows + 0.19 * math.ceil(len(keys) / COLUMNS)) as figure:
        figure.set_layout_engine("constrained")
        panels = list(figure.subplots(rows, min(COLUMNS, len(tasks)), squeeze=False).flat)
        for panel, task in zip(panels, tasks, strict=False):
            here = [band for band in kept if band.task == task]
            for band in here:
                _draw_band(panel, band, styles[band.method], has_range=len(here) < CROWD)
            _finish(panel, _wrapped(titles["task", task]), here)
            if others:
                panel.set_ylabel(units.get(task, ""), fontsize=8)
            for line in ended:
                if line.task == task:
                    _draw_broken(panel, line, styles[line.method], is_alone=not here)
        for panel in panels[len(tasks) :]:
            panel.set_visible(False)
        for panel in panels[max(0, len(tasks) - COLUMNS) : len(tasks)]:  # the lowest of each column
            panel.set_xlabel(LABELS[axis])
        label = title_of(metric) if others or not unit else f"{title_of(metric)} ({unit})"
        figure.supylabel(label, fontsize=9, color=INK)
        figure.legend(
            handles=keys,
            loc="outside lower center",
            ncols=COLUMNS,
            handlelength=3.5,
            columnspacing=1.2,
            labelspacing=0.35,
        )
    return figure


def ranks_picture(ranks: Ranks, titles: Mapping[tuple[str, str], str]) -> Figure:
    """The critical-difference plot: average ranks on a line, and bars over methods that are not told apart.

    References:
        Demšar (2006), Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, figure 1.

    Arguments:
        ranks: of one metric.
        titles: of methods, by kind and name; methods have their colours by the order here.
    """
    styles, num_methods = _styles(titles), len(ranks.methods)
    depth = 0.45 + 0.28 * len(ranks.cliques)
    with new_figure(9.6, 0.85 + 0.33 * depth + 0.24 * math.ceil(num_methods / 2)) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.set_axis_off()
        axes.plot([1, num_methods], [0, 0], color=INK, linewidth=1)
        apart = next(step for step in (1, 2, 5, 10, 20, 50, num_methods) if num_methods <= 20 * step)
        for tick in range(1, num_methods + 1):
            axes.plot([tick, tick], [0, 0.12], color=INK, linewidth=1)
            if tick == 1 or tick % apart == 0:
                axes.annotate(str(tick), (tick, 0.2), ha="center", color=INK)
        for k, (method, rank) in enumerate(zip(ranks.methods, ranks.average, strict=True)):
            _draw_rank(axes, k, num_methods, rank, depth, _shortened(titles["method", method]), styles[method])
        for k, (first, last) in enumerate(ranks.cliques):
            height = -0.3 - 0.28 * k
            span = [ranks.average[first] - 0.03, ranks.average[last] + 0.03]
            axes.plot(span, [height, height], color=INK, linewidth=3, solid_capstyle="butt")
        end = min(1 + ranks.critical_difference, num_methods)
        axes.plot([1, end], [0.85, 0.85], color=INK, linewidth=1.5, marker="|")
        axes.annotate(f"critical difference {rank_text(ranks.critical_difference)}", (1, 1.0), ha="left", color=INK)
        margin = 0.85 * (num_methods - 1)
        axes.set_xlim(1 - margin, num_methods + margin)
        axes.set_ylim(-depth - 0.62 * (math.ceil(num_methods / 2) + 0.1), 1.35)
        few = "; too few tasks for a test" if len(ranks.tasks) < MIN_TESTED else ""
        by = title_of(ranks.metric) + (f" ({ranks.unit})" if ranks.unit else "")
        axes.set_title(f"average ranks by {by} over {len(ranks.tasks)} tasks; 1 is best{few}")
    return figure


def _styles(titles: Mapping[tuple[str, str], str]) -> dict[str, dict[str, Any]]:
    methods = [name for kind, name in titles if kind == "method"]
    return {
        method: {
            "color": COLOURS[k % len(COLOURS)],
            "linestyle": DASHES[k // len(COLOURS) % len(DASHES)],
            "marker": MARKERS[k % len(MARKERS)],
            "markersize": 4,
        }
        for k, method in enumerate(methods)
    }


def _draw_band(axes: Axes, band: Band, style: Mapping[str, Any], has_range: bool) -> None:
    axes.plot(band.x, band.median, linewidth=1.3, markevery=[-1], **style)
    if has_range and band.num_seeds > 1:
        axes.fill_between(band.x, band.low, band.high, color=style["color"], alpha=0.16, linewidth=0)


def _draw_broken(axes: Axes, line: Broken, style: Mapping[str, Any], is_alone: bool) -> None:
    """Dots up to a cross, which stands at the edge if it is beyond what the bands take up; without bands it counts."""
    low, high = (-math.inf, math.inf) if is_alone else axes.get_ylim()
    axes.plot(line.x, line.y, linestyle="dotted", color=style["color"], linewidth=1, scaley=is_alone)
    place = min(max(line.y[-1], low), high)
    axes.plot(line.x[-1:], [place], "x", color=style["color"], markersize=5, clip_on=False, scaley=is_alone)


def _finish(axes: Axes, title: str, bands: Sequence[Band]) -> None:
    axes.set_title(title)
    axes.grid(axis="y", linewidth=0.4, color=FAINT, alpha=0.4)
    if bands and max(band.x[-1] for band in bands) > 10 * min(band.x[-1] for band in bands):
        axes.set_xscale("log")
    medians = sorted(value for band in bands for value in band.median)
    if not medians:
        return
    quarter, ends = len(medians) // 4, [band.median[-1] for band in bands]
    rises = sum(band.median[-1] - band.median[0] for band in bands) > 0
    low = min(medians[quarter], *ends) if rises else medians[0]
    high = medians[-1] if rises else max(medians[-1 - quarter], *ends)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)


def _draw_rank(axes: Axes, k: int, num: int, rank: float, depth: float, title: str, style: Mapping[str, Any]) -> None:
    """An elbow from the rank down to its name: the better half to the left, the rest to the right."""
    is_left = k < math.ceil(num / 2)
    level = k if is_left else num - 1 - k
    height, edge = -depth - 0.62 * (level + 0.5), (1 - 0.05 * (num - 1) if is_left else num + 0.05 * (num - 1))
    axes.plot([rank, rank, edge], [0, height, height], color=FAINT, linewidth=0.7, zorder=0)
    axes.plot([rank], [0], **{**style, "markersize": 6, "linestyle": "none"})
    text = f"{title}  {rank_text(rank)}" if is_left else f"{rank_text(rank)}  {title}"
    offset = -6 if is_left else 6
    axes.annotate(
        text,
        (edge, height),
        (offset, 0),
        textcoords="offset points",
        ha="right" if is_left else "left",
        va="center",
        color=INK,
    )


def _wrapped(text: str) -> str:
    """In two lines at most."""
    return "\n".join(textwrap.wrap(text, TITLE_LETTERS, max_lines=2, placeholder="…"))


def _shortened(text: str) -> str:
    return text if len(text) <= LETTERS else text[: LETTERS - 1].rstrip() + "…"
