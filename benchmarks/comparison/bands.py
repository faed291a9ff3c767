"""Curves over seeds: median and range of a quality against steps or seconds of training."""

__all__ = ["AXES", "Band", "Broken", "bands", "broken"]

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison.cells import Cell

AXES = ("step", "seconds")
MAX_POINTS = 80  # of a band


class Band(NamedTuple):
    """A task by a method: a quality over the seeds that are done.

    Arguments:
        task: its name.
        method: its name.
        metric: the quality.
        axis: ``"step"`` or ``"seconds"``.
        x: where all seeds have been looked at, (P,).
        low: smallest over seeds, (P,).
        median: over seeds, (P,).
        high: largest over seeds, (P,).
        num_seeds: how many.
    """

    task: str
    method: str
    metric: str
    axis: str
    x: list[float]
    low: list[float]
    median: list[float]
    high: list[float]
    num_seeds: int


class Broken(NamedTuple):
    """The curve of one cell that failed or was killed, as far as it came.

    Arguments:
        task: its name.
        method: its name.
        metric: the quality.
        axis: ``"step"`` or ``"seconds"``.
        seed: of the cell.
        reason: why it ends.
        x: where it was looked at, (P,).
        y: the quality, (P,).
    """

    task: str
    method: str
    metric: str
    axis: str
    seed: int
    reason: str
    x: list[float]
    y: list[float]


def bands(cells: Sequence[Cell]) -> list[Band]:
    """All bands of a comparison.

    Seeds that were looked at in other places are interpolated linearly, over the range that all of them cover. Looks
    without a finite number are left out, and so are, against seconds, cells that ran beside others.
    """
    found = []
    for (task, method), group in _groups(cells).items():
        for metric in _qualities(group):
            for axis in AXES:
                points = [_points(cell, metric, axis) for cell in group if cell.status == "done"]
                points = [(x, y) for x, y in points if len(x)]
                if points:
                    found.append(_band(task, method, metric, axis, points))
    return [band for band in found if band.x]


def broken(cells: Sequence[Cell]) -> list[Broken]:
    """The curves of cells that are not done."""
    found = []
    for cell in cells:
        for metric in _qualities([cell]) if cell.status != "done" else ():
            for axis in AXES:
                x, y = _points(cell, metric, axis)
                if len(x):
                    line = (cell.seed, f"{cell.status}: {cell.reason}", x.tolist(), y.tolist())
                    found.append(Broken(cell.task, cell.method, metric, axis, *line))
    return found


def _groups(cells: Sequence[Cell]) -> dict[tuple[str, str], list[Cell]]:
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.task, cell.method), []).append(cell)
    return groups


def _qualities(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(name for cell in cells for look in cell.curve for name in look if name not in AXES))


def _points(cell: Cell, metric: str, axis: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where and what, in increasing order; nothing against the seconds of a cell that ran beside others."""
    if axis == "seconds" and not cell.is_sequential:
        return np.empty(0), np.empty(0)
    pairs = {look.get(axis): look.get(metric) for look in cell.curve}
    kept = sorted((x, y) for x, y in pairs.items() if x is not None and y is not None)
    return np.array([x for x, _ in kept], dtype=float), np.array([y for _, y in kept], dtype=float)


def _band(
    task: str, method: str, metric: str, axis: str, points: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> Band:
    start, end = max(x[0] for x, _ in points), min(x[-1] for x, _ in points)
    places = np.unique(np.concatenate([x for x, _ in points]))
    places = places[(places >= start) & (places <= end)]
    if len(places) > MAX_POINTS:
        places = places[np.unique(np.linspace(0, len(places) - 1, MAX_POINTS).round().astype(int))]
    values = np.array([np.interp(places, x, y) for x, y in points])  # (S, P)
    lines = (
        (values.min(0).tolist(), np.median(values, 0).tolist(), values.max(0).tolist()) if len(places) else ([],) * 3
    )
    return Band(task, method, metric, axis, places.tolist(), *lines, len(points))
