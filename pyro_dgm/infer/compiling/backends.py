"""What a graph is turned into: one function of Inductor's, or the graph as it is."""

__all__ = ["BACKENDS", "build"]

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule

BACKENDS = ("inductor", "graph")
OPTIONS = {"cpp_wrapper": True, "size_asserts": False, "fallback_random": True}  # the same random numbers as eager
Function = Callable[..., Sequence[Tensor]]


def build(graph: GraphModule, inputs: Sequence[Tensor], backend: str) -> Function:
    """Returns a function of the inputs that does what the graph does.

    Arguments:
        graph: the graph; its placeholders get notes on their shapes.
        inputs: tensors such as it will be called with.
        backend: ``"inductor"``, or ``"graph"`` for the graph run operation by operation, which is a third faster than
            the program and needs no compiler.
    """
    if backend == "graph":
        return graph
    mode = FakeTensorMode()
    fake: list[Any] = [mode.from_tensor(tensor) for tensor in inputs]
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node, tensor in zip(placeholders, fake, strict=True):
        node.meta["val"] = tensor
    with torch.no_grad(), tracing(TracingContext(mode)), warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # of torch, about itself
            warnings.simplefilter("ignore", category)
        return torch._inductor.compile(graph, fake, options=OPTIONS)
