"""A graph cut into segments, of which those that are alike are one function: a loop's steps compile once."""

__all__ = ["Segment", "loops_of", "segments_of"]

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.fx import GraphModule

from pyro_dgm.infer.compiling.dataflow import Dataflow, Operation, Value, num_outputs
from pyro_dgm.infer.compiling.repeats import Repeat, find_repeats

GATHERS = (torch.ops.aten.stack.default, torch.ops.aten.cat.default)
MANY = 12  # tensors in one, which Inductor would take a kernel each for
FEW = 15  # operations that are as fast one by one
LEAST = 500  # operations that outlining must save to be worth it
LEAST_IN_LOOP = 150  # of them that one loop must save
LONGEST = 160  # operations in a segment of several units


@dataclass
class Segment:
    """A stretch of operations, or several that are alike.

    Arguments:
        flow: the operations of the graph.
        starts: where each begins.
        length: how many operations each is.
    """

    flow: Dataflow
    starts: Sequence[int]
    length: int

    @cached_property
    def inside(self) -> dict[Value, tuple[int, int]]:
        """The values of the first stretch, with the number of their operation in it and among its outputs."""
        found = {}
        for number in range(self.length):
            node = self.operation(number).node
            for output in range(num_outputs(node)):
                found[node, output] = number, output
        return found

    @cached_property
    def inputs(self) -> dict[tuple[Value, ...], int]:
        """What comes from outside: for each input its value in every stretch; with the input's number."""
        found: dict[tuple[Value, ...], int] = {}
        for number in range(self.length):
            for place, port in enumerate(self.operation(number).ports):
                if port.value not in self.inside:
                    found.setdefault(self.values(number, place), len(found))
        return found

    @cached_property
    def outputs(self) -> list[tuple[int, int]]:
        """What is used afterwards in any of the stretches: number of the operation, and among its outputs."""
        found = []
        for number in range(self.length):
            for output in range(num_outputs(self.operation(number).node)):
                uses = (
                    self.flow.last_uses.get((self.operation(number, stretch).node, output), -1) - start
                    for stretch, start in enumerate(self.starts)
                )
                if max(uses) >= self.length:
                    found.append((number, output))
        return found

    @cached_property
    def shifts(self) -> dict[tuple[int, ...], int]:
        """How positions of slices differ from those in the first stretch, in every stretch; with numbers."""
        found: dict[tuple[int, ...], int] = {}
        for number in range(self.length):
            for place in range(len(_positions(self.operation(number)))):
                shift = self.shift(number, place)
                if any(shift):
                    found.setdefault(shift, len(found))
        return found

    @cached_property
    def is_compiled(self) -> bool:
        """Whether it is worth the second that any function takes to compile, at the least.

        What puts many tensors into one is not: Inductor would make a kernel for each of them.
        """
        return self.length > FEW and not all(_is_gathering(self.operation(number)) for number in range(self.length))

    def operation(self, number: int, stretch: int = 0) -> Operation:
        """An operation of a stretch."""
        return self.flow.operations[self.starts[stretch] + number]

    def values(self, number: int, place: int) -> tuple[Value, ...]:
        """What an operation takes at a port, in every stretch."""
        return tuple(self.operation(number, stretch).ports[place].value for stretch in range(len(self.starts)))

    def shift(self, number: int, place: int) -> tuple[int, ...]:
        """How one of the positions in an operation differs from that in the first stretch, in every stretch."""
        first, *others = (_positions(self.operation(number, stretch))[place] for stretch in range(len(self.starts)))
        return (0, *(0 if first is None or other is None else other - first for other in others))

    def mutates_what_moves(self) -> bool:
        """Whether something is changed in place that is also looked at from a position that is an input."""
        changed = {value for number in range(self.length) for value in self.operation(number).mutated}
        return any(
            port.value in changed and any(self.shift(number, place)[1:])
            for number in range(self.length)
            for place, port in _ports_of_positions(self.operation(number))
        )


def segments_of(graph: GraphModule) -> list[Segment] | None:
    """Cuts a graph at the loops that have been unrolled in it; None where that saves little, or is not safe."""
    if len(graph.graph.nodes) < LEAST:
        return None
    try:
        flow = Dataflow(graph)
    except NotImplementedError:
        return None
    operations = flow.operations
    if flow.looks_at_memory:  # of which some has become contiguous
        return None
    unsafe = _unsafe_cuts(flow)
    loops = loops_of(flow, LEAST_IN_LOOP)
    repeats = [_in_larger_units(found) for repeat in loops for found in _between(repeat, unsafe)]
    segments: list[Segment] = []
    end = 0
    for repeat in repeats:
        segments += _straight(flow, end, repeat.start, unsafe)
        starts = range(repeat.start, repeat.end, repeat.period)
        segments.append(Segment(flow, starts, repeat.period))
        end = repeat.end
    segments += _straight(flow, end, len(operations), unsafe)
    saved = sum(segment.length * (len(segment.starts) - 1) for segment in segments)
    return segments if saved >= LEAST and not any(map(Segment.mutates_what_moves, segments)) else None


def loops_of(flow: Dataflow, least: int) -> list[Repeat]:
    """Where units follow upon each other that are alike, also in what of themselves they take.

    Arguments:
        flow: the operations of a graph.
        least: how many operations fewer one unit has than all.
    """
    repeats = find_repeats([operation.token for operation in flow.operations], least)
    return [found for repeat in repeats for found in _alike(repeat, flow)]


def _alike(repeat: Repeat, flow: Dataflow) -> Iterable[Repeat]:
    """The longest run of units that take the same from inside themselves, if there are three."""

    def sources(start: int) -> list[tuple[int, int]]:
        unit = range(start, start + repeat.period)
        values = [port.value for number in unit for port in flow.operations[number].ports]
        made = ((flow.producers.get(value, -1) - start, value[1]) for value in values)
        return [source if source[0] >= 0 else (-1, 0) for source in made]

    starts = range(repeat.start, repeat.end, repeat.period)
    best, begun, before = repeat._replace(number=0), repeat.start, None
    for start in starts:
        now = sources(start)
        begun = begun if now == before else start
        count = (start - begun) // repeat.period + 1
        best = Repeat(begun, repeat.period, count) if count > best.number else best
        before = now
    return [best] if best.number >= 3 else []


def _straight(flow: Dataflow, start: int, end: int, unsafe: set[int]) -> Iterable[Segment]:
    """What is no loop, cut into what gathers tensors and the rest."""
    gathers = [_is_gathering(operation) for operation in flow.operations[start:end]]
    begun = start
    for number in range(start + 1, end):
        if gathers[number - start] != gathers[number - start - 1] and number not in unsafe:
            yield Segment(flow, [begun], number - begun)
            begun = number
    if end > begun:
        yield Segment(flow, [begun], end - begun)


def _is_gathering(operation: Operation) -> bool:
    """Whether it puts many tensors into one."""
    return operation.node.target in GATHERS and len(operation.ports) >= MANY


def _in_larger_units(repeat: Repeat) -> Repeat:
    """Several units in one, so that the calls are few, with little left over."""
    most = max(1, min(LONGEST // repeat.period, repeat.number // 3))
    several = min(range(most // 2 + 1, most + 1), key=lambda size: (repeat.number % size, -size))
    return Repeat(repeat.start, repeat.period * several, repeat.number // several)


def _unsafe_cuts(flow: Dataflow) -> set[int]:
    """Where a value has been computed that is changed in place later.

    Results of one function may share memory with each other.
    """
    return {
        cut
        for number, operation in enumerate(flow.operations)
        for value in operation.mutated
        if value in flow.producers
        for cut in range(flow.producers[value] + 1, number + 1)
    }


def _between(repeat: Repeat, unsafe: set[int]) -> list[Repeat]:
    """The same repeat cut at safe places, one unit shorter perhaps; nothing if there are none."""
    for offset in range(repeat.period):
        moved = Repeat(repeat.start + offset, repeat.period, repeat.number - (offset > 0))
        if unsafe.isdisjoint(range(moved.start, moved.end + 1, moved.period)):
            return [moved]
    return []


def _positions(operation: Operation) -> list[int | None]:
    """Of the operation itself, and of all views it looks through."""
    return [operation.position, *(view.position for port in operation.ports for view in port.views)]


def _ports_of_positions(operation: Operation) -> list[tuple[int, Any]]:
    """Each view's place among the positions, with its port."""
    ports = [port for port in operation.ports for _ in port.views]
    return list(enumerate(ports, start=1))
