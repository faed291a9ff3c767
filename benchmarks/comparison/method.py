"""What a method is: something that starts on a problem, takes steps, and can be asked what it has learned."""

__all__ = ["Learner", "Method", "TrainedPrograms"]

import abc
from typing import Any, final

from pyro.infer import ELBO as PyroELBO
from torch import Tensor

from benchmarks.comparison.task import Problem


class Learner(abc.ABC):
    """A method at work on a problem. What it does not have, it leaves as it is here: None.

    What is measured follows from what there is: programs give bounds, importance weights and draws of the posterior; an
    objective gives gradients; draws or samples alone are compared with the truth's.

    Attributes:
        is_chain: whether its draws are those of one Markov chain, in order.
    """

    is_chain = False

    @abc.abstractmethod
    def step(self) -> None:
        """Takes one step: a gradient step, or a draw of a Markov chain."""

    @property
    def programs(self) -> tuple[Any, Any] | None:
        """Model and guide as they are now, called with the problem's test arguments."""
        return None

    @property
    def objective(self) -> PyroELBO | None:
        """What is differentiated, for the noise of its gradient."""
        return None

    def log_weights(self, num: int) -> Tensor | None:
        """Log p(x, z) - log q(z | x) of fresh draws, (num, B), of who has no programs of Pyro's."""
        return None

    def draws(self, num: int) -> dict[str, Tensor] | None:
        """Draws of the posterior of the test data by site, (num, B, *event), of who has no programs."""
        return None

    def samples(self, num: int) -> Tensor | None:
        """Data that a generator makes, (num, *event)."""
        return None


class Method(abc.ABC):
    """A method by name. One of one's own is a subclass in a file named by ``--user``, without arguments to make it.

    Attributes:
        name: on the command line and in the files: small letters, digits and single hyphens.
        title: what the tables show.
        family: whose code it is: ``"pyro_dgm"``, ``"pyro"``, ``"numpyro"``, ``"torch"`` or ``"user"``.
        requires: packages that have to be installed; where one is not, the cell says so.
    """

    name: str
    title: str
    family: str = "user"
    requires: tuple[str, ...] = ()

    @abc.abstractmethod
    def supports(self, problem: Problem) -> str | None:
        """None, or the reason why the method is not for the problem; such pairs are left out."""

    @abc.abstractmethod
    def start(self, problem: Problem, seed: int) -> Learner:
        """Begins on a problem; torch's and Pyro's generators are seeded already."""


@final
class TrainedPrograms(Learner):
    """Model and guide under a trainer whose ``step`` takes a minibatch, such as ``pyro.infer.SVI``.

    Arguments:
        trainer: anything with ``step(*batch)``.
        problem: whose minibatches it is given.
        model: evaluated with the guide.
        guide: likewise.
        objective: what is differentiated, or None.
    """

    def __init__(
        self, trainer: Any, problem: Problem, model: Any, guide: Any, objective: PyroELBO | None = None
    ) -> None:
        self.trainer = trainer
        self._batches = problem.batches()
        self._programs = model, guide
        self._objective = objective

    def step(self) -> None:
        """Takes the trainer's step on the next minibatch."""
        self.trainer.step(*next(self._batches))

    @property
    def programs(self) -> tuple[Any, Any]:
        """Model and guide."""
        return self._programs

    @property
    def objective(self) -> PyroELBO | None:
        """What is differentiated."""
        return self._objective
