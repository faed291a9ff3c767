"""What `fit` asks of the things it is given: a few methods each, and no base class."""

__all__ = ["Callback", "Info", "OnEpoch", "OnStep", "Stateful", "StopTraining", "Trainer"]

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
