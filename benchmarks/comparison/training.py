"""A learner through its budget, with looks on the way, and beside a reference in turns."""

__all__ = ["Budget", "Course", "OrphanedError", "Store", "against_reference", "train"]

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import pyro

from benchmarks.comparison.method import Learner

NUM_LOOKS = 20
NUM_BLOCKS, LEAST_BLOCKS = 15, 5
BLOCK_SECONDS, MOST_SECONDS, MOST_STEPS = 0.02, 20.0, 100  # of a block, of all blocks, and steps of a block
NUM_FIRST = 5  # steps of the reference, which are not counted


class OrphanedError(SystemExit):
    """The run that a cell belongs to has ended, so that nobody waits for it."""


class Budget(NamedTuple):
    """So many steps, or so many seconds of training: one of the two is None."""

    steps: int | None
    seconds: float | None

    @property
    def content(self) -> dict[str, float]:
        """As cells have it."""
        return {"steps": self.steps} if self.steps is not None else {"seconds": self.seconds or 0.0}

    @property
    def total(self) -> float:
        """In its own unit."""
        return next(iter(self.content.values()))

    def spent(self, steps: int, seconds: float) -> float:
        """Steps or seconds, whichever it is about."""
        return steps if self.steps is not None else seconds


@final
@dataclass
class Course:
    """How training went, as far as it has.

    Arguments:
        seconds: of training, those that the method needed to begin included.
        steps: taken.
        curve: what was seen at each look.
        times: seconds of every step.
    """

    seconds: float = 0.0
    steps: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    @property
    def seconds_per_step(self) -> float:
        """The median of the later half."""
        return statistics.median(self.times[len(self.times) // 2 :])


@final
class Store:
    """A store of Pyro's parameters of one's own, so that learners in one process do not share any."""

    def __init__(self) -> None:
        self._state: dict[str, Any] = {"params": {}, "constraints": {}}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Puts it in the place of the global one."""
        with pyro.get_param_store().scope(self._state):
            yield


def train(learner: Learner, budget: Budget, look: Callable[[], dict[str, Any]], course: Course | None = None) -> Course:
    """Takes steps until the budget is spent; seconds are those of the steps, and those that are in the course before.

    Looks lie denser at the beginning, at the squares of equal parts of the budget, and one is at the end.

    Arguments:
        learner: at its beginning.
        budget: of steps or seconds.
        look: what is to be seen.
        course: to which is added what happens, so that it is there whatever happens; a new one when None.

    Returns:
        The course.

    Raises:
        OrphanedError: the process that started this one has ended.
    """
    parent, course = os.getppid(), Course() if course is None else course
    marks = [budget.total * part**2 / NUM_LOOKS**2 for part in range(1, NUM_LOOKS + 1)]
    while budget.spent(course.steps, course.seconds) < budget.total:
        start = time.perf_counter()
        learner.step()
        course.times.append(time.perf_counter() - start)
        course.seconds, course.steps = course.seconds + course.times[-1], course.steps + 1
        if os.getppid() != parent:
            raise OrphanedError("the run that this cell belongs to has ended")
        if budget.spent(course.steps, course.seconds) >= marks[0]:
            course.curve.append({"step": course.steps, "seconds": course.seconds, **look()})
            marks = [mark for mark in marks[1:] if mark > budget.spent(course.steps, course.seconds)] or [math.inf]
    return course


def against_reference(own: Learner, own_store: Store, other: Learner, other_store: Store) -> dict[str, float]:
    """Both take blocks of steps in turns; the ratio of their median times per block, and the number of blocks."""
    contestants = ((own, own_store), (other, other_store))
    first = [_block(learner, store, NUM_FIRST) / NUM_FIRST for learner, store in reversed(contestants)]
    steps = min(MOST_STEPS, max(1, math.ceil(BLOCK_SECONDS / min(first))))
    blocks = max(LEAST_BLOCKS, min(NUM_BLOCKS, int(MOST_SECONDS / (steps * sum(first)))))
    rounds = [[_block(learner, store, steps) for learner, store in contestants] for _ in range(blocks)]
    mine, others = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {"ratio": mine / others, "blocks": blocks}


def _block(learner: Learner, store: Store, steps: int) -> float:
    """Seconds of a block of steps."""
    with store.open():
        start = time.perf_counter()
        for _ in range(steps):
            learner.step()
        return time.perf_counter() - start
