"""Contestants of a task, taking blocks of steps in turns."""

__all__ = ["Settings", "measure"]

import gc
import signal
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
from torch._inductor.utils import clear_caches, fresh_cache
from tqdm import tqdm

from benchmarks.step_time.contestants import CONTESTANTS, Contestant
from benchmarks.step_time.tasks import TASKS, make
from pyro_dgm.infer.compiling import Compiler

NUM_FIRST = 8  # steps, within which everyone has compiled what there is to compile
LEAST = 5  # rounds, however long they take


class Settings(NamedTuple):
    """How it is measured.

    Arguments:
        rounds: how often everyone takes a block.
        steps: of a block.
        seconds: of a task after which no further round begins, from the fifth on.
        backend: of our compiled steps.
    """

    rounds: int
    steps: int
    seconds: float
    backend: str


class OutOfTime(BaseException):
    """A contestant's first steps took too long; not an ``Exception``, which those who compile may catch."""


def measure(task: str, names: Sequence[str], settings: Settings, limit: float) -> dict[str, Any]:
    """A row of the results: all contestants on one task, in turns, after each has taken its first steps.

    Inductor's cache is empty before. Our second compiled contestant finds on disk what the first has compiled.

    Arguments:
        task: its name.
        names: of the contestants.
        settings: how it is measured.
        limit: seconds that a contestant's first steps may take.
    """
    cells: dict[str, dict[str, Any]] = {name: {"rounds": [], "notes": []} for name in names}
    running: dict[str, Contestant] = {}
    with fresh_cache():
        for name in tqdm(names, desc=f"{task}, first steps", leave=False, disable=None):
            clear_caches()  # what Inductor has in memory
            try:
                running[name], cells[name]["first_seconds"] = _start(task, name, settings, limit)
            except (Exception, OutOfTime) as error:  # whatever a contestant fails with is its result
                cells[name]["none"] = _reason(error)
        for contestant in running.values():  # once more, now that all have done what they do once in a process
            _first(contestant, settings.steps)
        with _uncollected():
            _take_turns(task, running, cells, settings)
    for name, contestant in running.items():
        _summarise(cells[name], _num_first(settings.steps))
        cells[name]["notes"] = contestant.notes()
    return {"task": task, "title": TASKS[task].title, "cells": cells}


def _take_turns(
    task: str, running: Mapping[str, Contestant], cells: Mapping[str, dict[str, Any]], settings: Settings
) -> None:
    """The rounds; each is noted in the cells."""
    start = time.perf_counter()
    for number in tqdm(range(settings.rounds), desc=task, leave=False, disable=None):
        if number >= LEAST and time.perf_counter() - start > settings.seconds:
            return
        for name, contestant in running.items():
            cells[name]["rounds"].append(1000 * _block(contestant) / settings.steps)


def _start(task: str, name: str, settings: Settings, limit: float) -> tuple[Contestant, float]:
    """A contestant that has taken its first steps, and the seconds they took."""
    compiler = Compiler(backend=settings.backend, wait=True, quiet=True)
    pyro.set_rng_seed(0)
    with _limited(limit):
        contestant = CONTESTANTS[name].make(task, *make(task, settings.steps), compiler)
        return contestant, _first(contestant, settings.steps)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Stops what is within, where the system has alarms; what runs in C++ is stopped at its end."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise OutOfTime(f"its first steps take more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Spares what there is from the garbage collector; compilers leave much, which would slow down who allocates."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _first(contestant: Contestant, steps: int) -> float:
    """Takes the first steps, in whole blocks, and returns the seconds."""
    return sum(_block(contestant) for _ in range(_num_first(steps) // steps))


def _num_first(steps: int) -> int:
    return steps * -(-NUM_FIRST // steps)


def _block(contestant: Contestant) -> float:
    """The seconds of a block of steps."""
    with contestant.at_work():
        start = time.perf_counter()
        contestant.steps()
        return time.perf_counter() - start


def _summarise(cell: dict[str, Any], num_first: int) -> None:
    """Median and quartiles of a step, and the seconds of the first steps beyond what they take later."""
    low, cell["ms"], high = statistics.quantiles(cell["rounds"], n=4, method="inclusive")
    cell["quartiles"] = [low, high]
    cell["extra_seconds"] = max(0.0, cell["first_seconds"] - num_first * cell["ms"] / 1000)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return lines[0] if isinstance(error, NotImplementedError | OutOfTime) else f"{type(error).__name__}: {lines[0]}"
