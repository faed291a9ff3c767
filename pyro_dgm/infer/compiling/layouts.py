"""Where numbers lie in memory, as far as it decides which random number each of them gets."""

__all__ = ["with_fixed_layouts"]

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten
NOISE = (
    aten.empty_like.default,
    aten.rand_like.default,
    aten.randn_like.default,
    aten.randint_like.default,
    aten.randint_like.low_dtype,
)
NUMBERS = (aten.zeros_like.default, aten.ones_like.default, aten.full_like.default)


def with_fixed_layouts(graph: GraphModule) -> GraphModule:
    """Makes sure that noise in the likeness of a tensor comes out the same; in the graph itself.

    It is drawn in the order of memory, which is that of the tensor; but what computes the tensor may be taken apart,
    put together, and laid out otherwise. So the order becomes part of the graph.

    Arguments:
        graph: of tensors only, with ``meta["val"]`` at its nodes.
    """
    for node in list(graph.graph.nodes):
        if _decides_on_noise(node) and "memory_format" not in node.kwargs:
            alike = torch.empty_like(node.args[0].meta["val"])
            if alike.is_contiguous():
                node.update_kwarg("memory_format", torch.contiguous_format)
            else:
                node.replace_input_with(node.args[0], _laid_out(node, node.args[0], alike))
    return graph


def _decides_on_noise(node: Node) -> bool:
    return node.target in NOISE or (node.target in NUMBERS and any(map(_is_noise, node.users)))


def _is_noise(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _laid_out(user: Node, node: Node, alike: Tensor) -> Node:
    """A copy of a node's value that lies as something else does, before another node."""
    outer_first = sorted(range(alike.dim()), key=alike.stride, reverse=True)
    back = sorted(range(alike.dim()), key=outer_first.__getitem__)
    with user.graph.inserting_before(user):
        turned = user.graph.call_function(aten.permute.default, (node, outer_first))
        copy = user.graph.call_function(aten.clone.default, (turned,), {"memory_format": torch.contiguous_format})
        found: Node = user.graph.call_function(aten.permute.default, (copy, back))
    value = node.meta["val"]
    turned.meta["val"] = value.permute(outer_first)
    copy.meta["val"] = turned.meta["val"].contiguous()
    found.meta["val"] = copy.meta["val"].permute(back)
    return found
