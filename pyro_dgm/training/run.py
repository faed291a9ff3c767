"""The loop: epochs of steps, each ending in a row of the history, all of it in one state."""

__all__ = ["Limit", "Run", "Validation"]

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, final

from pyro_dgm.training.checkpoint import CheckpointError, check_state_matches, clone_state
from pyro_dgm.training.cursor import Cursor, step_on, steps_on
from pyro_dgm.training.interrupt import Interrupt
from pyro_dgm.training.logs import Log
from pyro_dgm.training.metrics import RESERVED, EpochMean, as_metrics, check_finite
from pyro_dgm.training.monitor import Monitor
from pyro_dgm.training.progress import Progress
from pyro_dgm.training.protocols import (
    Callback,
    Expecting,
    Info,
    OnEpoch,
    OnStep,
    Position,
    Reporting,
    Scheduled,
    Stateful,
    StopTraining,
    TakesSteps,
    Trainer,
)
from pyro_dgm.training.rng import capture_rng, restore_rng
from pyro_dgm.training.schedule import Schedule
from pyro_dgm.training.store import Store

Row = dict[str, float]
State = dict[str, Any]
Listener = Callable[[Info], None]


class Limit(NamedTuple):
    """How long a run is: one of the two is set."""

    epochs: int | None
    steps: int | None

    def total_steps(self, epoch_length: int | None) -> int | None:
        """Return the steps of the whole run, if they can be known."""
        if self.epochs is None:
            return self.steps
        return None if epoch_length is None else self.epochs * epoch_length


class Validation(NamedTuple):
    """A function that returns metrics, and after how many epochs it is called."""

    function: Callable[[], Any]
    every: int


@final
@dataclass
class Run:
    """A training run: its parts, and where it stands."""

    trainer: Trainer
    cursor: Cursor
    limit: Limit
    validation: Validation | None
    monitor: Monitor
    schedule: Schedule
    store: Store | None
    callbacks: Sequence[Callback]
    logs: Sequence[Log]
    progress: Progress
    mean: EpochMean
    steps_per_call: int

    epoch: int = 0  # epochs completed
    step: int = 0
    seconds: float = 0.0  # of the runs that this one resumes
    history: list[Row] = field(default_factory=list)
    stopped: bool = False  # by a callback
    interrupt: Interrupt = field(default_factory=Interrupt)
    _began: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.stopped or self.monitor.exhausted or self._limit_reached

    @property
    def elapsed(self) -> float:
        """Seconds of training, those of the runs resumed included."""
        return self.seconds + time.monotonic() - self._began

    def start(self) -> None:
        """Begin a new run: its first checkpoint shows at once whether the state can be saved."""
        self._check_schedules()
        if self.store is not None:
            self.store.open_new()
            self.store.save_last(self.state_dict())
        self._start_shows()

    def resume(self) -> None:
        """Go back to the last checkpoint."""
        assert self.store is not None, "fit asks for checkpoint= with resume="
        state = self.store.load_last()
        self.load_state_dict(state)
        if self.finished and self.cursor.used and "closing" in state:
            self.history = state["closing"]["history"]
            self.monitor.load_state_dict(state["closing"]["monitor"])
        self._check_schedules()
        if self.monitor.row is not None and self.monitor.trainer_state is not None:
            self.store.save_best(self.monitor.trainer_state, self.monitor.row)  # the file may be of a later step
        self._start_shows()
        if self.finished:
            self.progress.say(
                f"Nothing left to do: {self.store.last} is at epoch {self.epoch}, step {self.step}. "
                "To go on, pass more epochs, steps or patience."
            )
        if self.finished and self.cursor.used and "closing" not in state:
            self._halt()

    def go(self) -> None:
        """Train until the run is finished.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the step at hand was finished and the run saved.
        """
        trains = not self.finished
        with self.interrupt:
            while not self.finished:
                self._run_epoch()
                if self.interrupt.pending:
                    raise KeyboardInterrupt
        self.progress.update(self.step, self.epoch, self._shown, now=True)
        if trains:
            self._warn_of_schedules()

    def close(self) -> None:
        """Let go of bars and files."""
        self.progress.close()
        for log in self.logs:
            log.close()

    def state_dict(self) -> State:
        """Return all that decides how the run goes on."""
        return {
            "trainer": self.trainer.state_dict(),
            "data": self.cursor.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.elapsed,
            "history": self.history,
            "mean": self.mean.state_dict(),
            "monitor": self.monitor.state_dict(),
            "rng": capture_rng(),
            **self.schedule.state_dict(),
            **{name: callback.state_dict() for name, callback in self._stateful_callbacks().items()},
        }

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` gave; the trainer is changed last, and only if everything fits."""
        self._check(state)
        self.cursor.load_state_dict(state["data"])
        self.schedule.load_state_dict(state)
        for name, callback in self._stateful_callbacks().items():
            callback.load_state_dict(state[name])
        self._load_trainer(state["trainer"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.history = state["history"]
        self.mean.load_state_dict(state["mean"])
        self.monitor.load_state_dict(state["monitor"])
        restore_rng(state["rng"])

    @property
    def _limit_reached(self) -> bool:
        epochs, steps = self.limit
        return (epochs is not None and self.epoch >= epochs) or (steps is not None and self.step >= steps)

    def _start_shows(self) -> None:
        for log in self.logs:
            log.start(self.history)
        total = self.limit.total_steps(self.cursor.length)
        if isinstance(self.trainer, Expecting) and total is not None:
            self.trainer.expect(max(0, total - self.step))
        self.progress.start(self.step, total)

    def _run_epoch(self) -> None:
        for batches in self.cursor.epoch(self._next_steps):
            self._take_steps(batches)
            halts = self.interrupt.pending or self.stopped or self._limit_reached
            if halts and not self.cursor.at_known_end:
                self._halt()
                return
        self._end_epoch()

    def _next_steps(self) -> int:
        """How many steps to take in the next call: none beyond a checkpoint or the end.

        One where the trainer has schedules, which advance with each step and are reported with it.
        """
        if self.steps_per_call == 1 or (isinstance(self.trainer, Scheduled) and self.trainer.schedules()):
            return 1
        wanted = self.steps_per_call
        if self.limit.steps is not None:
            wanted = min(wanted, self.limit.steps - self.step)
        if self.store is not None and self.store.every is not None:
            wanted = min(wanted, self.store.every - self.step % self.store.every)
        return max(wanted, 1)  # at the end one more is asked for, and not given

    def _take_steps(self, batches: Sequence[Any]) -> None:
        """Take steps in one call, and then tell of each."""
        if len(batches) == 1:
            self._tell_step(step_on(self.trainer, batches[0]), batches[0], self._report)
        else:
            assert isinstance(self.trainer, TakesSteps), "fit asks for it"
            *before, last = zip(steps_on(self.trainer, batches), batches, strict=True)
            for result, batch in before:
                self._tell_step(result, batch, dict)
            self._tell_step(*last, self._report)
        if self.store is not None and self.store.due_after_step(self.step) and not self.cursor.at_known_end:
            self.store.save_last(self.state_dict())

    def _tell_step(self, result: Any, batch: Any, report: Callable[[], Mapping[str, float]]) -> None:
        """Count a step that was taken, with what it returned and what is reported beside."""
        self.step += 1
        metrics = self.mean.add(result, batch, self.step, report())
        self.schedule.after_step()
        self._tell(self._step_listeners, metrics)
        self.progress.update(self.step, self.epoch + 1, self._shown)

    def _report(self) -> Mapping[str, float]:
        """What the trainer says about its step beside what `step` returned."""
        if self._reporting is None:
            return {}
        return self._reporting.report(full=self.cursor.at_known_end)

    def _end_epoch(self) -> None:
        row = self._close_row(validate=self.validation is not None and (self.epoch + 1) % self.validation.every == 0)
        self._tell(self._epoch_listeners, row)
        self.epoch += 1
        self.mean.reset()
        self.schedule.after_epoch(row.get(self.monitor.name))
        if self.store is None:
            return
        if self.finished or self.interrupt.pending or self.store.due_after_epoch(self.step):
            self.store.save_last(self.state_dict())

    def _halt(self) -> None:
        """End in the middle of an epoch.

        The row of an epoch cut short is for this run's result: a longer run goes on with the epoch, as if it had
        never ended here, and so from the state before the row and its validation.
        """
        state = clone_state(self.state_dict()) if self.store is not None else {}
        if not self.interrupt.pending:
            self._close_row(validate=self.validation is not None)
            state["closing"] = {"history": self.history, "monitor": self.monitor.state_dict()}
        if self.store is not None:
            self.store.save_last(state)

    def _close_row(self, validate: bool) -> Row:
        """Make the row of an epoch, and give it to the history, the logs and the monitor."""
        self.mean.check()
        row: Row = {"epoch": self.epoch + 1, "step": self.step, **self.mean.means()}
        if validate and self.validation is not None:
            metrics = as_metrics(self.validation.function(), "validate", prefix="valid_")
            check_finite(metrics, "validate", self.step)
            row.update(metrics)
        self.monitor.check(row, complete=validate or self.validation is None)
        row.update(self.schedule.learning_rate(), seconds=self.elapsed)
        self.history.append(row)
        for log in self.logs:
            log.append(row)
        if self.monitor.update(row, self.trainer.state_dict) and self.store is not None:
            self.store.save_best(self.trainer.state_dict(), row)
        return row

    @cached_property
    def _reporting(self) -> Reporting | None:
        return self.trainer if isinstance(self.trainer, Reporting) else None

    def _unfinished(self, steps_left: int) -> list[Position]:
        """The trainer's schedules that so many further steps do not bring to their end."""
        schedules = self.trainer.schedules() if isinstance(self.trainer, Scheduled) else ()
        return [one for one in schedules if one.num_steps_needed - one.num_steps > steps_left]

    def _check_schedules(self) -> None:
        """Refuse to train for less than the trainer's schedules need, where the length of training is known."""
        total = self.limit.total_steps(self.cursor.length)
        if total is None or self.finished:
            return
        for one in self._unfinished(total - self.step):
            raise ValueError(
                f"training must go on until every schedule has reached its end; got {total} steps in all, {self.step} "
                f"of them taken, and {one!r}, which needs {one.num_steps_needed} and has taken {one.num_steps}. Train "
                "for longer, or let the schedule end earlier."
            )

    def _warn_of_schedules(self) -> None:
        """Say that training is over and a schedule is not, which could not be known before."""
        if unfinished := self._unfinished(0):
            short = ", ".join(f"{one!r} at {one.num_steps} of {one.num_steps_needed} steps" for one in unfinished)
            warnings.warn(
                f"training ended before a schedule did: {short}. What was trained is the objective of that moment; "
                "resume with more steps, or let the schedule end earlier.",
                stacklevel=3,
            )

    @cached_property
    def _step_listeners(self) -> list[Listener]:
        return [callback.on_step for callback in self.callbacks if isinstance(callback, OnStep)]

    @cached_property
    def _epoch_listeners(self) -> list[Listener]:
        return [callback.on_epoch for callback in self.callbacks if isinstance(callback, OnEpoch)]

    def _tell(self, listeners: list[Listener], metrics: Row) -> None:
        """Call the callbacks, each of them even if an earlier one asks to stop."""
        info = Info(self.epoch + 1, self.step, self.limit.total_steps(self.cursor.length), metrics)
        for listener in listeners:
            try:
                listener(info)
            except StopTraining:
                self.stopped = True

    def _shown(self) -> Row:
        last = self.history[-1] if self.history else {}
        return {name: value for name, value in (last | self.mean.means()).items() if name not in RESERVED}

    def _stateful_callbacks(self) -> dict[str, Stateful]:
        named = {f"callback {place} {type(one).__name__}": one for place, one in enumerate(self.callbacks)}
        return {name: callback for name, callback in named.items() if isinstance(callback, Stateful)}

    def _check(self, state: State) -> None:
        """Refuse the checkpoint of another run, before anything is changed."""
        assert self.store is not None, "a state comes from a store"
        check_state_matches(_layout(self.state_dict()), _layout(state), source=str(self.store.last))

    def _load_trainer(self, state: State) -> None:
        """Load the trainer's state, or leave the trainer as it was."""
        before = clone_state(self.trainer.state_dict())
        try:
            self.trainer.load_state_dict(state)
        except Exception as err:
            self.trainer.load_state_dict(before)
            raise CheckpointError(
                f"a state goes back only into the architecture it was saved from; the trainer refused it: {err}. "
                "Build the same trainer, or use its own checkpoint."
            ) from err


def _layout(state: State) -> State:
    """Return what must agree: the trainer and the scheduler in all their names, of the rest only what there is."""
    layout = {name: part if name in ("trainer", "scheduler") else None for name, part in state.items()}
    layout.pop("closing", None)
    if isinstance(state.get("data"), dict):
        layout["data"] = dict.fromkeys(state["data"])
    return layout
