"""Several steps in one graph, for steps so short that calling them is most of their time."""

__all__ = ["chained", "is_total", "num_chained"]

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

BUDGET = 1500  # nodes of a chain, which decide how long it takes to compile
DRAWS = {
    "bernoulli",
    "bernoulli_",
    "binomial",
    "multinomial",
    "normal",
    "poisson",
    "_sample_dirichlet",
    "_standard_gamma",
}
MOST_NUMBERS = 50_000  # that a step works on: with more, the calls are a small part of its time


def is_total(graph: GraphModule) -> bool:
    """Whether a graph runs to its end on any numbers: draws of most discrete variables raise where they meet NaN."""
    names = {str(node.target).split(".")[1] for node in graph.graph.nodes if str(node.target).startswith("aten.")}
    return names.isdisjoint(DRAWS)


def num_chained(graph: GraphModule, inputs: Sequence[Tensor], num_steps: int) -> int:
    """How many steps are worth one graph, if so many are to be taken in a call; at least 1."""
    is_small = sum(tensor.numel() for tensor in inputs) <= MOST_NUMBERS
    return max(1, min(num_steps, BUDGET // len(graph.graph.nodes))) if is_small else 1


def chained(graph: GraphModule, num_batch: int, num_steps: int) -> GraphModule:
    """A graph that takes a step for each of several batches.

    Arguments:
        graph: one step; changes its first inputs in place, and returns one tensor.
        num_batch: how many inputs, the last ones, are the batch.
        num_steps: how many steps.

    Returns:
        Its inputs are the first ones and then each batch's; its output is the steps' outputs in one tensor, stacked.
    """
    several, placeholders = Graph(), graph.graph.find_nodes(op="placeholder")
    num_live = len(placeholders) - num_batch
    live = {node: several.placeholder(node.name) for node in placeholders[:num_live]}
    batches = [[several.placeholder(f"batch_{i}_{j}") for j in range(num_batch)] for i in range(num_steps)]
    reports = []
    for batch in batches:
        nodes: dict[Node, Node] = {**live, **dict(zip(placeholders[num_live:], batch, strict=True))}
        for node in graph.graph.nodes:
            if node.op == "output":
                reports.append(nodes[node.args[0][0]])
            elif node.op != "placeholder":
                nodes[node] = several.node_copy(node, nodes.__getitem__)
    stacked = several.call_function(torch.ops.aten.stack.default, (reports,))
    stacked.meta["val"] = torch.stack([report.meta["val"] for report in reports])
    several.output([stacked])
    return GraphModule(graph, several)
