"""Parts of a sequence that are one unit many times over, such as the steps of a loop in time."""

__all__ = ["Repeat", "find_repeats"]

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

WINDOW = 4  # equal tokens in a row that suggest a period
NUM_PERIODS = 64


class Repeat(NamedTuple):
    """A unit that follows upon itself.

    Arguments:
        start: where the first begins.
        period: how long each is.
        number: how many there are.
    """

    start: int
    period: int
    number: int

    @property
    def end(self) -> int:
        """Where the last ends."""
        return self.start + self.period * self.number

    @property
    def saving(self) -> int:
        """How much shorter the sequence would be with one of them."""
        return self.period * (self.number - 1)


def find_repeats(tokens: Sequence[Hashable], least: int) -> list[Repeat]:
    """Finds units that follow upon themselves, without overlaps, those that save most first; returned in order.

    Arguments:
        tokens: the sequence.
        least: how much a repeat must save.
    """
    numbers: dict[Hashable, int] = {}
    sequence = np.array([numbers.setdefault(token, len(numbers)) for token in tokens])
    found = sorted(_all_repeats(sequence), key=lambda repeat: (-repeat.saving, repeat.start))
    taken: list[Repeat] = []
    free = np.ones(len(sequence), dtype=bool)
    for repeat in found:
        for rest in _free_parts(repeat, free):
            if rest.saving >= least and rest.number >= 3:
                taken.append(rest)
                free[rest.start : rest.end] = False
    return sorted(taken)


def _all_repeats(sequence: np.ndarray) -> list[Repeat]:
    found = []
    for period in _periods(sequence):
        is_same = np.concatenate([[False], sequence[:-period] == sequence[period:], [False]])
        edges = np.flatnonzero(is_same[1:] != is_same[:-1])
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if end - start >= period:
                found.append(Repeat(int(start), period, int(end - start) // period + 1))
    return found


def _periods(sequence: np.ndarray) -> list[int]:
    """The most common distances from a few tokens in a row to the same few."""
    last: dict[tuple[int, ...], int] = {}
    distances: Counter[int] = Counter()
    for place in range(len(sequence) - WINDOW + 1):
        window = tuple(sequence[place : place + WINDOW].tolist())
        if window in last:
            distances[place - last[window]] += 1
        last[window] = place
    return [distance for distance, _ in distances.most_common(NUM_PERIODS)]


def _free_parts(repeat: Repeat, free: np.ndarray) -> list[Repeat]:
    """What is left of a repeat where others have taken places."""
    is_free = free[repeat.start : repeat.end]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_free.astype(int), [0]])))
    return [
        Repeat(repeat.start + int(start), repeat.period, int(end - start) // repeat.period)
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        if end - start >= repeat.period
    ]
