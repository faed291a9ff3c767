"""One torch optimiser over all parameters, from whatever a Pyro user passes."""

__all__ = ["OptimizerFactory", "add_parameters", "build_optimizer", "check_optimizer"]

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyro.optim import PyroLRScheduler, PyroOptim
from pyro.params.param_store import normalize_param_name
from torch import Tensor
from torch.optim import Optimizer

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


def build_optimizer(optim: Optimizer | OptimizerFactory | PyroOptim, parameters: Mapping[str, Tensor]) -> Optimizer:
    """Makes the optimiser of the named parameters.

    Arguments:
        optim: a ready torch optimiser, which is returned; a callable from parameters to one, such as
            ``functools.partial(torch.optim.Adam, lr=1e-3)``; or a ``pyro.optim.PyroOptim``, whose constructor and
            per-parameter arguments are used. If they are a function of the parameter's name, that is its name in the
            store; of a module's parameter it is ``model.`` or ``guide.`` and its name in the module.
        parameters: the parameters by name.

    Raises:
        TypeError: ``optim`` is none of these.
        ValueError: a learning rate is negative or not finite.
    """
    try:
        optimizer = _make(optim, parameters)
    except ValueError as err:
        raise ValueError(
            f"the optimiser must accept its arguments; got {str(err).rstrip('.')!r}. Adam likes lr=1e-3."
        ) from err
    for group in optimizer.param_groups:
        _check_learning_rate(group["lr"])
    return optimizer


def check_optimizer(optim: object) -> None:
    """Raises a ``TypeError`` where an optimiser is of no known kind, before there are parameters to make it for."""
    if not (isinstance(optim, Optimizer | PyroOptim) or callable(optim)):
        raise TypeError(
            "optim must be a torch optimiser, a callable from parameters to one, or a pyro.optim.PyroOptim; got "
            f"{type(optim).__name__}. For instance functools.partial(torch.optim.Adam, lr=1e-3)."
        )


def add_parameters(optim: OptimizerFactory | PyroOptim, optimizer: Optimizer, new: Mapping[str, Tensor]) -> None:
    """Adds parameters that appeared after the optimiser was made."""
    for name, parameter in new.items():
        arguments = _arguments(optim, name) if isinstance(optim, PyroOptim) else {}
        optimizer.add_param_group({"params": [parameter], **arguments})


def _make(optim: Optimizer | OptimizerFactory | PyroOptim, parameters: Mapping[str, Tensor]) -> Optimizer:
    check_optimizer(optim)
    if isinstance(optim, Optimizer):
        return optim
    if isinstance(optim, PyroOptim):
        return _from_pyro(optim, parameters)
    return optim(list(parameters.values()))


def _from_pyro(optim: PyroOptim, parameters: Mapping[str, Tensor]) -> Optimizer:
    if isinstance(optim, PyroLRScheduler):
        raise TypeError(
            "a PyroLRScheduler steps its own optimisers; got one as optim. Pass the plain optimiser, and a torch "
            "scheduler to training.fit(scheduler=...)."
        )
    if optim.pt_clip_args:
        raise TypeError(
            "clip_args of a PyroOptim clip each parameter on its own; got them set. Pass clip_norm= to SVI, which "
            "clips the global norm, or use pyro.optim.ClippedAdam."
        )
    constructor = optim.pt_optim_constructor
    if not callable(optim.pt_optim_args):
        return constructor(list(parameters.values()), **optim.pt_optim_args)
    return constructor([{"params": [p], **_arguments(optim, name)} for name, p in parameters.items()])


def _arguments(optim: PyroOptim, name: str) -> dict[str, Any]:
    arguments = optim.pt_optim_args
    return dict(arguments(normalize_param_name(name)) if callable(arguments) else arguments)


def _check_learning_rate(rate: float | Tensor) -> None:
    value = float(rate)
    if not 0 <= value < math.inf:
        raise ValueError(f"the learning rate must be a finite number of at least 0; got {value}. Adam likes 1e-3.")
