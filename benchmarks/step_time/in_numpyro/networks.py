"""Networks that begin with a task's parameters, which are NumPyro's from then on.

Each is made where a program runs, outside of its loops, and is a pure function then.
"""

__all__ = ["Network", "dense", "parameter"]

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpyro
from torch import nn

from benchmarks.step_time.tasks import Task

Network = Callable[[Any], Any]


def parameter(task: Task, name: str, order: Sequence[int] | None = None) -> Any:
    """A parameter by its name in the task, with the axes in another order; a site of NumPyro's."""
    value = task.get_parameter(name).detach()
    start = value if order is None else value.permute(*order)
    return numpyro.param(name, jnp.asarray(start.numpy().copy()))


def dense(task: Task, prefix: str) -> Network:
    """The twin of what ``tasks.by_hand.dense`` made."""
    layers = [name for name, layer in task.get_submodule(prefix).named_children() if isinstance(layer, nn.Linear)]
    pairs = [tuple(parameter(task, f"{prefix}.{name}.{kind}") for kind in ("weight", "bias")) for name in layers]

    def network(x: Any) -> Any:
        for number, (weight, bias) in enumerate(pairs):
            x = (jnp.tanh(x) if number else x) @ weight.T + bias
        return x

    return network
