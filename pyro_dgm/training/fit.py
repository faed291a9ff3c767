"""Training as one readable call: `fit` drives anything that can take a step and tell its state."""

__all__ = ["FitResult", "fit"]

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from torch.optim.lr_scheduler import LRScheduler

from pyro_dgm.training.cursor import Cursor
from pyro_dgm.training.logs import Log, TensorBoardLog, open_log
from pyro_dgm.training.metrics import EpochMean
from pyro_dgm.training.monitor import Monitor
from pyro_dgm.training.progress import open_progress
from pyro_dgm.training.protocols import Callback, OnEpoch, OnStep, TakesSteps, Trainer
from pyro_dgm.training.run import Limit, Run, Validation
from pyro_dgm.training.schedule import Schedule
from pyro_dgm.training.store import Store

PathLike = str | os.PathLike[str]


class FitResult(NamedTuple):
    """What a run has come to.

    Arguments:
        history: A row an epoch: epoch, step, the metrics, lr where there is a scheduler, seconds since the start.
        best: The row with the best monitored metric; None where nothing was monitored.
        best_step: Its step, or None.
        epochs: Epochs completed, those of the run that was resumed included.
        steps: Steps taken, likewise.
        stopped_early: Whether patience ran out or a callback stopped the run.
        seconds: Seconds of training, likewise.
    """

    history: list[dict[str, float]]
    best: dict[str, float] | None
    best_step: int | None
    epochs: int
    steps: int
    stopped_early: bool
    seconds: float


def fit(
    trainer: Trainer,
    data: Iterable[Any],
    *,
    epochs: int | None = None,
    steps: int | None = None,
    validate: Callable[[], Any] | None = None,
    validate_every: int = 1,
    monitor: str | None = None,
    mode: Literal["min", "max"] = "min",
    patience: int | None = None,
    restore_best: bool | None = None,
    nonfinite: Literal["raise", "skip"] = "raise",
    scheduler: LRScheduler | None = None,
    scheduler_interval: Literal["epoch", "step"] = "epoch",
    checkpoint: PathLike | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    log: PathLike | None = None,
    tensorboard: PathLike | None = None,
    progress: bool = True,
    steps_per_call: int = 1,
) -> FitResult:
    """Drive a trainer over its data, epoch after epoch, and keep what is needed to go on or to go back.

    A run that was killed and resumed is bitwise equal to one that was not, also from the middle of an epoch: the
    checkpoint holds the trainer, the scheduler, the callbacks' states, the global random generators, the place in
    the data, the sums of the epoch so far, the history, and the best state. `checkpoint_every` steps or an epoch
    is what a kill can lose; Ctrl-C loses nothing (the step at hand is finished and saved, then KeyboardInterrupt
    is raised; a second Ctrl-C acts at once and saves nothing).

    Arguments:
        trainer: Has `step`, `state_dict` and `load_state_dict`. A float that `step` returns is a loss summed over
            the batch, as in `pyro.infer.SVI`; it is reported per row, in nats per datum, under the name loss. A
            mapping of names to floats is reported as it is, averaged over the steps. If it has `report`, what that
            returns is reported too (`Reporting`); if it has `schedules`, training must be long enough for them
            (`Scheduled`), and where its length is not known before, a schedule cut short is warned of at the end; if it
            has `expect`, it is told of the steps to come (`Expecting`). `pyro_dgm.infer.SVI` then compiles its step in
            a run of more than a minute, unless told otherwise; compiled steps round otherwise, from a moment on that
            depends on the machine. A run is resumed bit by bit from any checkpoint after that moment; from the first
            step on it is with ``compile=False``, or a compiler that is waited for.
        data: Batches: tensors (``step(batch)``), tuples or lists (``step(*batch)``), or mappings
            (``step(**batch)``). To be resumed from the middle of an epoch, data either is `Stateful` or gives the
            same batches from the same random state (lists and DataLoaders do). Nothing is moved to a device.
        epochs: Train until so many epochs are complete.
        steps: Train until so many steps are taken; exactly one of the two is given. An epoch cut short by it has
            its row in the result, and is gone on with if the run is resumed with more steps.
        validate: Returns a float or a mapping of names to floats, reported with the prefix valid_. It puts the
            networks into evaluation mode, and back, itself; the random numbers it draws are part of the run.
        validate_every: Validate after every so many epochs (and where `steps` cuts one short).
        monitor: The metric that says which epoch is best; valid_loss by default, if there is one.
        mode: "min" if lower is better, "max" if higher is.
        patience: Stop when so many validations have brought no new best.
        restore_best: Put the trainer's best state back at the end; by default where `monitor` or `patience` is given.
        nonfinite: What a NaN or infinite metric of a step does: "raise", or "skip" it, which leaves the step out of
            the epoch's mean and counts it under skipped; only for a trainer that leaves out such steps itself.
        scheduler: One of `torch.optim.lr_scheduler`; ReduceLROnPlateau follows the monitored metric.
        scheduler_interval: Whether the scheduler is stepped after each "epoch" or each "step".
        checkpoint: A folder for `last.ckpt` and, where a metric is monitored, `best.ckpt` (read by
            `load_checkpoint`; the trainer's state is under "trainer"). One process may write to it.
        checkpoint_every: Save after every so many steps instead of after every epoch; the end is saved in any case.
        resume: Go on from `last.ckpt`. Without it, a folder that holds a run is refused.
        callbacks: Objects with `on_step` or `on_epoch` or both; called in this order. One that is `Stateful` is
            part of the checkpoint. An epoch that `steps` cuts short calls no `on_epoch`.
        log: A file ending in .jsonl or .csv: the history, each row written as its epoch ends.
        tensorboard: A folder for event files; needs the extra ``pyro_dgm[tensorboard]``.
        progress: Show a bar on a terminal, a line every ten seconds elsewhere.
        steps_per_call: Take so many steps by one call of the trainer's `steps` (`TakesSteps`), which for
            `pyro_dgm.infer.SVI` with compiled steps of small models saves time. The steps and their losses are the
            same; callbacks hear of them after the call, one after the other, and find the trainer as the last has left
            it; what ends the run, Ctrl-C too, waits for the call. Calls are cut short where a checkpoint, an epoch's
            end or the last step is due, and to single steps where the trainer has schedules. `report` is asked for once
            a call. Data that draws from the global random generators as it goes draws for a whole call before it.

    Returns:
        The history, the best row, and how far the run came.

    Raises:
        TypeError, ValueError: An argument is wrong, or training shorter than a schedule of the trainer; raised
            before the first step wherever it can be known there.
        FloatingPointError: A metric is NaN or infinite; the last checkpoint is of an earlier step.
        CheckpointError: A checkpoint cannot be written, read, or used with this trainer.

    Example:
        >>> import torch
        >>> class Mean:
        ...     '''Follows the mean of its data.'''
        ...     def __init__(self): self.value = torch.zeros(())
        ...     def step(self, x):
        ...         loss = float(((x - self.value) ** 2).sum())
        ...         self.value += 0.5 * (x.mean() - self.value)
        ...         return loss
        ...     def state_dict(self): return {"value": self.value}
        ...     def load_state_dict(self, state): self.value = state["value"]
        >>> result = fit(Mean(), [torch.ones(4), torch.ones(4)], epochs=2, progress=False)
        >>> [row["loss"] for row in result.history]
        [0.625, 0.0390625]
    """
    _check_parts(trainer, callbacks)
    _check_counts(
        epochs=epochs, steps=steps, validate_every=validate_every, patience=patience, checkpoint_every=checkpoint_every
    )
    _check_choices(epochs, steps, checkpoint, checkpoint_every, resume)
    schedule = Schedule(scheduler, scheduler_interval)
    _check_calls(trainer, steps_per_call, schedule)
    watched = monitor is not None or patience is not None
    required = watched or bool(restore_best) or schedule.needs_metric
    if required and monitor is None and validate is None:
        raise ValueError(
            "patience, restore_best and ReduceLROnPlateau follow a metric; got neither validate= nor monitor=. "
            "Pass validate=, or monitor='loss' to follow the training loss."
        )
    restore_best = watched if restore_best is None else restore_best
    store = None if checkpoint is None else Store(checkpoint, checkpoint_every)
    run = Run(
        trainer=trainer,
        cursor=Cursor(data, epochs),
        limit=Limit(epochs, steps),
        validation=None if validate is None else Validation(validate, validate_every),
        monitor=Monitor(monitor, mode, patience, required, keep_state=restore_best or store is not None),
        schedule=schedule,
        store=store,
        callbacks=tuple(callbacks),
        logs=_open_logs(log, tensorboard, resume),
        progress=open_progress(progress),
        mean=EpochMean(nonfinite),
        steps_per_call=steps_per_call,
    )
    try:
        if resume:
            run.resume()
        else:
            run.start()
        run.go()
    finally:
        run.close()
    if restore_best and run.monitor.trainer_state is not None:
        trainer.load_state_dict(run.monitor.trainer_state)
    return _result(run)


def _result(run: Run) -> FitResult:
    best = run.monitor.row
    return FitResult(
        history=run.history,
        best=best,
        best_step=None if best is None else int(best["step"]),
        epochs=run.epoch,
        steps=run.step,
        stopped_early=run.stopped or run.monitor.exhausted,
        seconds=run.elapsed,
    )


def _open_logs(log: PathLike | None, tensorboard: PathLike | None, resume: bool) -> list[Log]:
    logs: list[Log] = []
    if log is not None:
        logs.append(open_log(log, resume))
    if tensorboard is not None:
        logs.append(TensorBoardLog(tensorboard))
    return logs


def _check_parts(trainer: Any, callbacks: Iterable[Any]) -> None:
    if not isinstance(trainer, Trainer):
        raise TypeError(
            f"a trainer has step, state_dict and load_state_dict; got {type(trainer).__name__}. Use "
            "pyro_dgm.infer.SVI in place of pyro.infer.SVI, or give your class the three methods."
        )
    for callback in callbacks:
        if not isinstance(callback, OnStep | OnEpoch):
            raise TypeError(
                f"a callback has on_step or on_epoch; got {type(callback).__name__}. Give it one of the two methods."
            )


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{name} must be a whole number from 1; got {value!r}. Leave it out if it is not wanted.")


def _check_calls(trainer: Trainer, steps_per_call: int, schedule: Schedule) -> None:
    if type(steps_per_call) is not int or steps_per_call < 1:
        raise ValueError(
            f"steps_per_call must be a whole number from 1; got {steps_per_call!r}. 1 takes the steps one by one."
        )
    if steps_per_call > 1 and not (isinstance(trainer, TakesSteps) and callable(trainer.steps)):  # it may be a counter
        raise TypeError(
            f"steps_per_call={steps_per_call} needs a trainer with steps, which takes several in one call; got "
            f"{type(trainer).__name__} without. Use steps_per_call=1, or give your class the method."
        )
    if steps_per_call > 1 and schedule.is_per_step:
        raise ValueError(
            "the learning rate stands still within a call; got scheduler_interval='step' with "
            f"steps_per_call={steps_per_call}. Use scheduler_interval='epoch', or steps_per_call=1."
        )


def _check_choices(
    epochs: int | None, steps: int | None, checkpoint: PathLike | None, checkpoint_every: int | None, resume: bool
) -> None:
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"exactly one of epochs and steps says how long to train; got epochs={epochs} and steps={steps}. Pass one."
        )
    if checkpoint is None and (resume or checkpoint_every is not None):
        given = "resume=True" if resume else f"checkpoint_every={checkpoint_every}"
        raise ValueError(f"{given} needs a folder for the checkpoints; got checkpoint=None. Pass checkpoint=.")
