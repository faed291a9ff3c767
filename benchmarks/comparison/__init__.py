"""Inference methods compared: tasks with known answers, methods of several libraries, one file for every cell.

``python -m benchmarks list | run | report``. A task is a subclass of ``Task``, a method one of ``Method``.
"""

from benchmarks.comparison.cells import Cell, Metric, read_cell, write_cell
from benchmarks.comparison.method import Learner, Method, TrainedPrograms
from benchmarks.comparison.reading import read_cells
from benchmarks.comparison.task import Facts, Modes, Posterior, Problem, Quality, Task

__all__ = [
    "Cell",
    "Facts",
    "Learner",
    "Method",
    "Metric",
    "Modes",
    "Posterior",
    "Problem",
    "Quality",
    "Task",
    "TrainedPrograms",
    "read_cell",
    "read_cells",
    "write_cell",
]
