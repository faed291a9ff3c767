"""A run's place in its data: which epoch's batches, and how many of them it has used."""

__all__ = ["Cursor", "step_on", "steps_on"]

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, final

from torch import Generator, Tensor
from torch.utils.data import DataLoader

from pyro_dgm.training.protocols import Stateful, TakesSteps, Trainer
from pyro_dgm.training.rng import capture_rng, restore_rng


def step_on(trainer: Trainer, batch: Any) -> Any:
    """Take a step on a batch: a tensor as it is, a tuple or list as arguments, a mapping as keyword arguments."""
    if isinstance(batch, Tensor):
        return trainer.step(batch)
    if isinstance(batch, Mapping):
        return trainer.step(**batch)
    if isinstance(batch, tuple | list):
        return trainer.step(*batch)
    raise _no_batch(batch)


def steps_on(trainer: TakesSteps, batches: Sequence[Any]) -> Sequence[Any]:
    """Take a step on each batch, in one call: a tensor as it is, a tuple or list as arguments."""
    results = trainer.steps([_arguments(batch) for batch in batches])
    if len(results) != len(batches):
        raise ValueError(
            f"steps must return what each step returned; got {len(results)} results for {len(batches)} batches. "
            "Return a list with one float for each batch."
        )
    return results


@final
class Cursor:
    """Gives the batches of epoch after epoch, and can go back to the middle of one.

    Data that is `Stateful` knows its place itself. Any other data is replayed: its order is taken to be a function
    of the random state at the epoch's start, which is kept (torch's, Python's and NumPy's global generators, and
    those of a DataLoader); on resuming, the batches already used are drawn again and dropped. Data that draws from
    a generator of its own must be `Stateful`.

    Arguments:
        data: An iterable of batches.
        epochs: How often it is going to be run through, if known.
    """

    def __init__(self, data: Iterable[Any], epochs: int | None = None):
        _check_data(data, epochs)
        self.data = data
        self.used = 0
        self.length = _length(data)
        self._generators = _generators(data)
        self._start: dict[str, Any] | None = None
        self._replayed: Iterator[Any] | None = None
        self._ran_out = False  # which is seen when more is asked for

    @property
    def at_known_end(self) -> bool:
        """Whether this epoch has used all of its data, as far as is known: the data has a length, or has run out."""
        return self._ran_out or self.used == self.length

    def epoch(self, most: Callable[[], int]) -> Iterator[list[Any]]:
        """Yield the batches of one epoch, or those that are left of an interrupted one, some at a time.

        Arguments:
            most: How many to give next, asked each time; fewer are given where the epoch ends.
        """
        iterator, self._replayed = self._replayed, None
        if iterator is None:
            if not isinstance(self.data, Stateful):
                self._start = {"rng": capture_rng(), "generators": self._generator_states()}
            iterator = iter(self.data)
        fresh = self.used == 0
        while not self._ran_out:
            wanted = self._without_end(most())
            batches = list(islice(iterator, wanted))
            self.used += len(batches)
            self._ran_out = len(batches) < wanted
            if batches:
                yield batches
        self._ran_out = False
        if fresh and self.used == 0:
            raise ValueError(
                "data must give at least one batch an epoch; got none. Pass a list, a DataLoader or another "
                "iterable that is not empty and can be run through again."
            )
        self.used = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the batches used in this epoch, and what is needed to find the next one."""
        if isinstance(self.data, Stateful):
            return {"used": self.used, "data": self.data.state_dict()}
        return {"used": self.used, "start": self._start if self.used else None, "now": self._generator_states()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to that place; the global random state is left wherever the replay leads."""
        self.used = state["used"]
        if isinstance(self.data, Stateful):
            self.data.load_state_dict(state["data"])
            return
        if self.used:
            self._replay(state["start"])
        self._set_generator_states(state["now"])

    def _without_end(self, wanted: int) -> int:
        """How many can be asked for without a look beyond the last: that belongs after the last step."""
        return wanted if self.length is None else min(wanted, max(1, self.length - self.used))

    def _replay(self, start: dict[str, Any]) -> None:
        self._start = start
        restore_rng(start["rng"])
        self._set_generator_states(start["generators"])
        self._replayed = iter(self.data)
        skipped = sum(1 for _ in islice(self._replayed, self.used))
        if skipped < self.used:
            raise _other_data(f"the checkpoint has used {self.used} batches of its epoch, and data gave {skipped}")

    def _generator_states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _set_generator_states(self, states: list[Tensor]) -> None:
        if len(states) != len(self._generators):
            raise _other_data(
                f"the checkpoint has {len(states)} generators of a DataLoader, not {len(self._generators)}"
            )
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)


def _arguments(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping):
        raise TypeError(
            "several steps in one call take tensors or tuples of arguments; got a mapping of keyword arguments as "
            "batch. Have data give tuples, or use steps_per_call=1."
        )
    if isinstance(batch, tuple | list):
        return tuple(batch)
    raise _no_batch(batch)


def _no_batch(batch: Any) -> TypeError:
    return TypeError(
        f"a batch must be a tensor, a tuple or list of arguments, or a mapping of keyword arguments; got "
        f"{type(batch).__name__}. Convert it in the data set, for instance with torch.as_tensor."
    )


def _other_data(what: str) -> ValueError:
    return ValueError(f"a run goes on with the data it began with; {what}. Pass the same data and batch size.")


def _check_data(data: Any, epochs: int | None) -> None:
    if isinstance(data, Tensor | Mapping | str) or not isinstance(data, Iterable):
        raise TypeError(
            f"data must be an iterable of batches; got {type(data).__name__}. Use [x] for one batch of all rows, "
            "or pyro_dgm.datasets.Batches(x, batch_size)."
        )
    if isinstance(data, Sized) and _length(data) == 0:
        raise ValueError("data must give at least one batch an epoch; got none. Pass data that is not empty.")
    if epochs is not None and epochs > 1 and isinstance(data, Iterator):
        raise ValueError(
            f"data must be an iterable that can be run through {epochs} times; got a one-shot "
            f"{type(data).__name__}. Pass a list or a DataLoader, or epochs=1, or steps=."
        )


def _generators(data: Any) -> list[Generator]:
    """Return the generators that decide the order of a DataLoader, each once."""
    if not isinstance(data, DataLoader):
        return []
    holders = (data, data.sampler, data.batch_sampler, getattr(data.batch_sampler, "sampler", None))
    found = (getattr(holder, "generator", None) for holder in holders)
    return list({id(generator): generator for generator in found if isinstance(generator, Generator)}.values())


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # a DataLoader over a stream has __len__ and no length
        return None
