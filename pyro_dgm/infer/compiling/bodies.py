"""The graph of a segment, which stands for all stretches of operations that are like it."""

__all__ = ["body_of", "looked_at", "view_of"]

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from pyro_dgm.infer.compiling.dataflow import Operation, Port, View, device_of, placed, tensor_of
from pyro_dgm.infer.compiling.segments import Segment

aten = torch.ops.aten
Shift = tuple[int, ...]


def body_of(segment: Segment) -> tuple[GraphModule, list[Tensor]]:
    """The graph of a segment, and what its inputs are like.

    They are those of the segment and then, as scalars, how far positions of slices have moved from those in the first
    stretch. What passes from segment to segment is contiguous.
    """
    device, given = device_of(segment.flow), {(node, 0) for node in segment.flow.given}
    examples = [tensor_of(value) if value in given else _contiguous(tensor_of(value)) for value, *_ in segment.inputs]
    examples += [torch.zeros((), dtype=torch.long, device=device) for _ in segment.shifts]
    return GraphModule(nn.Module(), _Body(segment).graph), examples


def view_of(view: View) -> tuple[Any, tuple[Any, ...]]:
    """The operation and its arguments after the tensor."""
    if view.target is aten.select.int:
        return view.target, (view.args[0], view.position)
    if view.target is aten.slice.Tensor and view.position is not None:
        dim, _, length, step = view.args
        return view.target, (dim, view.position, view.position + length, step)
    return view.target, view.args


def looked_at(tensor: Tensor, views: Sequence[View]) -> Tensor:
    """A tensor through views."""
    for view in views:
        target, args = view_of(view)
        tensor = target(tensor, *args, **dict(view.kwargs))
    return tensor


class _Body:
    """A segment's operations, written into a graph of their own."""

    def __init__(self, segment: Segment) -> None:
        self._segment, self.graph, self._device = segment, Graph(), device_of(segment.flow)
        self._inputs = {values: self.graph.placeholder(f"input_{i}") for values, i in segment.inputs.items()}
        self._shifts = {shift: self.graph.placeholder(f"shift_{i}") for shift, i in segment.shifts.items()}
        self._made: dict[Any, Node] = {}  # the values of the first stretch
        self._seen: dict[Any, Node] = {}  # and what they are seen through
        for number in range(segment.length):
            self._add(number, segment.operation(number))
        self.graph.output([self._output(segment.operation(number).node, output) for number, output in segment.outputs])

    def _output(self, node: Node, number: int) -> Node:
        made = self._made[node, number]
        if tensor_of((node, number)).is_contiguous():
            return made
        return self._call(aten.clone.default, made, memory_format=torch.contiguous_format)

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        return self.graph.call_function(target, args, kwargs)

    def _add(self, number: int, operation: Operation) -> None:
        tensors, place = [], 1
        for i, port in enumerate(operation.ports):
            shifts = [self._segment.shift(number, place + step) for step in range(len(port.views))]
            tensors.append(self._tensor(number, i, port, shifts))
            place += len(port.views)
        given = iter(tensors)
        target, value = operation.node.target, operation.node.meta["val"]
        args, kwargs = map_arg((operation.args, dict(operation.node.kwargs)), lambda _: next(given))
        if operation.position is None:
            node = self._call(target, *args, **kwargs)
        else:
            node = self._derivative(target, args, operation.position, self._segment.shift(number, 0))
        several = () if value is None or isinstance(value, Tensor) else range(len(value))
        outputs = [self._call(operator.getitem, node, i) for i in several] or [node]
        self._made.update({(operation.node, i): output for i, output in enumerate(outputs)})

    def _tensor(self, number: int, place: int, port: Port, shifts: Sequence[Shift]) -> Node:
        """An argument, seen through its views, each of which is made once."""
        is_own = port.value in self._segment.inside
        key: Any = port.value if is_own else self._segment.values(number, place)
        node = self._made[key] if is_own else self._inputs[key]
        for view, shift in zip(port.views, shifts, strict=True):
            key = key, view, shift
            if key not in self._seen:
                self._seen[key] = self._view(node, view, shift)
            node = self._seen[key]
        return node

    def _view(self, tensor: Node, view: View, shift: Shift) -> Node:
        if not any(shift):
            target, args = view_of(view)
            return self._call(target, tensor, *args, **dict(view.kwargs))
        start = self._call(aten.add.Tensor, self._shifts[shift], view.position)
        if view.target is aten.select.int:
            dim, numbers = view.args[0], self._call(aten.view.default, start, [1])
            return self._call(aten.squeeze.dim, self._call(aten.index_select.default, tensor, dim, numbers), dim)
        dim, _, length, step = view.args
        numbers = self._call(aten.add.Tensor, self._arange(length, step), start)
        return self._call(aten.index_select.default, tensor, dim, numbers)

    def _derivative(self, target: Any, args: Sequence[Any], position: int, shift: Shift) -> Node:
        """Of ``select`` and ``slice``: zeros, with the gradient at a position."""
        if not any(shift):
            return self._call(target, *placed(args, position))
        gradient, sizes, dim, _, *rest = args
        if not rest:
            gradient = self._call(aten.unsqueeze.default, gradient, dim)
        length = rest[0] if rest else 1
        start = self._call(aten.add.Tensor, self._shifts[shift], position)
        numbers = self._call(aten.sub.Tensor, self._arange(sizes[dim], 1), start)
        if length > 1:
            nearest = self._call(aten.clamp.default, numbers, 0, length - 1)
            gradient = self._call(aten.index_select.default, gradient, dim, nearest)
        is_inside = self._call(
            aten.logical_and.default,
            self._call(aten.ge.Scalar, numbers, 0),
            self._call(aten.lt.Scalar, numbers, length),
        )
        shape = [-1 if axis == dim % len(sizes) else 1 for axis in range(len(sizes))]
        mask = self._call(aten.view.default, is_inside, shape)
        return self._call(aten.where.ScalarOther, mask, gradient, 0.0)

    def _arange(self, length: int, step: int) -> Node:
        return self._call(aten.arange.start_step, 0, length, step, dtype=torch.long, device=self._device)


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()
