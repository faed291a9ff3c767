"""What a graph is turned into: one function of Inductor's, or the graph as it is."""

__all__ = ["BACKENDS", "prepare"]

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule

BACKENDS = ("inductor", "graph")
OPTIONS = {"cpp_wrapper": True, "size_asserts": False, "fallback_random": True}  # the same random numbers as eager
Function = Callable[..., Sequence[Tensor]]


def prepare(graph: GraphModule, inputs: Sequence[Tensor], backend: str) -> Callable[[], Function]:
    """Returns what makes a function of the inputs that does what the graph does.

    It may be called in another thread while this one goes on with the same tensors: it does not touch them.

    Arguments:
        graph: the graph; its placeholders get notes on their shapes.
        inputs: tensors such as the function will be called with.
        backend: ``"inductor"``, or ``"graph"`` for the graph run operation by operation, which is a third faster than
            the program and needs no compiler.
    """
    if backend == "graph":
        return lambda: graph
    mode = FakeTensorMode()
    fake: list[Any] = [mode.from_tensor(tensor.detach()) for tensor in inputs]
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node, tensor in zip(placeholders, fake, strict=True):
        node.meta["val"] = tensor
    return partial(_compile, graph, mode, fake)


def _compile(graph: GraphModule, mode: FakeTensorMode, fake: list[Any]) -> Function:
    with torch.no_grad(), tracing(TracingContext(mode)), warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # of torch, about itself
            warnings.simplefilter("ignore", category)
        function: Function = torch._inductor.compile(graph, fake, options=OPTIONS)
    return function
