"""What a round of an unrolled loop takes from other rounds, and so what of it can be done for all rounds at once."""

__all__ = ["Group", "Loop", "Sum"]

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from typing import NamedTuple, final

import numpy as np
import torch

from pyro_dgm.infer.compiling.dataflow import Dataflow, Operation
from pyro_dgm.infer.compiling.repeats import Repeat
from pyro_dgm.infer.compiling.segments import Segment

aten = torch.ops.aten
DERIVATIVES = (aten.select_backward.default, aten.slice_backward.default)
PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default)
FEWEST_ROUNDS = 8  # that are worth being done at once
FEWEST = 8  # operations worth it, if none of them is a product of what comes in with what is the same in all rounds


class Use(NamedTuple):
    """That one operation of a round takes what another has computed.

    Arguments:
        source: the other's number.
        is_close: whether in the same round, always, and seen from the same position.
    """

    source: int
    is_close: bool


class Sum(NamedTuple):
    """A running sum of which nobody uses anything but the last value.

    Arguments:
        places: the additions of a round, in order.
        totals: which port of each is the sum so far.
    """

    places: tuple[int, ...]
    totals: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Operations of every round that are done together.

    Arguments:
        places: their numbers in a round.
        is_parallel: do them for all rounds at once, otherwise round by round.
        sums: running sums among them.
    """

    places: Sequence[int]
    is_parallel: bool
    sums: Sequence[Sum]


@final
class Loop:
    """Rounds that follow upon each other, and how their operations depend on one another.

    The operations that depend on themselves in an earlier round must wait for it; the others need not, once what they
    take is there (Allen and Kennedy, 1987, Automatic translation of Fortran programs to vector form).
    """

    def __init__(self, flow: Dataflow, repeat: Repeat) -> None:
        self.flow, self.starts, self.length = flow, range(repeat.start, repeat.end, repeat.period), repeat.period
        self._rounds = Segment(flow, self.starts, self.length)
        self._known: dict[tuple[int, int], set[Use]] = {}

    def operation(self, place: int, number: int = 0) -> Operation:
        """An operation of a round."""
        return self._rounds.operation(place, number)

    def shift(self, place: int, number: int) -> tuple[int, ...]:
        """How one of the positions in an operation differs from that in the first round, in every round."""
        return self._rounds.shift(place, number)

    @property
    def num_rounds(self) -> int:
        """How often."""
        return len(self.starts)

    @cached_property
    def is_safe(self) -> bool:
        """Whether nothing is changed in place that other rounds see, then or later."""
        inside = range(self.starts[0], self.starts[-1] + self.length)
        for number, operation in enumerate(self.flow.operations):
            for value in operation.mutated:
                made = self.flow.producers.get(value, -1)
                is_same_round = (made - inside.start) // self.length == (number - inside.start) // self.length
                if (number in inside or made in inside) and not is_same_round:
                    return False
        return True

    @cached_property
    def groups(self) -> list[Group]:
        """All operations, in an order that gives the same values; empty if none is worth being done at once."""
        bound: set[int] = set()  # operations that could be done at once, but are not worth it
        while self.num_rounds >= FEWEST_ROUNDS:
            groups = self._groups(bound)
            idle = [group for group in groups if group.is_parallel and not self._is_worth_it(group)]
            if not idle or all(group.is_parallel for group in groups):
                return groups if any(group.is_parallel for group in groups) else []
            bound.update(place for group in idle for place in group.places)
        return []

    def is_taken_up(self, place: int) -> bool:
        """Whether the sum over rounds of what an operation makes is simpler than what it makes."""
        return self.operation(place).node.target is aten.mm.default or self.moves(place)

    def moves(self, place: int) -> bool:
        """Whether an operation's own position differs from round to round."""
        return any(self.shift(place, 0))

    def view_shifts(self, place: int, port: int) -> list[tuple[int, ...]]:
        """How far each view of a port has moved, in every round."""
        ports = self.operation(place).ports
        first = 1 + sum(len(each.views) for each in ports[:port])
        return [self.shift(place, first + number) for number in range(len(ports[port].views))]

    def source(self, place: int, port: int, number: int) -> tuple[int, int] | None:
        """The operation that makes what a port takes in a round, and its round; None for what is from elsewhere."""
        made = self.flow.producers.get(self.operation(place, number).ports[port].value, -1) - self.starts[0]
        return (made % self.length, made // self.length) if 0 <= made < self.length * self.num_rounds else None

    def close_source(self, place: int, port: int) -> int | None:
        """The operation of the same round that makes what a port takes, if nothing about it moves."""
        uses = self._uses_of(place, port)
        return next((use.source for use in uses if use.is_close), None)

    def sole_source(self, place: int, port: int) -> int | None:
        """The same, if nobody else takes that."""
        values = (self.operation(place, number).ports[port].value for number in range(self.num_rounds))
        return self.close_source(place, port) if all(self.flow.num_uses[value] == 1 for value in values) else None

    def _uses_of(self, place: int, port: int) -> set[Use]:
        if (place, port) not in self._known:
            found = [self.source(place, port, number) for number in range(self.num_rounds)]
            sources = {each[0] for each in found if each is not None}
            moves = any(map(any, self.view_shifts(place, port)))
            is_close = not moves and all(each is not None and each[1] == number for number, each in enumerate(found))
            self._known[place, port] = {Use(source, is_close and len(sources) == 1) for source in sources}
        return self._known[place, port]

    @cached_property
    def _uses(self) -> list[set[Use]]:
        """By operation; those that draw random numbers, or share what is changed in place, all use one another."""
        found = [
            {use for port in range(len(self.operation(place).ports)) for use in self._uses_of(place, port)}
            for place in range(self.length)
        ]
        for places in (self._noisy, *self._sharing):
            for place in places:
                found[place].update(Use(other, False) for other in places)
        return found

    @property
    def _noisy(self) -> list[int]:
        return [place for place in range(self.length) if _is_noisy(self.operation(place))]

    @property
    def _sharing(self) -> Iterator[set[int]]:
        """Who makes or takes a value that is changed in place."""
        for place in range(self.length):
            for value in self.operation(place).mutated:
                start = self.starts[0]
                users = (
                    number - start
                    for number, each in enumerate(self.flow.operations)
                    if any(port.value == value for port in each.ports)
                )
                inside = [user % self.length for user in users if 0 <= user < self.length * self.num_rounds]
                yield {(self.flow.producers[value] - start) % self.length, *inside}

    def _groups(self, bound: set[int]) -> list[Group]:
        circles = self._circles
        sums = {min(circle): found for circle in circles if (found := self._sum(circle)) and bound.isdisjoint(circle)}
        feeds = {place for found in sums.values() for place in found.places}
        levels: dict[int, int] = {}  # by operation; even ones are parallel
        for circle in circles:
            is_parallel = min(circle) in sums or (bound.isdisjoint(circle) and not self._waits(circle, feeds))
            level = 0 if is_parallel else 1
            for place in circle:
                for use in self._uses[place]:
                    if use.source not in circle:
                        level = max(level, _after(levels[use.source], use.is_close, is_parallel))
            levels.update(dict.fromkeys(circle, level))
        for found in sums.values():  # which take up what only they use
            for place, source in zip(found.places, self._terms(found), strict=True):
                if source is not None and levels[source] % 2 == 0 and self.is_taken_up(source):
                    levels[source] = levels[place]
        return [self._group(level, levels, sums) for level in sorted(set(levels.values()))]

    def _group(self, level: int, levels: Mapping[int, int], sums: Mapping[int, Sum]) -> Group:
        places = [place for place in range(self.length) if levels[place] == level]
        return Group(places, level % 2 == 0, [sums[place] for place in places if place in sums])

    @cached_property
    def _circles(self) -> list[set[int]]:
        """Sets of operations that depend on one another, or single ones; after those that they use."""
        from scipy.sparse import coo_array  # which changes the filters of warnings
        from scipy.sparse.csgraph import connected_components

        edges = [(use.source, place) for place in range(self.length) for use in self._uses[place]]
        rows, columns = np.array(edges, dtype=int).reshape(-1, 2).T
        matrix = coo_array((np.ones(len(edges)), (rows, columns)), shape=(self.length, self.length))
        _, labels = connected_components(matrix, directed=True, connection="strong")
        before: dict[int, set[int]] = {int(label): set() for label in labels}
        for source, place in edges:
            if labels[source] != labels[place]:
                before[int(labels[place])].add(int(labels[source]))
        return [set(np.flatnonzero(labels == label).tolist()) for label in TopologicalSorter(before).static_order()]

    def _waits(self, circle: Iterable[int], feeds: set[int]) -> bool:
        """Whether operations need their own results of earlier rounds, or move in a way that only a sum can follow."""
        own = set(circle)
        if any(use.source in own for place in own for use in self._uses[place]):
            return True
        return any(self.moves(place) and not self._is_scattered(place, feeds) for place in own)

    def _is_scattered(self, place: int, feeds: set[int]) -> bool:
        """Whether the derivative of a slice is only added up, in even steps: then the slices lie side by side."""
        operation, steps = self.operation(place), set(np.diff(self.shift(place, 0)).tolist())
        is_single = operation.node.target in DERIVATIVES and (len(operation.args) == 4 or operation.args[4:] == (1, 1))
        users = [
            each for each in feeds for port in range(len(self.operation(each).ports)) if self._feeds(place, each, port)
        ]
        return is_single and len(steps) == 1 and 0 not in steps and len(users) == 1

    def _feeds(self, place: int, user: int, port: int) -> bool:
        return self.sole_source(user, port) == place and not self.operation(user).ports[port].views

    def _sum(self, circle: Iterable[int]) -> Sum | None:
        places, totals = sorted(circle), []
        last = self.flow.operations[self.starts[-1] + places[-1]].node
        for number, place in enumerate(places):
            total = self._total(place, places[number - 1], 0 if number else 1)
            values = ((self.operation(place, each).node, 0) for each in range(self.num_rounds))
            if total is None or any(self.flow.num_uses[value] != 1 for value in values if value[0] is not last):
                return None
            totals.append(total)
        return Sum(tuple(places), tuple(totals))

    def _total(self, place: int, before: int, distance: int) -> int | None:
        """The port at which an addition takes the sum so far, from so many rounds ago."""
        operation = self.operation(place)
        is_addition = operation.node.target in (aten.add.Tensor, aten.sub.Tensor) and not operation.node.kwargs
        if not is_addition or len(operation.ports) != 2 or not operation.node.meta["val"].dtype.is_floating_point:
            return None  # sums of booleans and small integers come out otherwise if taken at once
        ports = range(1 if operation.node.target is aten.sub.Tensor else 2)
        rounds = range(distance, self.num_rounds)
        found = [
            port
            for port in ports
            if not operation.ports[port].views
            and all(self.source(place, port, number) == (before, number - distance) for number in rounds)
            and (not distance or self.source(place, port, 0) is None)
        ]
        return found[0] if len(found) == 1 else None

    def _is_worth_it(self, group: Group) -> bool:
        terms = {source for each in group.sums for source in self._terms(each)}
        saves = any(self._saves(place, place in terms) for place in group.places)
        return saves or len(group.places) >= FEWEST

    def _terms(self, total: Sum) -> list[int | None]:
        return [self.sole_source(place, 1 - before) for place, before in zip(total.places, total.totals, strict=True)]

    def _saves(self, place: int, is_term: bool) -> bool:
        """Whether it becomes one product out of many, or writes a slice where it would write zeros around it."""
        if self.operation(place).node.target not in PRODUCTS:
            return self.moves(place)
        ports = range(len(self.operation(place).ports))
        return is_term or any(len(set(self._rounds.values(place, port))) == 1 for port in ports)


def _after(level: int, is_close: bool, is_parallel: bool) -> int:
    """The first level for something that uses what is at another."""
    was_parallel = level % 2 == 0
    if was_parallel == is_parallel:
        return level if is_close or not is_parallel else level + 2
    return level + 1


def _is_noisy(operation: Operation) -> bool:
    return torch.Tag.nondeterministic_seeded in operation.node.target.tags  # type: ignore[union-attr]
