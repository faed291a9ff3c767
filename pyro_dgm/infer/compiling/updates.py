"""Optimisers as operations on tensors, so that a step's update is part of its graph."""

__all__ = ["Counters", "Update", "can_fold"]

import operator
from collections.abc import Sequence
from typing import Any

import torch
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from pyro_dgm.infer.optimizers import CLIP_NORM, CLIP_VALUE

KINDS = (Adam, AdamW, SGD, ClippedAdam)
INPUTS = ("lr", "params", "initial_lr")
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")


def can_fold(optimizer: Optimizer) -> bool:
    """Whether an optimiser's update can be part of the graph; any other runs after it.

    It must be of exactly one of the known kinds, since a subclass may do something else, without hooks of its own.
    """
    hooks = (*optimizer._optimizer_step_pre_hooks.values(), *optimizer._optimizer_step_post_hooks.values())
    return type(optimizer) in KINDS and not hooks and not any(_has_extras(group) for group in optimizer.param_groups)


def _has_extras(group: dict[str, Any]) -> bool:
    tensors = any(isinstance(value, Tensor) for value in (*group.get("betas", ()), group.get("weight_decay")))
    return bool(group.get("differentiable")) or bool(group.get("capturable")) or tensors


class Counters:
    """How many steps an optimiser has taken with each parameter, all of them in one tensor.

    Those of torch's optimisers become views of it; ``ClippedAdam`` has Python numbers, which are handed over.

    Arguments:
        optimizer: one for which ``can_fold`` holds, with a state for its parameters.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._parameters = [
            p for group in optimizer.param_groups for p in group["params"] if "step" in _state(optimizer, p)
        ]
        self.places = {id(parameter): place for place, parameter in enumerate(self._parameters)}
        self._own: list[Any] = []
        self.packed: Tensor | None = None
        if self._parameters and not isinstance(optimizer, SGD):
            self._pack()

    def are_bound(self) -> bool:
        """Whether the optimiser still counts where it did; if not, its state was loaded, or has grown."""
        states = [_state(self._optimizer, p) for group in self._optimizer.param_groups for p in group["params"]]
        if isinstance(self._optimizer, SGD):
            return True
        own = [state["step"] for state in states if "step" in state]
        if isinstance(self._optimizer, ClippedAdam):
            return len(own) == len(self._own)
        return len(own) == len(self._own) and all(map(operator.is_, own, self._own))

    def refresh(self) -> None:
        """Hands over Python's numbers, where they are not what the graph has counted to."""
        if isinstance(self._optimizer, ClippedAdam) and self.packed is not None:
            now = [_state(self._optimizer, parameter)["step"] for parameter in self._parameters]
            if now != self._own:
                self.packed.copy_(torch.tensor(now))
                self._own = now

    def count(self, parameters: Sequence[Tensor]) -> None:
        """Counts a step that the graph has taken."""
        if isinstance(self._optimizer, ClippedAdam):
            for parameter in parameters:
                self._optimizer.state[parameter]["step"] += 1
                self._own[self.places[id(parameter)]] += 1

    def _pack(self) -> None:
        states = [self._optimizer.state[parameter] for parameter in self._parameters]
        steps = [torch.as_tensor(state["step"], dtype=torch.float32) for state in states]
        self.packed = torch.stack(steps).to(self._parameters[0].device)
        self._own = [state["step"] for state in states]
        if not isinstance(self._optimizer, ClippedAdam):
            for state, view in zip(states, self.packed, strict=True):
                state["step"] = view
            self._own = [state["step"] for state in states]


class Update:
    """The update of one optimiser, on its own state.

    Every parameter must have been updated once by the optimiser itself, which makes the state. Learning rates are an
    input, so that a scheduler may change them at every step; so is momentum, or Adam's first beta, where one cycles it.

    Arguments:
        optimizer: one for which ``can_fold`` holds.
        parameters: those that get a gradient.
        counters: of the optimiser.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor], counters: Counters) -> None:
        self._optimizer, self._parameters, self._counters = optimizer, list(parameters), counters
        trained = {id(parameter) for parameter in parameters}
        self._members = {
            id(parameter): (number, group, parameter)
            for number, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
            if id(parameter) in trained
        }
        self._rates = parameters[0].detach().new_zeros(len(optimizer.param_groups))
        self._momenta = torch.zeros_like(self._rates)
        self._halted = torch.zeros((), dtype=torch.bool, device=parameters[0].device)
        self._last_rates: list[float] | None = None
        self._last_momenta: list[float] | None = None
        self._settings = self._read_settings()
        self._moments, self._state = self._read_moments(), optimizer.state

    @property
    def tensors(self) -> list[Tensor]:
        """What the update reads and changes beside the parameters."""
        packed = self._counters.packed
        momenta = [self._momenta] if any(map(_is_cycled, self._optimizer.param_groups)) else []
        return [self._rates, *momenta, self._halted, *([] if packed is None else [packed]), *self._moments]

    def is_current(self) -> bool:
        """Whether the optimiser has the state and the settings the update was made for, learning rates aside."""
        is_same = self._optimizer.state is self._state  # load_state_dict makes another
        return is_same and self._read_settings() == self._settings

    @property
    def counts_itself(self) -> bool:
        """Whether all that a step changes is in the graph: ``ClippedAdam`` keeps numbers in Python."""
        return not isinstance(self._optimizer, ClippedAdam)

    def refresh(self) -> None:
        """Hands over learning rates and momenta of the step to come; ``ClippedAdam`` lets them decay before it."""
        rates = [group["lr"] * group.get("lrd", 1.0) for group in self._optimizer.param_groups]
        if rates != self._last_rates:
            self._rates.copy_(torch.tensor([float(rate) for rate in rates]))
            self._last_rates = rates
        momenta = [_momentum(group) for group in self._optimizer.param_groups if _is_cycled(group)]
        if momenta and momenta != self._last_momenta:
            self._momenta.copy_(torch.tensor([float(_momentum(group)) for group in self._optimizer.param_groups]))
            self._last_momenta = momenta
        self._counters.refresh()

    def count(self) -> None:
        """Does in Python what goes with a step that the graph has taken."""
        self._counters.count(self._parameters)
        if isinstance(self._optimizer, ClippedAdam):
            for group in self._optimizer.param_groups:
                group["lr"] *= group["lrd"]

    def gate(self, is_fine: Tensor) -> Tensor:
        """Whether to take a step: it is fine, and so have been all since ``release``. In the graph."""
        is_taken = is_fine & ~self._halted
        self._halted.copy_(~is_taken)
        return is_taken

    def release(self) -> None:
        """Lets steps be taken again after one that was not."""
        self._halted.zero_()

    def __call__(self, gradients: Sequence[Tensor], is_fine: Tensor) -> None:
        """Updates parameters and state in place where the step is fine, a boolean scalar."""
        steps = self._counters.packed
        places = [self._counters.places.get(id(parameter), 0) for parameter in self._parameters]
        if steps is not None:
            taken = torch.zeros_like(steps)
            taken[places] = 1.0
            steps.add_(torch.where(is_fine, taken, 0.0))
        numbers = [] if steps is None else range(len(self._optimizer.param_groups))
        corrected = [self._corrected(number) for number in numbers]
        for parameter, gradient, place in zip(self._parameters, gradients, places, strict=True):
            number, group, _ = self._members[id(parameter)]
            gradient = _clipped(gradient, group)
            if group.get("maximize"):
                gradient = -gradient
            momentum = self._momenta[number].to(gradient) if _is_cycled(group) else _momentum(group)
            if steps is None:
                new = self._sgd(group, parameter, gradient, self._rates[number], momentum)
            else:
                size, correction = (vector[place] for vector in corrected[number])
                new = self._adam(group, parameter, gradient, self._rates[number], momentum, size, correction)
            for tensor, value in new:
                tensor.copy_(torch.where(is_fine, value, tensor))

    def _corrected(self, number: int) -> tuple[Tensor, Tensor]:
        """Of a group of Adam's, by each counter: the rate corrected for young means, and the correction of squares."""
        group, packed = self._optimizer.param_groups[number], self._counters.packed
        assert packed is not None
        steps = packed.double()  # as torch's are: in single precision 1 - 0.999 has five digits
        momentum = self._momenta[number].double() if _is_cycled(group) else _momentum(group)
        beta1, beta2 = (torch.as_tensor(beta, dtype=torch.double) for beta in (momentum, group["betas"][1]))
        # By exp, for which Inductor computes these once and not, as it does powers, once for each of the numbers.
        rate = self._rates[number].double() / (1 - (steps * beta1.log()).exp())
        correction = (1 - (steps * beta2.log()).exp()).sqrt()
        size = rate * correction if isinstance(self._optimizer, ClippedAdam) else rate
        return size.to(self._rates), correction.to(self._rates)

    def _sgd(
        self, group: dict[str, Any], parameter: Tensor, gradient: Tensor, rate: Tensor, momentum: Tensor | float
    ) -> list[Any]:
        if group["weight_decay"]:
            gradient = gradient + group["weight_decay"] * parameter
        if not group["momentum"]:
            return [(parameter, parameter - rate * gradient)]
        buffer = self._optimizer.state[parameter]["momentum_buffer"]
        velocity = momentum * buffer + (1 - group["dampening"]) * gradient
        direction = gradient + momentum * velocity if group["nesterov"] else velocity
        return [(buffer, velocity), (parameter, parameter - rate * direction)]

    def _adam(
        self,
        group: dict[str, Any],
        parameter: Tensor,
        gradient: Tensor,
        rate: Tensor,
        beta1: Tensor | float,
        size: Tensor,
        correction: Tensor,
    ) -> list[Any]:
        state, beta2 = self._optimizer.state[parameter], group["betas"][1]
        if isinstance(self._optimizer, ClippedAdam):
            gradient = gradient.clamp(-group["clip_norm"], group["clip_norm"])
        old = parameter
        if group["weight_decay"]:
            if isinstance(self._optimizer, AdamW) or group.get("decoupled_weight_decay"):
                old = parameter * (1 - rate * group["weight_decay"])
            else:
                gradient = gradient + group["weight_decay"] * parameter
        mean = torch.lerp(state["exp_avg"], gradient, 1 - beta1)
        deviation = gradient - mean if group.get("centered_variance") else gradient
        square = beta2 * state["exp_avg_sq"] + (1 - beta2) * deviation * deviation
        new = [(state["exp_avg"], mean), (state["exp_avg_sq"], square)]
        largest = square
        if group.get("amsgrad"):
            largest = torch.maximum(state["max_exp_avg_sq"], square)
            new.append((state["max_exp_avg_sq"], largest))
        root = largest.sqrt() if isinstance(self._optimizer, ClippedAdam) else largest.sqrt() / correction
        return [*new, (parameter, old - size * mean / (root + group["eps"]))]

    def _read_moments(self) -> list[Tensor]:
        states = [_state(self._optimizer, parameter) for parameter in self._parameters]
        return [state[name] for state in states for name in MOMENTS if isinstance(state.get(name), Tensor)]

    def _read_settings(self) -> list[tuple[Any, ...]]:
        return [_settings(group) for group in self._optimizer.param_groups]


def _is_cycled(group: dict[str, Any]) -> bool:
    """Whether a scheduler changes the momentum of a group: ``OneCycleLR`` and ``CyclicLR`` leave this sign."""
    return "max_momentum" in group


def _momentum(group: dict[str, Any]) -> float:
    momentum: float = group["betas"][0] if "betas" in group else group["momentum"]
    return momentum


def _settings(group: dict[str, Any]) -> tuple[Any, ...]:
    """What of a group is part of the graph: all that is no input."""
    if not _is_cycled(group):
        return tuple(value for name, value in group.items() if name not in INPUTS)
    rest = tuple(value for name, value in group.items() if name not in (*INPUTS, "betas", "momentum"))
    return (*rest, group["betas"][1:] if "betas" in group else bool(group["momentum"]))


def _clipped(gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """One parameter's gradient within the limits of its group: of its norm, and then of its values."""
    norm, value = group.get(CLIP_NORM), group.get(CLIP_VALUE)
    if norm is not None:
        gradient = gradient * (norm / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp(max=1.0)
    return gradient if value is None else gradient.clamp(-value, value)


def _state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    """A parameter's state, without making an empty one."""
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    return state
