"""One side of an adversarial game: its parameters, its optimiser, and an update that is taken whole or not at all."""

__all__ = ["Player"]

import copy
import math
from collections.abc import Mapping
from typing import Any, TypeAlias, final

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from pyro_dgm.infer import NonFiniteError
from pyro_dgm.infer.optimizers import (
    OptimizerFactory,
    add_parameters,
    build_optimizer,
    check_optimizer,
    load_optimizer_state,
    named_parameters,
    optimizer_kind,
    optimizer_state,
    prepare_update,
)
from pyro_dgm.infer.processes import Processes
from pyro_dgm.infer.states import check_state

Optim: TypeAlias = Optimizer | OptimizerFactory | PyroOptim


@final
class Player:
    """Model and guide, or the critics.

    Arguments:
        name: for error messages.
        modules: what it consists of, by name; a module or parameter may come twice.
        optim: as for ``SVI``; None where there is nothing to train.
        clip_norm: of all its gradients together, or None.

    Raises:
        TypeError: the optimiser is of no known kind.
        ValueError: the norm is not positive, or there is no optimiser for what is to be trained.
    """

    def __init__(
        self, name: str, modules: Mapping[str, nn.Module], optim: Optim | None, clip_norm: float | None
    ) -> None:
        if optim is not None:
            check_optimizer(optim)
        if clip_norm is not None and not 0 < clip_norm < math.inf:
            raise ValueError(
                f"the clipping norm of the {name} must be a positive number; got {clip_norm}. None does not clip."
            )
        self.name, self.modules, self.clip_norm = name, dict(modules), clip_norm
        self._optim = optim
        self.parameters: dict[str, Tensor] = dict(named_parameters(self.modules))
        self.store_names: list[str] = []
        self._optimizer: Optimizer | None = None
        if optim is not None and (isinstance(optim, Optimizer) or self.parameters):
            self._optimizer = build_optimizer(optim, self.parameters)

    @property
    def optimizer(self) -> Optimizer:
        """The torch optimiser."""
        if self._optimizer is None:
            raise ValueError(
                f"the {self.name} must have parameters and an optimiser to be trained; got "
                f"{len(self.parameters)} parameters and optimiser {self._optim!r}. Pass an optimiser, or leave out its "
                "steps by schedule=Steps(...)."
            )
        return self._optimizer

    @property
    def optimized(self) -> list[Tensor]:
        """The tensors that the optimiser updates."""
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        return [parameter for group in groups for parameter in group["params"]]

    def check_trainable(self) -> None:
        """Raises a ``ValueError`` where there is no optimiser, or nothing to train."""
        if not any(parameter.requires_grad for group in self.optimizer.param_groups for parameter in group["params"]):
            raise ValueError(
                f"the {self.name} must have something to train; got parameters that are all frozen. Call "
                "requires_grad_(True), or leave out its steps by schedule=Steps(...)."
            )

    def adopt(self, met: Mapping[str, Tensor]) -> None:
        """Takes in parameters of Pyro's store that its programs have met for the first time."""
        known = {id(parameter) for parameter in self.parameters.values()}
        new = {}
        for name, parameter in met.items():
            if id(parameter) not in known:
                new[name] = parameter
                known.add(id(parameter))  # two names may share a parameter
        if not new:
            return
        self.parameters.update(new)
        self.store_names += list(new)
        if self._optim is not None and self._optimizer is None:
            self._optimizer = build_optimizer(self._optim, self.parameters)
        elif self._optimizer is not None and not isinstance(self._optim, Optimizer | None):
            add_parameters(self._optim, self._optimizer, new)

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for parameter in [*self.parameters.values(), *self.optimized]:
            parameter.grad = None

    def norm(self, loss: float, processes: Processes | None) -> tuple[float, Tensor]:
        """The loss and the norm of the gradient, means over all processes, checked.

        Raises:
            ValueError: there is no gradient.
            NonFiniteError: either is NaN or infinite; nothing has been updated.
        """
        if processes is not None:
            loss = processes.average(self.optimized, loss)
        gradients = [parameter.grad for parameter in self.optimized if parameter.grad is not None]
        if not gradients:
            raise ValueError(
                f"a step must train something; got no gradient for any parameter of the {self.name}. Check that the "
                "sites are reparameterised or implicit, and that parameters have requires_grad=True."
            )
        norm = get_total_norm(gradients)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            places = [name for name, p in self.parameters.items() if p.grad is not None and not p.grad.isfinite().all()]
            self.zero_grad()
            raise NonFiniteError(
                f"loss and gradient must be finite; got loss {loss} of the {self.name}, with NaN or infinity in the "
                f"gradients of {places[:3] or 'none'}. The update was not made. Check the data, lower the learning "
                "rate, clip the norm, or penalise the critic."
            )
        return loss, norm

    def update(self, norm: Tensor) -> None:
        """Moves, by the gradients at hand."""
        if self.clip_norm is not None:
            clip_grads_with_norm_([p for p in self.optimized if p.grad is not None], self.clip_norm, norm)
        prepare_update(self._optim, self.optimizer)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Modules, parameters of the store, and optimiser."""
        has_optimizer = self._optimizer is not None
        return {
            "modules": {name: dict(module.state_dict()) for name, module in self.modules.items()},
            "store": {name: self.parameters[name].detach() for name in self.store_names},
            "optimizer_type": optimizer_kind(self._optim, self.optimizer) if has_optimizer else "none",
            "optimizer": optimizer_state(self._optim, self.optimizer) if has_optimizer else {"param_groups": []},
            "schedules": [],
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises a ``ValueError`` where a state is another player's."""
        check_state(self.state_dict(), state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what ``state_dict`` gave, after ``check``."""
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        with torch.no_grad():
            for name, tensor in state["store"].items():
                self.parameters[name].copy_(tensor)
        if self._optimizer is not None:
            load_optimizer_state(self._optim, self._optimizer, copy.deepcopy(state["optimizer"]))
