"""Who takes the steps: Pyro's trainer, this library's, torch by hand, and NumPyro."""

__all__ = ["CONTESTANTS", "Contestant", "Kind"]

import abc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, final

import pyro
import pyro.infer
import pyro.optim
import torch

from benchmarks.step_time.tasks import Batch, Task
from pyro_dgm.infer import SVI
from pyro_dgm.infer.compiling import Compiler

RATE = 1e-3


class Contestant(abc.ABC):
    """A trainer of one task, with the data of a block of steps."""

    @abc.abstractmethod
    def steps(self) -> list[float]:
        """Takes a step for each batch of the block and returns the losses, as Python's numbers; within ``at_work``."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Sets up what contestants cannot share, outside of what is timed."""
        yield

    def notes(self) -> list[str]:
        """What is to be said of the steps that were taken."""
        return []


@final
class Programs(Contestant):
    """A trainer of Pyro programs, with a parameter store of its own.

    Arguments:
        task: what to train.
        batches: one for each step of a block.
        trainer: makes the trainer of model, guide and task.
        is_validated: whether Pyro's validation is on.
        in_blocks: take all steps of a block together.
    """

    def __init__(
        self,
        task: Task,
        batches: Sequence[Batch],
        trainer: Callable[..., Any],
        is_validated: bool = True,
        in_blocks: bool = False,
    ) -> None:
        self._batches = batches
        self._store: dict[str, Any] = {"params": {}, "constraints": {}}
        self._is_validated, self._in_blocks = is_validated, in_blocks
        with self.at_work():
            self._svi = trainer(*task.programs(), task)

    def steps(self) -> list[float]:
        if self._in_blocks:
            found: list[float] = self._svi.steps(self._batches)
            return found
        return [self._svi.step(*batch) for batch in self._batches]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The contestant's parameters and validation."""
        with pyro.get_param_store().scope(self._store), pyro.validation_enabled(self._is_validated):
            yield

    def notes(self) -> list[str]:
        compiled = getattr(self._svi, "compiled", None)
        if compiled is None:
            return []
        refused = [f"taken as written: {reason}" for reason in compiled.refusals]
        return refused + ([f"{compiled.num_compiled} versions compiled"] if compiled.num_compiled > 1 else [])


@final
class ByHand(Contestant):
    """The loss by hand and torch's optimiser; both may go through ``torch.compile``, each as one function."""

    def __init__(self, task: Task, batches: Sequence[Batch], is_fused: bool = False, is_compiled: bool = False) -> None:
        self._batches = batches
        self._optimizer = torch.optim.Adam(task.parameters(), lr=RATE, fused=is_fused or None)
        self._loss, self._update = task.loss, self._optimizer.step
        if is_compiled:
            torch._dynamo.reset()
            self._loss, self._update = torch.compile(task.loss), torch.compile(self._optimizer.step)

    def steps(self) -> list[float]:
        losses = []
        for batch in self._batches:
            self._optimizer.zero_grad()
            loss = self._loss(*batch)
            loss.backward()
            self._update()
            losses.append(loss.item())
        return losses


@final
class InNumPyro(Contestant):
    """NumPyro's update under ``jax.jit``, step by step, or scanned over a block."""

    def __init__(self, name: str, task: Task, batches: Sequence[Batch], is_scanned: bool) -> None:
        os.environ.setdefault("NPROC", str(torch.get_num_threads()))  # read when JAX starts, the size of its pool
        import jax
        import numpyro

        from benchmarks.step_time.in_numpyro import twin

        own = twin(name, task)
        svi = numpyro.infer.SVI(own.model, own.guide, numpyro.optim.Adam(RATE), own.objective)
        self._batches = [tuple(jax.numpy.asarray(part.numpy()) for part in batch) for batch in batches]
        self._stacked = jax.tree.map(lambda *parts: jax.numpy.stack(parts), *self._batches)
        self._state = svi.init(jax.random.PRNGKey(0), *self._batches[0])
        self._update = jax.jit(svi.update)
        self._scan = jax.jit(lambda state, all_: jax.lax.scan(lambda now, one: svi.update(now, *one), state, all_))
        self._is_scanned = is_scanned

    def steps(self) -> list[float]:
        if self._is_scanned:
            self._state, found = self._scan(self._state, self._stacked)
            scanned: list[float] = found.tolist()
            return scanned
        losses = []
        for batch in self._batches:
            self._state, loss = self._update(self._state, *batch)
            losses.append(float(loss))
        return losses


def _stock(model: Any, guide: Any, task: Task) -> pyro.infer.SVI:
    return pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": RATE}), task.stock_objective())


def _own(compile: bool | Compiler, model: Any, guide: Any, task: Task) -> SVI:
    return SVI(model, guide, partial(torch.optim.Adam, lr=RATE), task.objective(), compile=compile)


class Kind(NamedTuple):
    """The title of a contestant's column, and what makes it.

    Arguments:
        title: for the tables.
        make: called with a task's name, the task, the batches of a block, and how to compile.
    """

    title: str
    make: Callable[[str, Task, Sequence[Batch], Compiler], Contestant]


CONTESTANTS: dict[str, Kind] = {
    "pyro": Kind("Pyro", lambda name, task, data, how: Programs(task, data, _stock)),
    "pyro-unvalidated": Kind(
        "Pyro, no validation", lambda name, task, data, how: Programs(task, data, _stock, is_validated=False)
    ),
    "own": Kind("pyro_dgm", lambda name, task, data, how: Programs(task, data, partial(_own, False))),
    "compiled": Kind("pyro_dgm, compiled", lambda name, task, data, how: Programs(task, data, partial(_own, how))),
    "compiled-blocks": Kind(
        "pyro_dgm, compiled, `steps`",
        lambda name, task, data, how: Programs(task, data, partial(_own, how), in_blocks=True),
    ),
    "torch": Kind("torch by hand", lambda name, task, data, how: ByHand(task, data)),
    "torch-fused": Kind("by hand, fused Adam", lambda name, task, data, how: ByHand(task, data, is_fused=True)),
    "torch-compile": Kind(
        "by hand, `torch.compile`", lambda name, task, data, how: ByHand(task, data, is_compiled=True)
    ),
    "numpyro": Kind("NumPyro, `jit`", lambda name, task, data, how: InNumPyro(name, task, data, False)),
    "numpyro-scan": Kind("NumPyro, `scan`", lambda name, task, data, how: InNumPyro(name, task, data, True)),
}
