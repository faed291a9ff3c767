"""A graph cut into segments, of which those that are alike are one function: a loop's steps compile once."""

__all__ = ["Segment", "segments_of"]

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_dgm.infer.compiling.dataflow import Dataflow, Operation, Value
from pyro_dgm.infer.compiling.repeats import Repeat, find_repeats

STRIDED = torch.ops.aten.as_strided.default
LEAST = 1000  # operations that outlining must save to be worth it
LONGEST = 160  # operations in a segment of several units


@dataclass
class Segment:
    """A stretch of operations, or several that are alike.

    Arguments:
        flow: the operations of the graph.
        starts: where each begins.
        length: how many operations each is.
        last_uses: the number of the operation that uses a value last; the graph's own outputs are used for ever.
    """

    flow: Dataflow
    starts: Sequence[int]
    length: int
    last_uses: Mapping[Value, float] = field(repr=False)

    @cached_property
    def inside(self) -> dict[Value, tuple[int, int]]:
        """The values of the first stretch, with the number of their operation in it and among its outputs."""
        found = {}
        for number in range(self.length):
            node = self.operation(number).node
            for output in range(_num_outputs(node)):
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
            for output in range(_num_outputs(self.operation(number).node)):
                uses = (
                    self.last_uses.get((self.operation(number, stretch).node, output), -1) - start
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
    if any(view.target is STRIDED for operation in operations for port in operation.ports for view in port.views):
        return None  # which would be another look at what has become contiguous
    producers = {
        (operation.node, output): number
        for number, operation in enumerate(operations)
        for output in range(_num_outputs(operation.node))
    }
    last_uses = _last_uses(flow)
    repeats = find_repeats([operation.token for operation in operations])
    repeats = [found for repeat in repeats for found in _alike(repeat, operations, producers)]
    unsafe = _unsafe_cuts(operations, producers)
    repeats = [_in_larger_units(found) for repeat in repeats for found in _between(repeat, unsafe)]
    segments: list[Segment] = []
    end = 0
    for repeat in repeats:
        segments += [Segment(flow, [end], repeat.start - end, last_uses)] if repeat.start > end else []
        starts = range(repeat.start, repeat.end, repeat.period)
        segments.append(Segment(flow, starts, repeat.period, last_uses))
        end = repeat.end
    segments += [Segment(flow, [end], len(operations) - end, last_uses)] if end < len(operations) else []
    saved = sum(segment.length * (len(segment.starts) - 1) for segment in segments)
    return segments if saved >= LEAST and not any(map(Segment.mutates_what_moves, segments)) else None


def _last_uses(flow: Dataflow) -> dict[Value, float]:
    uses: dict[Value, float] = {
        port.value: number for number, operation in enumerate(flow.operations) for port in operation.ports
    }
    uses.update({port.value: math.inf for port in flow.outputs if port is not None})
    return uses


def _alike(repeat: Repeat, operations: Sequence[Operation], producers: Mapping[Value, int]) -> Iterable[Repeat]:
    """The longest run of units that take the same from inside themselves, if there are three."""

    def sources(start: int) -> list[int]:
        unit = range(start, start + repeat.period)
        found = (producers.get(port.value, -1) for number in unit for port in operations[number].ports)
        return [number - start if number >= start else -1 for number in found]

    starts = range(repeat.start, repeat.end, repeat.period)
    best, begun, before = repeat._replace(number=0), repeat.start, None
    for start in starts:
        now = sources(start)
        begun = begun if now == before else start
        count = (start - begun) // repeat.period + 1
        best = Repeat(begun, repeat.period, count) if count > best.number else best
        before = now
    return [best] if best.number >= 3 else []


def _in_larger_units(repeat: Repeat) -> Repeat:
    """Several units in one, so that the calls are few, with little left over."""
    most = max(1, min(LONGEST // repeat.period, repeat.number // 3))
    several = min(range(most // 2 + 1, most + 1), key=lambda size: (repeat.number % size, -size))
    return Repeat(repeat.start, repeat.period * several, repeat.number // several)


def _unsafe_cuts(operations: Sequence[Operation], producers: Mapping[Value, int]) -> set[int]:
    """Where a value has been computed that is changed in place later.

    Results of one function may share memory with each other.
    """
    return {
        cut
        for number, operation in enumerate(operations)
        for value in operation.mutated
        if value in producers
        for cut in range(producers[value] + 1, number + 1)
    }


def _between(repeat: Repeat, unsafe: set[int]) -> list[Repeat]:
    """The same repeat cut at safe places, one unit shorter perhaps; nothing if there are none."""
    for offset in range(repeat.period):
        moved = Repeat(repeat.start + offset, repeat.period, repeat.number - (offset > 0))
        if unsafe.isdisjoint(range(moved.start, moved.end + 1, moved.period)):
            return [moved]
    return []


def _num_outputs(node: Any) -> int:
    value = node.meta["val"]
    return 1 if isinstance(value, Tensor) else 0 if value is None else len(value)


def _positions(operation: Operation) -> list[int | None]:
    """Of the operation itself, and of all views it looks through."""
    return [operation.position, *(view.position for port in operation.ports for view in port.views)]


def _ports_of_positions(operation: Operation) -> list[tuple[int, Any]]:
    """Each view's place among the positions, with its port."""
    ports = [port for port in operation.ports for _ in port.views]
    return list(enumerate(ports, start=1))
