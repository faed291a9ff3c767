"""A graph in segments as a function: each kind of segment is one function, and they are called one after the other."""

__all__ = ["Function", "Outlined"]

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_dgm.infer.compiling.bodies import looked_at
from pyro_dgm.infer.compiling.dataflow import device_of
from pyro_dgm.infer.compiling.segments import Segment

Function = Callable[..., Sequence[Tensor]]


class Call(NamedTuple):
    """One function, called on some of the tensors that are kept.

    Arguments:
        function: of a segment.
        sources: where its arguments are.
        target: where its first output goes, and the others behind.
        used_up: what nobody needs afterwards.
        strided: outputs that have come out other than contiguous, as the next functions would have them.
    """

    function: Function
    sources: list[int]
    target: int
    used_up: list[int]
    strided: set[int]


class Outlined:
    """Runs a graph segment by segment.

    Arguments:
        segments: of one graph, in its order.
        functions: what each segment's body has become.
    """

    def __init__(self, segments: Sequence[Segment], functions: Sequence[Function]) -> None:
        flow = segments[0].flow
        shifts = sorted({shift for segment in segments for moves in segment.shifts for shift in moves})
        given: list[Any] = [(node, 0) for node in flow.given] + shifts
        places: dict[Any, int] = {value: place for place, value in enumerate(given)}
        self._constants = [*flow.constants.values(), *(torch.tensor(shift, device=device_of(flow)) for shift in shifts)]
        self._calls: list[Call] = []
        self._is_first = True
        for segment, function in zip(segments, functions, strict=True):
            for number in range(len(segment.starts)):
                sources = [places[values[number]] for values in segment.inputs]
                sources += [places[moves[number]] for moves in segment.shifts]
                self._calls.append(Call(function, sources, len(places), [], set()))
                for operation, output in segment.outputs:
                    places[segment.operation(operation, number).node, output] = len(places)
        self._outputs = [None if port is None else (places[port.value], port.views) for port in flow.outputs]
        self._num_places = len(places)
        needed = {*range(len(given)), *(output[0] for output in self._outputs if output is not None)}
        for call in reversed(self._calls):
            call.used_up.extend(set(call.sources) - needed)
            needed.update(call.sources)

    def __call__(self, *inputs: Tensor) -> list[Any]:
        """The outputs of the graph."""
        kept: list[Any] = [*inputs, *self._constants]
        kept += [None] * (self._num_places - len(kept))
        for function, sources, target, used_up, strided in self._calls:
            found = function(*[kept[source] for source in sources])
            if self._is_first:
                strided.update(i for i, tensor in enumerate(found) if not tensor.is_contiguous())
            if strided:
                found = [tensor.contiguous() if i in strided else tensor for i, tensor in enumerate(found)]
            kept[target : target + len(found)] = found
            for place in used_up:
                kept[place] = None
        self._is_first = False
        return [None if output is None else looked_at(kept[output[0]], output[1]) for output in self._outputs]
