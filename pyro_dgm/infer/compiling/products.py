"""Large matrix products through oneDNN, which on processors of some makers takes half the time of MKL."""

__all__ = ["with_fast_products"]

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.fx import GraphModule, Node
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.library import Library

LEAST = 1_500_000  # multiplications, below which oneDNN's own work outweighs the gain
NARROWEST = 16  # rows, columns or terms, below which it is slow
aten = torch.ops.aten


def with_fast_products(graph: GraphModule, inputs: Sequence[Tensor]) -> GraphModule:
    """A graph with oneDNN's product in the place of large ones of single precision on the CPU.

    Only for graphs that Inductor compiles. The sums are taken in another order, with the same precision.

    Arguments:
        graph: whose products are to be fast; it is not changed.
        inputs: stand-ins for its inputs.
    """
    if not (any(map(_factors, graph.graph.nodes)) and _is_registered()):
        return graph
    found = GraphModule(graph, copy.deepcopy(graph.graph))
    FakeTensorProp(found, detect_fake_mode(inputs)).propagate_dont_convert_inputs(*inputs)
    for node in list(found.graph.nodes):
        factors = _factors(node)
        if factors is not None and _is_worth_it(*(factor.meta["val"] for factor in factors)):
            _replace(node, *factors)
    found.recompile()
    return found


def _factors(node: Node) -> tuple[Node, Node] | None:
    if node.target is aten.mm.default:
        return node.args  # type: ignore[return-value]
    if node.target is aten.addmm.default and not node.kwargs:
        return node.args[1:]  # type: ignore[return-value]
    return None


def _is_worth_it(left: Tensor, right: Tensor) -> bool:
    (rows, terms), columns = left.shape, right.shape[1]
    is_large = rows * terms * columns >= LEAST and min(rows, terms, columns) >= NARROWEST
    return is_large and all(each.device.type == "cpu" and each.dtype == torch.float32 for each in (left, right))


def _replace(node: Node, left: Node, right: Node) -> None:
    graph, (a, b) = node.graph, (left.meta["val"], right.meta["val"])
    with graph.inserting_before(node):
        turned = graph.call_function(aten.t.default, (right,))
        # oneDNN wants the terms of its first factor side by side, and else transposes it. The factors may change
        # places, but then the product is transposed.
        cost = 0 if a.stride(1) == 1 else a.numel()
        if cost <= (0 if b.stride(0) == 1 else b.numel()) + len(a) * b.shape[1]:
            product = graph.call_function(torch.ops.pyro_dgm.dense_linear.default, (left, turned))
        else:
            product = graph.call_function(torch.ops.pyro_dgm.dense_linear.default, (turned, left))
            product = graph.call_function(aten.t.default, (product,))
        if node.target is aten.addmm.default:
            product = graph.call_function(aten.add.Tensor, (product, node.args[0]))
    node.replace_all_uses_with(product)
    graph.erase_node(node)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return found


@cache
def _is_registered() -> bool:
    """Makes an operation of oneDNN's product that Inductor can call; whether that could be done."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        from torch._inductor.ir import ExternKernel, FixedLayout, TensorBox
        from torch._inductor.lowering import register_lowering
        from torch._inductor.mkldnn_ir import LinearUnary, _create_output_node
    except ImportError:
        return False
    library = Library("pyro_dgm", "FRAGMENT")  # compiled code is cached by this name: another lowering is another name
    library.define("dense_linear(Tensor x, Tensor weight) -> Tensor")
    library.impl("dense_linear", _linear, "CPU")
    torch.library.register_fake("pyro_dgm::dense_linear", lambda x, weight: x.new_empty(len(x), len(weight)))

    @register_lowering(torch.ops.pyro_dgm.dense_linear.default, type_promotion_kind=None)
    def lowered(x: Any, weight: Any) -> Any:
        inputs = []
        for each in map(ExternKernel.realize_input, (x, weight)):
            dense = _dense_strides(each.get_size(), each.get_stride())
            inputs.append(ExternKernel.require_exact_strides(each, dense))
        layout = FixedLayout(x.get_device(), x.get_dtype(), [x.get_size()[0], weight.get_size()[0]])
        return TensorBox.create(_create_output_node(LinearUnary(layout, inputs, [None, "none", [-1], ""])))

    _KEPT.append(library)
    return True


def _dense_strides(size: Sequence[Any], stride: Sequence[Any]) -> list[Any]:
    """Strides without gaps, in the order there is: columns of a wider matrix would go through oneDNN's reference code.

    On a matrix of 200 rows of 784 out of 791, that took 330 ms in the place of 0.17.
    """
    return [1, size[0]] if stride[0] == 1 and stride[1] != 1 else [size[1], 1]


_KEPT: list[Library] = []  # which end with their object
