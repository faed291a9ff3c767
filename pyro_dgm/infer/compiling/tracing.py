"""The tracing of a step: its work with the batch as input, the optimiser's update, and what must not be kept."""

__all__ = ["Arguments", "Version", "trace"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.ops.provenance import detach_provenance
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from pyro_dgm.infer.compiling.backends import Function
from pyro_dgm.infer.compiling.building import Build
from pyro_dgm.infer.compiling.capture import Capture, capture
from pyro_dgm.infer.compiling.guards import Guards
from pyro_dgm.infer.compiling.refusals import CompileError
from pyro_dgm.infer.compiling.updates import Update


@dataclass
class Version:
    """The step for one kind of arguments and one state of everything it reads in Python.

    Arguments:
        guards: what it reads, and what that was.
        trained: the parameters that get a gradient.
        is_watched: whether a run has been checked for changes it makes itself.
        write_counts: how often each tensor of the guards had been written to when they were made.
        changed: those of them that the step, or what is around it, changes in place.
        lifted: attributes that hold numbers, with the tensors that stand for them.
        capture: the last trace.
        update: the optimiser's, if it is part of the graph.
        kinds: whether each parameter was trained, and of which type.
        build: the making of the compiled function.
        inputs: its arguments before the batch.
        store: what Pyro's store held.
        is_total: whether it runs to its end on any numbers.
        chain: the making of a function that takes several steps.
        num_chained: how many.
    """

    guards: Guards
    trained: list[Tensor]
    is_watched: bool = False
    write_counts: list[int] = field(default_factory=list)
    changed: list[Tensor] = field(default_factory=list)
    lifted: list[tuple[dict[str, Any], str, Tensor]] = field(default_factory=list)
    capture: Capture | None = None
    update: Update | None = None
    kinds: list[tuple[bool, torch.dtype]] = field(default_factory=list)
    build: Build | None = None
    inputs: list[Tensor] = field(default_factory=list)
    store: dict[str, Tensor] = field(default_factory=dict)
    is_total: bool = False
    chain: Build | None = None
    num_chained: int = 0

    @property
    def run(self) -> Function | None:
        """The compiled function, as soon as it is there."""
        return None if self.build is None else self.build.function


class Arguments:
    """The arguments of a step, taken apart into inputs and the rest.

    Arguments:
        args: positional ones.
        kwargs: those by keyword.
        fixed_floats: leave Python floats as they are; otherwise they are inputs like tensors.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], fixed_floats: bool) -> None:
        self._leaves, self._spec = pytree.tree_flatten((args, dict(kwargs)))
        self._fixed_floats = fixed_floats

    @property
    def tensors(self) -> list[Tensor]:
        """The inputs, numbers as scalars."""
        return [torch.as_tensor(leaf) for leaf in self._leaves if self._is_input(leaf)]

    def filled(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other inputs in their places."""
        given = iter(tensors)
        leaves = [next(given) if self._is_input(leaf) else leaf for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return args, kwargs

    def _is_input(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) or (type(leaf) is float and not self._fixed_floats)


def trace(
    version: Version,
    step: Callable[..., Any],
    optimizer: Optimizer,
    clip_norm: float | None,
    arguments: Arguments,
) -> Capture:
    """Traces a step and its update, once; whatever they did is undone.

    The outputs are loss and norm of the gradient, in one tensor, and the gradients where the update is not part of it.

    Raises:
        CompileError: the step cannot be traced without freezing something.
    """
    others = _others(version)
    store = pyro.get_param_store()._params

    def work(*batch: Tensor) -> list[Tensor]:
        args, kwargs = arguments.filled(batch)
        before = [(tensor, tensor.clone(), tensor._version) for tensor in others]
        entries = dict(store)
        with torch.enable_grad(), _as_tensors(version.lifted):
            parts = pytree.tree_leaves(step(*args, **kwargs))
        _put_back(entries, store)
        return _outputs(version, optimizer, clip_norm, parts, before)

    entries = dict(store)
    try:
        return capture(work, [*version.trained, *others], arguments.tensors)
    finally:
        for parameter in version.trained:
            parameter.grad = None
        store.clear()
        store.update(entries)


def _put_back(before: dict[str, Tensor], store: dict[str, Tensor]) -> None:
    """Writes what has replaced an entry of the store, such as a running baseline, into the old one."""
    if set(store) - set(before):
        raise CompileError(
            f"parameters must have been made before a step is compiled; got new ones, {set(store) - set(before)}. "
            "Make them at the first step."
        )
    for name, old in before.items():
        if store[name] is not old:
            detach_provenance(old).copy_(detach_provenance(store[name]).detach())


def _outputs(
    version: Version,
    optimizer: Optimizer,
    clip_norm: float | None,
    parts: Sequence[Any],
    before: Sequence[tuple[Tensor, Tensor, int]],
) -> list[Tensor]:
    """Does the update, and returns loss and norm, and the gradients if they are to be used outside."""
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise CompileError(
            f"a loss must be a tensor to be compiled; got {[type(part).__name__ for part in parts]}. Do not turn "
            "it into a number inside the objective."
        )
    all_parameters = [p for group in optimizer.param_groups for p in group["params"]]
    trained = [parameter for parameter in all_parameters if parameter.grad is not None]
    if set(map(id, trained)) != set(map(id, version.trained)):
        raise CompileError(
            "the same parameters must get a gradient at every step; got others than the step before. Freeze or "
            "unfreeze them between steps, not by chance."
        )
    loss = torch.stack([part.detach() for part in parts]).sum()
    gradients = [parameter.grad for parameter in version.trained if parameter.grad is not None]
    norm = torch.stack([(gradient * gradient).sum().to(loss) for gradient in gradients]).sum().sqrt()
    report = torch.stack([loss, norm])
    if version.update is None:
        return [report, *gradients]
    is_fine = version.update.gate(report.isfinite().all())
    if clip_norm is not None:
        factor = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
        gradients = [gradient * factor.to(gradient) for gradient in gradients]
    version.update(gradients, is_fine)
    mine = set(map(id, version.update.tensors))
    for tensor, old, count in before:
        if tensor._version != count and id(tensor) not in mine:
            tensor.copy_(torch.where(is_fine, tensor, old))
    return [report]


def _others(version: Version) -> list[Tensor]:
    """Everything else the step may change or that changes between steps."""
    modules = [value for value in version.guards.keep if isinstance(value, nn.Module)]
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    tensors += [detach_provenance(value) for value in pyro.get_param_store()._params.values()]
    tensors += [] if version.update is None else version.update.tensors
    tensors += [*version.changed, *(tensor for _, _, tensor in version.lifted)]
    trained = set(map(id, version.trained))
    return [tensor for tensor in {id(t): t for t in tensors}.values() if id(tensor) not in trained]


@contextmanager
def _as_tensors(lifted: Sequence[tuple[dict[str, Any], str, Tensor]]) -> Iterator[None]:
    """Puts tensors in the place of numbers."""
    before = [place[name] for place, name, _ in lifted]
    try:
        for place, name, tensor in lifted:
            place[name] = tensor
        yield
    finally:
        for (place, name, _), value in zip(lifted, before, strict=True):
            place[name] = value
