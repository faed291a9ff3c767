"""What `fit` asks of the things it is given: a few methods each, and no base class."""

__all__ = [
    "Callback",
    "Expecting",
    "Info",
    "OnEpoch",
    "OnStep",
    "Position",
    "Reporting",
    "Scheduled",
    "Stateful",
    "StopTraining",
    "TakesSteps",
    "Trainer",
]

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable


@runtime_checkable
class Stateful(Protocol):
    """Data or a callback whose state belongs to the run, and so to its checkpoint.

    Data that is stateful gives, after k batches of an epoch, a state that when loaded makes the next ``iter(data)``
    continue with batch k + 1, and give nothing if k was the last; after the end of an epoch's loop, begin a new one.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, in dicts, lists and tuples."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take up a state that `state_dict` gave."""


@runtime_checkable
class Trainer(Stateful, Protocol):
    """One that can take a training step and tell its state: all that `fit` knows of what it trains."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take one step on a batch.

        Returns:
            A float, the loss summed over the batch (as `pyro.infer.SVI.step` does), or a mapping of names to
            floats, which are reported as they are.
        """


@runtime_checkable
class TakesSteps(Protocol):
    """A trainer that can take several steps in one call, and is quicker for it."""

    def steps(self, batches: Sequence[Any], /) -> Sequence[Any]:
        """Take one step for each batch, in their order.

        Arguments:
            batches: For each step the argument of `step`, or the tuple of its arguments.

        Returns:
            For each step what `step` returns.
        """


@runtime_checkable
class Expecting(Protocol):
    """A trainer that prepares for a long run otherwise than for a short one."""

    def expect(self, num_steps: int, /) -> None:
        """Take note of how many steps are to come, as far as that is known."""


@runtime_checkable
class Reporting(Protocol):
    """A trainer with more to say about a step than what `step` returns."""

    def report(self, *, full: bool = False) -> Mapping[str, float]:
        """Return metrics of the last step, by names that `step` does not use.

        They are averaged over the steps that had them, each with weight one. It is called once after each step, or
        after several that were taken in one call; it must not change how training goes on, and may leave out what is
        costly.

        Arguments:
            full: Leave nothing out: the step is the last of its epoch, where that is known.
        """


class Position(Protocol):
    """Where a schedule is, in steps."""

    @property
    def num_steps(self) -> int:
        """Steps taken so far."""

    @property
    def num_steps_needed(self) -> int:
        """The step at which it reaches its end value for good."""


@runtime_checkable
class Scheduled(Protocol):
    """A trainer with schedules of its own, such as a KL weight's; they are to end before training does."""

    def schedules(self) -> Sequence[Position]:
        """Return them; `step` advances them, and the trainer's state holds them."""


class Info(NamedTuple):
    """What a callback is told.

    Arguments:
        epoch: The epoch at hand, from 1.
        step: Steps taken so far, in all epochs.
        total_steps: Steps of the whole run, or None where that is not known.
        metrics: Of this step, in `on_step`; the epoch's row of the history, in `on_epoch`.
    """

    epoch: int
    step: int
    total_steps: int | None
    metrics: dict[str, float]


@runtime_checkable
class OnStep(Protocol):
    """A callback that is called after each step."""

    def on_step(self, info: Info, /) -> None:
        """Look at the step; raise `StopTraining` to end the run."""


@runtime_checkable
class OnEpoch(Protocol):
    """A callback that is called after each epoch, when its row is complete and not yet in a checkpoint."""

    def on_epoch(self, info: Info, /) -> None:
        """Look at the epoch; raise `StopTraining` to end the run."""


Callback = OnStep | OnEpoch


class StopTraining(Exception):
    """Raised by a callback: end the run in good order, as if it had reached its last step."""
