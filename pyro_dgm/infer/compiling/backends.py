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

from pyro_dgm.infer.compiling.batching import batched
from pyro_dgm.infer.compiling.bodies import body_of
from pyro_dgm.infer.compiling.layouts import with_fixed_layouts
from pyro_dgm.infer.compiling.outlining import Function, Outlined
from pyro_dgm.infer.compiling.products import with_fast_products
from pyro_dgm.infer.compiling.segments import segments_of

BACKENDS = ("inductor", "graph")
OPTIONS = {
    "cpp_wrapper": True,
    "cpp_wrapper_build_separate": True,  # which is faster to compile
    "fallback_random": True,  # the same random numbers as eager
    "reorder_for_peak_memory": False,  # and in the same order
    "size_asserts": False,
    "memory_planning": True,  # few allocations, which are a good part of a short step
}


def prepare(
    graph: GraphModule, inputs: Sequence[Tensor], backend: str, is_whole: bool = False
) -> Callable[[], Function]:
    """Returns what makes a function of the inputs that does what the graph does.

    It may be called in another thread while this one goes on with the same tensors: it does not touch them.

    Arguments:
        graph: the graph; its placeholders get notes on their shapes, and noise its order in memory.
        inputs: tensors such as the function will be called with.
        backend: ``"inductor"``, or ``"graph"`` for the graph run operation by operation, which is a third faster than
            the program and needs no compiler.
        is_whole: make one function of it, whatever is repeated in it.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    stand_ins = [_stand_in(tensor, mode) for tensor in inputs]
    _note(graph, stand_ins)
    graph = batched(with_fixed_layouts(graph), stand_ins)
    if backend == "graph":
        return lambda: graph
    segments = None if is_whole else segments_of(graph)
    if segments is None:
        return partial(_compile, graph, stand_ins)
    bodies = [(segment.is_compiled, *body_of(segment)) for segment in segments]
    return lambda: Outlined(segments, [_compile(body, like) if compiles else body for compiles, body, like in bodies])


def _compile(graph: GraphModule, examples: Sequence[Tensor]) -> Function:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv  # which changes the filters of warnings

    mode = FakeTensorMode(shape_env=ShapeEnv())  # without which Inductor keeps nothing for another process
    fake: list[Any] = [_stand_in(tensor, mode) for tensor in examples]
    _note(graph, fake)
    with torch.no_grad(), tracing(TracingContext(mode)), warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # of torch, about itself
            warnings.simplefilter("ignore", category)
        function: Function = torch._inductor.compile(with_fast_products(graph, fake), fake, options=OPTIONS)
    return function


def _note(graph: GraphModule, stand_ins: Sequence[Tensor]) -> None:
    for node, tensor in zip(graph.graph.find_nodes(op="placeholder"), stand_ins, strict=True):
        node.meta["val"] = tensor


def _stand_in(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
