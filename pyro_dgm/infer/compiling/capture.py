"""One step as a graph: everything the program does to tensors, and nothing it does in Python."""

__all__ = ["Capture", "capture", "same_noise_afterwards"]

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.util
import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from pyro_dgm.infer.compiling.refusals import CompileError, HostReads


class Capture(NamedTuple):
    """A step as a function of tensors.

    Arguments:
        graph: maps ``live``, ``outside`` and the batch to the outputs, and changes the first two in place.
        live: the tensors that the step was told it works on.
        outside: tensors the program found by itself, taken by reference.
        signature: what two captures of the same program have in common: code and literals.
        frozen: tensors whose values are part of the graph, and how often they had been written to.
    """

    graph: GraphModule
    live: list[Tensor]
    outside: list[Tensor]
    signature: tuple[Any, ...]
    frozen: list[tuple[Tensor, int]]

    def agrees_with(self, other: "Capture") -> bool:
        """Whether another capture of the same step, on other data and noise, came out the same."""
        own, others = self.signature, other.signature
        return len(own) == len(others) and all(map(_is_same, own, others))


def capture(work: Callable[..., Sequence[Tensor]], live: Sequence[Tensor], batch: Sequence[Tensor]) -> Capture:
    """Runs a step once and returns it as a graph; what it did to the tensors is undone.

    Arguments:
        work: called with the batch; works on the live tensors in place, and returns the outputs.
        live: parameters, buffers, optimiser state and other tensors that the step changes or that change between steps.
        batch: the tensors that differ from step to step.

    Raises:
        CompileError: the step reads tensors on the host, or its shapes depend on the data.
    """
    live = list({id(tensor): tensor for tensor in live}.values())
    batch = [tensor.detach() for tensor in batch]
    reads = HostReads()

    def step(*tensors: Tensor) -> list[Tensor]:
        with pyro.validation_enabled(False), _no_nan_warnings(), reads:
            return list(work(*tensors[len(live) :]))

    shapes = tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))  # or one is made for each node
    with _undone(live), torch.no_grad(), torch.random.fork_rng(), same_noise_afterwards(), shapes:
        graph = make_fx(step)(*live, *batch)
    _check_shapes(graph)
    literals, outside = _take_from_outside(graph, len(live))
    graph.graph.set_codegen(CodeGen())
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return Capture(graph, live, outside, (graph.code, *literals), reads.frozen)


@contextmanager
def _no_nan_warnings() -> Iterator[None]:
    """Keeps Pyro from looking for NaNs, as it does in hooks of the backward pass too; a compiled step reports them."""
    looks = pyro.util.torch_isnan, pyro.util.torch_isinf
    pyro.util.torch_isnan = pyro.util.torch_isinf = _says_no
    try:
        yield
    finally:
        pyro.util.torch_isnan, pyro.util.torch_isinf = looks


def _says_no(value: object) -> bool:
    return False


@contextmanager
def same_noise_afterwards() -> Iterator[None]:
    """Puts Python's and NumPy's generators back, so that what follows goes on as if this had not been."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the one that programs draw from
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


@contextmanager
def _undone(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Puts tensors and their gradients back."""
    before = [(tensor, tensor.detach().clone(), tensor.grad, tensor._version) for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value, gradient, version in before:
                if tensor._version != version or not torch.equal(tensor, value):  # batch norm does not count its writes
                    tensor.copy_(value)
                tensor.grad = gradient


def _check_shapes(graph: GraphModule) -> None:
    for node in graph.graph.nodes:
        if "aten.index" in str(node.target):
            is_dynamic = any(map(_is_mask, pytree.tree_leaves(list(node.args[1:2]))))
        else:
            is_dynamic = torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ())
        if is_dynamic:
            raise CompileError(
                f"shapes must not depend on the data; got {node.target}. Use torch.where or poutine.mask in the place "
                "of indexing with a boolean tensor."
            )


def _is_mask(argument: object) -> bool:
    if not isinstance(argument, Node):
        return False
    value = argument.meta.get("val", argument.meta.get("tensor_meta"))
    return value is not None and value.dtype is torch.bool


def _take_from_outside(graph: GraphModule, num_live: int) -> tuple[list[Any], list[Tensor]]:
    """Makes inputs of tensors that the program found by itself, after the live ones; returns the literals, and them."""
    literals: list[Any] = []
    found: dict[int, tuple[Tensor, Node]] = {}
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][num_live - 1]
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        value = getattr(graph, node.target)
        literals.append(value)
        if all("lift_fresh" in str(user.target) for user in node.users):
            continue  # made from numbers: torch.tensor(0.5)
        if value.requires_grad:
            raise CompileError(
                "every tensor that requires grad must be a parameter that Pyro knows; got one of shape "
                f"{tuple(value.shape)} that is not. Announce it by pyro.param or pyro.module, or make it a module's."
            )
        if id(value) not in found:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"outside_{len(found)}")
            found[id(value)] = (value, last)
        node.replace_all_uses_with(found[id(value)][1])
        graph.graph.erase_node(node)
    return literals, [value for value, _ in found.values()]


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))
    return one is other or one == other
