"""What must not be frozen into a compiled step: everything a program reads from tensors on the host."""

__all__ = ["CompileError", "HostReads"]

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import TorchFunctionMode

READS = {
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.is_nonzero,
    Tensor.__bool__,
    Tensor.__float__,
    Tensor.__int__,
    Tensor.__index__,
    Tensor.__complex__,
    Tensor.__array__,
    Tensor.__contains__,
    Tensor.equal,
    Tensor.allclose,
    torch.equal,
    torch.allclose,
    torch.is_nonzero,
}
FROM_ARRAYS = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.scalar_tensor}
AUTOREGRESSIVE = "pyro.distributions.transforms.affine_autoregressive"
LIBRARIES = ("torch", "pyro", "pyro_dgm", "numpy")


class CompileError(RuntimeError):
    """A step cannot be compiled without freezing something that may change; it is run as it is written."""


class HostReads(TorchFunctionMode):
    """Refuses to read a tensor's values while a step is traced, with the place in the user's program.

    Validation and the reports that Pyro makes of its losses are taken out of the step: they are what reads tensors in
    Pyro and torch themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frozen: list[tuple[Tensor, int]] = []  # what has been read all the same, and how often it was written to

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called for every function of torch in the step."""
        kwargs = kwargs or {}
        if func in READS:
            return _read(func, args, sys._getframe(1))
        if func in FROM_ARRAYS and args and _has_array(args[0]):
            raise CompileError(
                f"a step must not turn NumPy arrays into tensors; got torch.{func.__name__} at {_place()}. Make the "
                "tensor once, outside, or pass it as an argument of step."
            )
        if func is Tensor.masked_select and sys._getframe(1).f_globals.get("__name__") == "pyro.infer.util":
            return torch.where(args[1], args[0], 0.0)  # which sums what it selects
        if func is Tensor.__setitem__ and _is_fill(*args):
            return args[0].masked_fill_(
                args[1].reshape(args[1].shape + (1,) * (args[0].dim() - args[1].dim())), args[2]
            )
        if func is Tensor.unbind and _goes_through_variables(sys._getframe(1)):
            self.frozen.append((args[0], args[0]._version))
            with disable_proxy_modes_tracing():
                return args[0].tolist()
        if func is torch.nn.functional.one_hot:
            return _one_hot(*args, **kwargs)
        return func(*args, **kwargs)


def _read(func: Callable[..., Any], args: Sequence[Any], frame: FrameType) -> Any:
    module = frame.f_globals.get("__name__", "")
    if func is Tensor.item and module.startswith("pyro.infer."):
        return args[0].detach()  # the loss, to be reported
    if func is Tensor.__bool__ and (module.startswith("torch.distributions.") or module == "pyro.distributions.util"):
        return True  # validation
    if func is Tensor.__bool__ and module == "pyro.infer.util":
        return False  # are all probabilities positive: then it would take a shortcut
    raise CompileError(
        f"a step must not read a tensor's values, which would be frozen into it; got Tensor.{func.__name__} at "
        f"{_place()}. Use torch.where or another operation on tensors, or compute it outside of the programs."
    )


def _goes_through_variables(frame: FrameType) -> bool:
    """Whether an inverse of Pyro's goes through a permutation, ``for idx in perm``."""
    caller = frame.f_back
    is_loop = frame.f_code.co_name == "__iter__"
    return is_loop and caller is not None and caller.f_globals.get("__name__") == AUTOREGRESSIVE


def _place() -> str:
    """File and line of the user's program, or of whoever is nearest to it."""
    frame: FrameType | None = sys._getframe(2)
    first = None
    while frame is not None:
        root = frame.f_globals.get("__name__", "").partition(".")[0]
        if frame.f_code.co_filename != __file__:
            first = first or frame
            if root not in LIBRARIES and root not in sys.stdlib_module_names:
                return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return f"{first.f_code.co_filename}:{first.f_lineno}" if first else "an unknown place"


def _has_array(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_array(item) for item in value)
    return isinstance(value, np.ndarray | np.generic)


def _is_fill(tensor: Tensor, index: object, value: object) -> bool:
    """Whether numbers are put in the place of some elements, which depends on no other shape than the tensor's."""
    is_mask = isinstance(index, Tensor) and index.dtype is torch.bool
    return is_mask and (isinstance(value, int | float) or (isinstance(value, Tensor) and value.dim() == 0))


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """The same without the look at the largest class, which reads the tensor."""
    if num_classes < 1:
        raise CompileError(
            f"one_hot must be told the number of classes; got none at {_place()}. Pass num_classes, for the number "
            "must not depend on the data."
        )
    return (tensor.unsqueeze(-1) == torch.arange(num_classes, device=tensor.device)).long()
