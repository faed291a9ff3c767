"""A graph read as operations on values, with views, which cost nothing, told apart from what computes."""

__all__ = [
    "Dataflow",
    "Operation",
    "Port",
    "Value",
    "View",
    "device_of",
    "kind_of",
    "num_outputs",
    "placed",
    "tensor_of",
]

import math
import operator
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

aten = torch.ops.aten
HAVE_POSITIONS = {aten.select.int, aten.slice.Tensor, aten.select_backward.default, aten.slice_backward.default}
Value = tuple[Node, int]  # an output of an operation, or a placeholder


class View(NamedTuple):
    """An operation that gives another look at the same memory.

    Arguments:
        target: the operation.
        args: its arguments after the tensor.
        kwargs: those by keyword.
        position: where it begins, in ``select`` and ``slice``, whose place in ``args`` is None.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    position: int | None


class Port(NamedTuple):
    """A tensor argument: a value, and what it is seen through."""

    value: Value
    views: tuple[View, ...]


class Operation(NamedTuple):
    """A node that computes.

    Arguments:
        node: of the graph.
        ports: its tensor arguments, in order.
        args: its arguments, those that are tensors as nodes of the graph; the derivatives of ``select`` and ``slice``
            have None for their position, and a length for their end.
        position: where they begin.
        mutated: the values it changes in place.
        token: equal for operations that differ in nothing but in which values of the same kind they work on, and in
            positions.
    """

    node: Node
    ports: tuple[Port, ...]
    args: tuple[Any, ...]
    position: int | None
    mutated: tuple[Value, ...]
    token: Hashable


class Dataflow:
    """The operations of a graph in their order, the values it begins with, and those it returns.

    Raises:
        NotImplementedError: there are operations of other kinds.

    Arguments:
        module: its graph is of tensors only, and its nodes have ``meta["val"]``.
    """

    def __init__(self, module: GraphModule) -> None:
        self.placeholders: list[Node] = []
        self.constants: dict[Node, Tensor] = {}
        self.operations: list[Operation] = []
        self.outputs: list[Port | None] = []
        self._ports: dict[Node, Port | None] = {}  # None for a list of views, which only getitem looks into
        for node in module.graph.nodes:
            if node.op == "get_attr":
                self.constants[node] = node.meta["val"] = getattr(module, str(node.target))
            self._add(node)

    def _add(self, node: Node) -> None:
        if node.op in ("placeholder", "get_attr"):
            self._ports[node] = Port((node, 0), ())
            self.placeholders += [node] if node.op == "placeholder" else []
        elif node.op == "output":
            self.outputs = [None if item is None else self._ports[item] for item in node.args[0]]  # type: ignore
        elif node.target is operator.getitem:
            self._ports[node] = self._item(node)
        elif node.target in (aten.detach.default, aten.alias.default):
            self._ports[node] = self._ports[node.all_input_nodes[0]]
        elif node.target in (aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default):
            self._ports[node] = None
        elif not isinstance(node.target, OpOverload) or (_is_alias(node) and not isinstance(node.meta["val"], Tensor)):
            raise NotImplementedError(f"{node.target} is no plain operation on tensors")
        elif _is_alias(node) and not _mutated(node):
            port = self.port(node.all_input_nodes[0])
            self._ports[node] = port._replace(views=(*port.views, _view(node)))
        else:
            mutated = _mutated(node)
            self._ports[node] = self._ports[mutated[0]] if _is_alias(node) else Port((node, 0), ())
            self.operations.append(self._operation(node, mutated))

    @property
    def given(self) -> list[Node]:
        """The inputs and the constants."""
        return [*self.placeholders, *self.constants]

    @property
    def looks_at_memory(self) -> bool:
        """Whether something is looked at by its place in memory."""
        ports = (port for operation in self.operations for port in operation.ports)
        return any(view.target is aten.as_strided.default for port in ports for view in port.views)

    @cached_property
    def producers(self) -> dict[Value, int]:
        """The number of the operation that makes a value."""
        return {
            (operation.node, output): number
            for number, operation in enumerate(self.operations)
            for output in range(num_outputs(operation.node))
        }

    @cached_property
    def last_uses(self) -> dict[Value, float]:
        """The number of the operation that uses a value last; the graph's own outputs are used for ever."""
        uses: dict[Value, float] = {
            port.value: number for number, operation in enumerate(self.operations) for port in operation.ports
        }
        uses.update({port.value: math.inf for port in self.outputs if port is not None})
        return uses

    @cached_property
    def num_uses(self) -> Counter[Value]:
        """How often a value is used."""
        ports = (port for operation in self.operations for port in operation.ports)
        return Counter(port.value for port in (*ports, *self.outputs) if port is not None)

    def port(self, node: Node) -> Port:
        """What a node of the graph stands for."""
        port = self._ports[node]
        assert port is not None
        return port

    def _item(self, node: Node) -> Port:
        """An output of an operation that has several, or a part of a list of views."""
        source, number = node.args
        assert isinstance(source, Node)
        assert isinstance(number, int)
        if self._ports[source] is not None:
            return Port((source, number), ())
        port, shape = self.port(source.all_input_nodes[0]), source.all_input_nodes[0].meta["val"].shape
        others: list[Any] = list(source.args[1:])
        if source.target is aten.unbind.int:
            view = View(aten.select.int, (others[0] if others else 0, None), (), number)
        else:
            dim = others[1] if len(others) > 1 else 0
            sizes = [others[0]] * (number + 1) if isinstance(others[0], int) else others[0]
            start = sum(sizes[:number])
            view = View(aten.slice.Tensor, (dim, None, min(sizes[number], shape[dim] - start), 1), (), start)
        return port._replace(views=(*port.views, view))

    def _operation(self, node: Node, mutated: Sequence[Node]) -> Operation:
        ports: list[Port] = []

        def number(argument: Node) -> str:
            ports.append(self.port(argument))
            return f"tensor {len(ports) - 1}"

        position, args = _without_position(node)
        form = _hashable(map_arg((args, dict(node.kwargs)), number))
        kinds = tuple(
            (kind_of(port.value), tuple(view._replace(position=None) for view in port.views)) for port in ports
        )
        changed = tuple(self.port(argument).value for argument in mutated)
        return Operation(node, tuple(ports), args, position, changed, (node.target, form, kinds))


def device_of(flow: Dataflow) -> torch.device:
    """Where the graph's inputs are."""
    return tensor_of((flow.placeholders[0], 0)).device


def kind_of(value: Value) -> Hashable:
    """Shape, strides, type and device of a value."""
    tensor = tensor_of(value)
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def num_outputs(node: Node) -> int:
    """How many tensors an operation returns."""
    value = node.meta["val"]
    return 1 if isinstance(value, Tensor) else 0 if value is None else len(value)


def placed(args: Sequence[Any], position: int) -> list[Any]:
    """The arguments of a derivative of ``select`` or ``slice`` with a position in its place."""
    gradient, sizes, dim, _, *rest = args
    return [gradient, sizes, dim, position, *([position + rest[0], rest[1]] if rest else [])]


def tensor_of(value: Value) -> Tensor:
    """What stands for a value's shape while there is no value."""
    node, number = value
    found = node.meta["val"]
    tensor: Tensor = found if isinstance(found, Tensor) else found[number]
    return tensor


def _is_alias(node: Node) -> bool:
    """Whether what is returned is an argument, or another look at it."""
    returns = node.target._schema.returns  # type: ignore[union-attr]
    return len(returns) == 1 and returns[0].alias_info is not None


def _mutated(node: Node) -> list[Node]:
    """The arguments that an operation changes in place, the one it returns first."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = [*zip(schema, node.args, strict=False), *((each, node.kwargs.get(each.name)) for each in schema)]
    found = [value for argument, value in given if argument.alias_info is not None and argument.alias_info.is_write]
    return [node for node in pytree.tree_leaves(found) if isinstance(node, Node)]


def _view(node: Node) -> View:
    position, args = _without_position(node)
    return View(node.target, _tuples(args[1:]), tuple(node.kwargs.items()), position)  # type: ignore[arg-type]


def _without_position(node: Node) -> tuple[int | None, tuple[Any, ...]]:
    """The position in the arguments of an operation that has one, as a number from 0, and the rest.

    ``slice`` gets its length in the place of its end.
    """
    if node.target not in HAVE_POSITIONS:
        return None, node.args
    first, *others = node.args
    is_derivative = node.target in (aten.select_backward.default, aten.slice_backward.default)
    shape = others.pop(0) if is_derivative else first.meta["val"].shape  # type: ignore
    dim = others[0] if others else 0
    size = shape[dim]  # type: ignore
    head = (first, shape) if is_derivative else (first,)
    if node.target in (aten.select.int, aten.select_backward.default):
        return others[1] % size, (*head, dim, None)  # type: ignore
    start, end = (others[place] if len(others) > place else None for place in (1, 2))
    step = others[3] if len(others) > 3 else 1
    start, end = (_within(value, size, rest) for value, rest in ((start, 0), (end, sys.maxsize)))
    return start, (*head, dim, None, max(0, end - start), step)


def _within(value: Any, size: Any, default: int) -> int:
    value = default if value is None else value
    return min(max(value + size if value < 0 else value, 0), size)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _hashable(value: Any) -> Any:
    """The same as something to compare, in which 1 and 1.0 differ."""
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in value.items())
    return type(value), value
