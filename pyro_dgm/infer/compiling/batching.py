"""Rounds of loops done at once: a graph with batched operations in the place of those that need no earlier round."""

__all__ = ["batched"]

import itertools
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._guards import TracingContext, detect_fake_mode, tracing
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.fx.node import map_arg

from pyro_dgm.infer.compiling.bodies import looked_at
from pyro_dgm.infer.compiling.dataflow import Dataflow, Operation, Port, Value, View, placed
from pyro_dgm.infer.compiling.dependences import Group, Loop, Sum
from pyro_dgm.infer.compiling.segments import loops_of

NUMBERS_INTERLEAVED = (1, 2, 3, 4)  # of tensors whose rows take turns
LEAST = 30  # operations that doing rounds at once must save to be worth it
aten = torch.ops.aten


def batched(graph: GraphModule, inputs: Sequence[Tensor]) -> GraphModule:
    """The graph with everything that the rounds of a loop do not take from each other done for all rounds at once.

    What runs on in circles stays as it is, and in its order, random draws among it. Sums over rounds are taken at
    once as well, and so in another order, which changes their last digits.

    Arguments:
        graph: of tensors only, with ``meta["val"]`` at its nodes.
        inputs: stand-ins for its inputs.

    Returns:
        A new graph, or the same where there is nothing to gain.
    """
    try:
        flow = Dataflow(graph)
    except NotImplementedError:
        return graph
    loops = [Loop(flow, repeat) for repeat in loops_of(flow, LEAST)]
    loops = [loop for loop in loops if loop.is_safe and loop.groups]
    if not loops or flow.looks_at_memory:
        return graph
    mode = detect_fake_mode(inputs)
    assert mode is not None
    try:  # in the mode, so that what is made from nothing, noise among it, is a stand-in as well
        with mode, torch.no_grad(), tracing(TracingContext(mode)), _without_going_round_by_round():
            found = make_fx(_Run(flow, loops))(*inputs)
    except Exception:  # of torch's, whose vmap has no rule for some operations; the graph is as good as it was
        return graph
    found.graph.set_codegen(CodeGen())
    found.graph.eliminate_dead_code()
    for node in list(found.graph.nodes):
        if node.target in (aten.stack.default, aten.cat.default):
            _move_up(node)
    found.recompile()
    return found


@contextmanager
def _without_going_round_by_round() -> Iterator[None]:
    """Makes an error of what vmap would do in a loop of its own."""
    functorch: Any = torch._C._functorch
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(before)


def _move_up(node: Node) -> None:
    """Puts a node as early as it can be, so that those that put tensors together come together."""
    place = node.prev
    while (
        place not in node.all_input_nodes
        and isinstance(place.target, OpOverload)
        and not place.target._schema.is_mutable
    ):
        place = place.prev
    place.append(node)


class Part(NamedTuple):
    """A round's value as a row of those of all rounds.

    Arguments:
        whole: the tensor of them.
        row: which.
    """

    whole: Tensor
    row: int


class _Run:
    """Runs the graph's operations, those of loops group by group."""

    def __init__(self, flow: Dataflow, loops: Sequence[Loop]) -> None:
        self._flow, self._loops = flow, {loop.starts[0]: loop for loop in loops}
        self._values: dict[Value, Tensor | Part] = {}
        self._cut: dict[Value, Tensor] = {}

    def __call__(self, *inputs: Tensor) -> list[Any]:
        """The graph's outputs."""
        self._values = dict(zip(((node, 0) for node in self._flow.placeholders), inputs, strict=True))
        self._values.update({(node, 0): constant for node, constant in self._flow.constants.items()})
        number = 0
        while number < len(self._flow.operations):
            loop = self._loops.get(number)
            if loop is None:
                self._do(self._flow.operations[number])
                number += 1
            else:
                for group in loop.groups:
                    self._do_group(loop, group)
                number += loop.length * loop.num_rounds
        return [None if port is None else self._seen(port) for port in self._flow.outputs]

    def value(self, value: Value) -> Tensor:
        """One value; a part is cut out when first asked for."""
        found = self._values[value]
        if not isinstance(found, Part):
            return found
        if value not in self._cut:
            self._cut[value] = found.whole.select(0, found.row)
        return self._cut[value]

    def _seen(self, port: Port) -> Tensor:
        return _reshaped(self.value(port.value), port.views)

    def _do(self, operation: Operation) -> None:
        look = looked_at if operation.mutated else _reshaped  # what is changed must not be a copy
        tensors = [look(self.value(port.value), port.views) for port in operation.ports]
        for output, tensor in enumerate(_done(operation, tensors)):
            if tensor is not None:
                self._values[operation.node, output] = tensor

    def _do_group(self, loop: Loop, group: Group) -> None:
        if group.is_parallel:
            self._do_at_once(_Round(loop, group))
        else:
            for number, place in itertools.product(range(loop.num_rounds), group.places):
                self._do(loop.operation(place, number))

    def _do_at_once(self, body: "_Round") -> None:
        loop = body.loop
        inputs = [self._input(loop, place, port) for place, port in body.inputs]
        dims = tuple(None if is_same else 0 for is_same, _ in inputs)
        tensors = [tensor for _, tensor in inputs]
        is_same = all(dim is None for dim in dims)
        function = body if is_same else torch.vmap(body, in_dims=dims, randomness="error")
        results = function(*tensors)
        found = dict(zip(body.outputs, results, strict=True))
        for (place, output), tensor in found.items():
            if output >= 0:
                for number in range(loop.num_rounds):
                    value = loop.operation(place, number).node, output
                    self._values[value] = tensor if is_same else Part(tensor, number)
        for each in body.sums:
            node = loop.operation(each.places[-1], loop.num_rounds - 1).node
            total = self._seen(loop.operation(each.places[0]).ports[each.totals[0]])
            self._values[node, 0] = self._total(body, each, total, found, is_same)

    def _input(self, loop: Loop, place: int, port: int) -> tuple[bool, Tensor]:
        """Whether all rounds take the same, and that or, one behind the other, what each of them takes."""
        ports = [loop.operation(place, number).ports[port] for number in range(loop.num_rounds)]
        values = [each.value for each in ports]
        is_same = len(set(values)) == 1
        shifts = loop.view_shifts(place, port)
        if not any(map(any, shifts)):
            return is_same, self.value(values[0]) if is_same else self._gathered(values)
        view, shift = ports[0].views[0], shifts[0]
        if is_same and not any(map(any, shifts[1:])) and _is_single(view) and _step(shift):
            assert view.position is not None
            rows = _rows(self.value(values[0]), view.args[0], view.position, _step(shift), loop.num_rounds)
            rows = rows.unsqueeze(view.args[0] % rows.dim() + 1) if view.target is aten.slice.Tensor else rows
            return False, torch.vmap(partial(_reshaped, views=ports[0].views[1:]))(rows)
        return False, torch.stack([self._seen(each) for each in ports])

    def _gathered(self, values: Sequence[Value]) -> Tensor:
        """Values one behind the other; those that are rows of one tensor anyway are not copied."""
        pieces = list(_pieces([self._values[value] for value in values]))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _total(self, body: "_Round", each: Sum, total: Tensor, found: dict[Any, Tensor], is_same: bool) -> Tensor:
        loop = body.loop
        for place, before in zip(each.places, each.totals, strict=True):
            operation = loop.operation(place)
            views, source = operation.ports[1 - before].views, body.folded.get(place)
            parts = [found[place, name] for name in (-1, -2) if (place, name) in found]
            if is_same:
                parts = [part.expand(loop.num_rounds, *part.shape) for part in parts]
            if len(parts) == 2:
                term = _reshaped(_sum_of_products(*parts), views)
            elif source is not None and loop.moves(source):
                term = _side_by_side(parts[0], loop.operation(source), _step(loop.shift(source, 0)))
            else:
                term = parts[0].sum(0)
            total = total - term if operation.node.target is aten.sub.Tensor else total + term
        return total


class _Round:
    """What a round does of a group; called with what it takes from elsewhere.

    It returns what it has computed, and of terms of sums, which have numbers below 0: the term itself, or the two
    factors of a product, or the derivative of a slice's, where only the sum needs them.
    """

    def __init__(self, loop: Loop, group: Group) -> None:
        self.loop, self.sums = loop, group.sums
        self.inputs: list[tuple[int, int]] = []  # an operation and a port that take it
        self.outputs: list[tuple[int, int]] = []
        self._places = group.places
        self._totals = {
            place: total for each in group.sums for place, total in zip(each.places, each.totals, strict=True)
        }
        self.folded: dict[int, int] = {}  # of sums' terms, those that are not computed themselves
        for place, total in self._totals.items():
            source = loop.sole_source(place, 1 - total)
            if source is not None and source in group.places and loop.is_taken_up(source):
                self.folded[place] = source
        self._keys: dict[Hashable, int] = {}
        for place in self._places:
            for port in range(len(loop.operation(place).ports)):
                if self._is_taken(place, port) and self._inner(place, port) is None:
                    self._keys.setdefault(self._key(place, port), len(self._keys))
                    if len(self._keys) > len(self.inputs):
                        self.inputs.append((place, port))

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Does one round."""
        made: dict[tuple[int, int], Tensor] = {}
        found: dict[tuple[int, int], Tensor] = {}
        sums = {source: place for place, source in self.folded.items()}
        for place in self._places:
            operation = self.loop.operation(place)
            ports = [port for port in range(len(operation.ports)) if self._is_taken(place, port)]
            tensors = [self._tensor(place, port, made, inputs) for port in ports]
            if place in sums:
                found.update({(sums[place], -1 - number): tensor for number, tensor in enumerate(tensors)})
            elif place in self._totals and tensors:
                found[place, -1] = tensors[0]
            elif place not in self._totals:
                results = enumerate(_done(operation, tensors))
                made.update({(place, output): tensor for output, tensor in results if tensor is not None})
        found.update(made)
        self.outputs = list(found)
        return list(found.values())

    def _tensor(self, place: int, port: int, made: dict[tuple[int, int], Tensor], inputs: Sequence[Tensor]) -> Tensor:
        source, port_itself = self._inner(place, port), self.loop.operation(place).ports[port]
        if source is not None:
            return _reshaped(made[source, port_itself.value[1]], port_itself.views)
        tensor = inputs[self._keys[self._key(place, port)]]
        moves = any(map(any, self.loop.view_shifts(place, port)))
        return tensor if moves else _reshaped(tensor, port_itself.views)

    def _is_taken(self, place: int, port: int) -> bool:
        """Whether it is needed for the round itself: sums so far are not, and terms only where they are made here."""
        if place not in self._totals:
            return True
        return port != self._totals[place] and place not in self.folded

    def _inner(self, place: int, port: int) -> int | None:
        """The operation of the same round and group that makes it."""
        source = self.loop.close_source(place, port)
        return source if source in self._places else None

    def _key(self, place: int, port: int) -> Hashable:
        ports = [self.loop.operation(place, number).ports[port] for number in range(self.loop.num_rounds)]
        moves = any(map(any, self.loop.view_shifts(place, port)))
        return tuple(each.value for each in ports), tuple(each.views for each in ports) if moves else ()


def _done(operation: Operation, tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """The outputs of an operation on other tensors; None where it leaves one out."""
    given = iter(tensors)
    args, kwargs = map_arg((operation.args, dict(operation.node.kwargs)), lambda _: next(given))
    if operation.position is not None:
        args = tuple(placed(args, operation.position))
    found = operation.node.target(*args, **kwargs)  # type: ignore[operator]
    return [] if found is None else [found] if isinstance(found, Tensor) else list(found)


def _reshaped(tensor: Tensor, views: Sequence[View]) -> Tensor:
    """The same, or a copy where rows of rounds lie in such a way that there is no such view."""
    for view in views:
        is_shape = view.target is aten.view.default
        tensor = tensor.reshape(view.args[0]) if is_shape else looked_at(tensor, [view])
    return tensor


def _is_single(view: View) -> bool:
    """Whether it looks at one position."""
    return view.target is aten.select.int or (view.target is aten.slice.Tensor and view.args[2:] == (1, 1))


def _step(shift: Sequence[int]) -> int:
    """From round to round, if it is the same one everywhere and not 0."""
    steps = {later - earlier for earlier, later in itertools.pairwise(shift)}
    return steps.pop() if len(steps) == 1 else 0


def _rows(tensor: Tensor, dim: int, start: int, step: int, number: int) -> Tensor:
    """What lies at evenly spaced positions, the first dimension counting them."""
    last = start + (number - 1) * step
    dim = dim % tensor.dim()
    if (start, last, step) != (0, tensor.shape[dim] - 1, 1):
        tensor = aten.slice.Tensor(tensor, dim, min(start, last), max(start, last) + 1, abs(step))
    tensor = tensor.flip(dim) if step < 0 else tensor
    return tensor.movedim(dim, 0) if dim else tensor


def _pieces(values: Sequence[Tensor | Part]) -> Iterator[Tensor]:
    """A few tensors that have the same rows as a sequence of values."""
    values = list(values)
    while values:
        lengths = [number * min(_evenness(values[i::number]) for i in range(number)) for number in NUMBERS_INTERLEAVED]
        length = max(lengths)
        number = NUMBERS_INTERLEAVED[lengths.index(length)]
        strands = [_strand(values[i:length:number]) for i in range(number)]
        yield strands[0] if number == 1 else torch.stack(strands, 1).flatten(0, 1)
        del values[:length]


def _evenness(values: Sequence[Any]) -> int:
    """How many of the first values are evenly spaced rows of one tensor, or no rows at all."""
    if not values or not isinstance(values[0], Part):
        return sum(1 for _ in itertools.takewhile(lambda value: not isinstance(value, Part), values))
    first = values[0]
    step = values[1].row - first.row if len(values) > 1 and isinstance(values[1], Part) else 0
    rows = itertools.count(first.row, step)
    same = itertools.takewhile(lambda pair: _is_row(pair[0], first.whole, pair[1]), zip(values, rows, strict=False))
    return sum(1 for _ in same) if step else 1


def _is_row(value: Any, whole: Tensor, row: int) -> bool:
    return isinstance(value, Part) and value.whole is whole and value.row == row


def _strand(values: Sequence[Any]) -> Tensor:
    first = values[0]
    if not isinstance(first, Part):
        return torch.stack(list(values))
    return _rows(first.whole, 0, first.row, values[1].row - first.row if len(values) > 1 else 1, len(values))


def _sum_of_products(left: Tensor, right: Tensor) -> Tensor:
    """Of rows of matrices, as one product."""
    return left.movedim(0, 1).reshape(left.shape[1], -1) @ right.reshape(-1, right.shape[2])


def _side_by_side(gradients: Tensor, operation: Operation, step: int) -> Tensor:
    """The sum of derivatives of single slices: their gradients in their places."""
    _, sizes, dim, _, *rest = operation.args
    dim = dim % len(sizes)
    gradients = gradients.squeeze(dim + 1) if rest else gradients
    gradients = (gradients.flip(0) if step < 0 else gradients).movedim(0, dim)
    assert operation.position is not None
    start = operation.position if step > 0 else operation.position + (gradients.shape[dim] - 1) * step
    end = start + (gradients.shape[dim] - 1) * abs(step) + 1
    return aten.slice_backward.default(gradients, sizes, dim, start, end, abs(step))
