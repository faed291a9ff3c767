"""What a task has to have, for all who train it."""

__all__ = ["Batch", "Task"]

import abc

from pyro.infer import ELBO as PyroELBO
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_dgm.infer import ELBO
from pyro_dgm.infer.programs import Program

Batch = tuple[Tensor, ...]


class Task(nn.Module, abc.ABC):
    """Parameters, two programs that use them, and the loss by hand: minus the bound, summed over a batch, in nats."""

    title: str
    is_full_batch = False  # then every step has the same data

    @abc.abstractmethod
    def batch(self) -> Batch:
        """Draws data, the arguments of everything else."""

    @abc.abstractmethod
    def programs(self) -> tuple[Program, Program]:
        """Model and guide."""

    @abc.abstractmethod
    def loss(self, *batch: Tensor) -> Tensor:
        """The loss by hand, with the gradient that the objectives estimate."""

    def stock_objective(self) -> PyroELBO:
        """The objective for ``pyro.infer.SVI``: Pyro's where it has one."""
        return Trace_ELBO()

    def objective(self) -> PyroELBO:
        """The objective for this library's trainer."""
        return ELBO()
