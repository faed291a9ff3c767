"""Where numbers lie in memory, as far as it decides which random number each of them gets."""

__all__ = ["with_fixed_layouts"]

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten
IMITATORS = (aten.empty_like.default, aten.rand_like.default, aten.randn_like.default)


def with_fixed_layouts(graph: GraphModule) -> GraphModule:
    """Makes sure that noise in the likeness of a tensor that is not contiguous comes out the same; in the graph itself.

    It is drawn in the order of memory, which is that of the tensor; but what computes the tensor may be taken apart,
    put together, and laid out otherwise. So it gets a copy before it, whose order is part of the graph.

    Arguments:
        graph: of tensors only, with ``meta["val"]`` at its nodes.
    """
    for target in IMITATORS:
        for node in graph.graph.find_nodes(op="call_function", target=target):
            value = node.args[0].meta["val"]
            if not value.is_contiguous() and "memory_format" not in node.kwargs:
                node.replace_input_with(node.args[0], _laid_out(node, node.args[0], value))
    return graph


def _laid_out(user: Node, node: Node, value: Tensor) -> Node:
    """A copy of a node's value, in the order of its strides, before another node."""
    outer_first = sorted(range(value.dim()), key=value.stride, reverse=True)
    back = sorted(range(value.dim()), key=outer_first.__getitem__)
    copied = value.permute(outer_first)
    with user.graph.inserting_before(user):
        turned = user.graph.call_function(aten.permute.default, (node, outer_first))
        copy = user.graph.call_function(aten.clone.default, (turned,), {"memory_format": torch.contiguous_format})
        found: Node = user.graph.call_function(aten.permute.default, (copy, back))
    turned.meta["val"], copy.meta["val"] = copied, copied.contiguous()
    found.meta["val"] = copy.meta["val"].permute(back)
    return found
