"""The tasks: a Pyro program and its guide, and the same loss written by hand on the same networks."""

from benchmarks.step_time.tasks.catalogue import TASKS, make
from benchmarks.step_time.tasks.task import Batch, Task

__all__ = ["TASKS", "Batch", "Task", "make"]
