import builtins
import json
import math
import subprocess
import sys
import threading

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from pyro_dgm.training import CheckpointError, FitResult, Info, StopTraining, Trainer, fit, load_checkpoint


class Counting:
    """Counts its steps and returns what it is told to."""

    def __init__(self, results=1.0):
        self.results = results
        self.place = torch.zeros(())
        self.calls = []

    def step(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        self.place += 1
        return self.results(len(self.calls)) if callable(self.results) else self.results

    def state_dict(self):
        return {"place": self.place.clone()}

    def load_state_dict(self, state):
        self.place = state["place"].clone()


def quiet(trainer, data, **options):
    return fit(trainer, data, progress=False, **options)


X = torch.ones(4, 2)


@pytest.mark.parametrize(
    ("batch", "args", "kwargs"),
    [(X, (X,), {}), ((X, 2), (X, 2), {}), ([X, 2], (X, 2), {}), ({"x": X}, (), {"x": X}), ((), (), {})],
)
def test_a_batch_becomes_arguments(batch, args, kwargs):
    trainer = Counting()
    quiet(trainer, [batch], epochs=1)
    assert trainer.calls == [(args, kwargs)]


def test_a_loader_of_tensors_is_data(regression, make_loader):
    result = quiet(regression(), make_loader(), epochs=30)
    assert isinstance(result, FitResult)
    assert (result.epochs, result.steps, len(result.history)) == (30, 150, 30)
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]


def test_a_float_is_a_sum_and_is_reported_per_row():
    trainer = Counting(lambda call: [12.0, 2.0][call - 1])
    (row,) = quiet(trainer, [torch.ones(6, 2), torch.ones(1, 2)], epochs=1).history
    assert row.pop("seconds") > 0
    assert row == {"epoch": 1, "step": 2, "loss": 2.0}


def test_a_mapping_is_averaged_over_the_steps_that_name_it():
    trainer = Counting(lambda call: {"critic": float(call)} | ({"player": torch.tensor(5.0)} if call == 3 else {}))
    (row,) = quiet(trainer, [X] * 3, epochs=1).history
    assert row["critic"] == 2.0
    assert row["player"] == 5.0


def test_a_run_may_be_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(quiet(Counting(), [X], epochs=2)))
    thread.start()
    thread.join()
    assert results[0].epochs == 2


def test_steps_end_a_run_within_an_epoch():
    trainer = Counting()
    result = quiet(trainer, [X] * 3, steps=7, validate=lambda: 1.0)
    assert (result.epochs, result.steps, len(trainer.calls)) == (2, 7, 7)
    assert [row["step"] for row in result.history] == [3, 6, 7]
    assert all("valid_loss" in row for row in result.history)


def test_steps_may_draw_on_endless_data():
    endless = iter(lambda: X, None)
    assert len(quiet(Counting(), endless, steps=5).history) == 1


def test_a_stream_without_a_length_is_data():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(torch.ones(6, 2))

    assert quiet(Counting(), DataLoader(Stream(), batch_size=2), epochs=2).steps == 6


def test_validation_comes_every_so_many_epochs_with_its_prefix():
    result = quiet(Counting(), [X], epochs=4, validate=lambda: {"valid_loss": 1, "kl": 2.0}, validate_every=2)
    assert ["valid_loss" in row and "valid_kl" in row for row in result.history] == [False, True, False, True]


def validations(values):
    remaining = iter(values)
    return lambda: next(remaining)


def test_patience_stops_and_puts_the_best_weights_back():
    trainer = Counting()
    result = quiet(trainer, [X] * 2, epochs=9, validate=validations([3.0, 1.0, 2.0, 1.0, 0.0]), patience=2)
    assert result.stopped_early
    assert (result.epochs, result.best_step) == (4, 4)
    assert result.best == result.history[1]
    assert trainer.place == 4


def test_the_largest_is_best_in_mode_max():
    trainer = Counting()
    validate = validations([{"bound": 1.0}, {"bound": 3.0}, {"bound": 2.0}])
    result = quiet(trainer, [X], epochs=3, validate=validate, monitor="valid_bound", mode="max")
    assert (result.best_step, trainer.place) == (2, 2)
    assert not result.stopped_early


def test_validation_alone_tells_the_best_and_keeps_the_last_weights(tmp_path):
    trainer = Counting()
    result = quiet(trainer, [X], epochs=3, validate=validations([2.0, 1.0, 3.0]), checkpoint=tmp_path)
    assert (result.best_step, trainer.place) == (2, 3)
    best = load_checkpoint(tmp_path / "best.ckpt")
    assert best["trainer"]["place"] == 2
    assert best["row"] == result.best


def test_the_training_loss_can_be_monitored():
    trainer = Counting(lambda call: [4.0, 8.0][call - 1])
    assert quiet(trainer, [X], epochs=2, monitor="loss").best_step == 1
    assert trainer.place == 1


def test_a_scheduler_is_stepped_per_epoch_or_step(regression, batches):
    for interval, expected in (("epoch", [0.05, 0.025]), ("step", [0.05 / 2**5, 0.05 / 2**10])):
        trainer = regression()
        scheduler = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer, 0.5)
        result = quiet(trainer, batches, epochs=2, scheduler=scheduler, scheduler_interval=interval)
        assert [row["lr"] for row in result.history] == expected


def test_a_plateau_scheduler_follows_the_monitored_metric(regression, batches):
    trainer = regression()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(trainer.optimizer, factor=0.1, patience=0)
    result = quiet(
        trainer, batches, epochs=6, scheduler=scheduler, validate=validations([1.0, 2.0, 0.5]), validate_every=2
    )
    assert [row["lr"] for row in result.history] == pytest.approx([0.05] * 4 + [0.005] * 2)


class Listener:
    def __init__(self):
        self.steps, self.epochs = [], []

    def on_step(self, info):
        self.steps.append(info)

    def on_epoch(self, info):
        self.epochs.append(info)


def test_callbacks_hear_of_steps_and_epochs():
    listener = Listener()
    result = quiet(Counting(8.0), [X] * 2, epochs=2, callbacks=[listener])
    assert listener.steps[2] == Info(epoch=2, step=3, total_steps=4, metrics={"loss": 2.0})
    assert [info.metrics for info in listener.epochs] == result.history
    assert [info.epoch for info in listener.epochs] == [1, 2]


def test_a_callback_can_stop_the_run_after_an_epoch():
    class Enough:
        def on_epoch(self, info):
            raise StopTraining

    result = quiet(Counting(), [X] * 2, epochs=5, callbacks=[Enough()])
    assert (result.epochs, result.stopped_early) == (1, True)


def test_rows_are_written_as_jsonl_and_csv(tmp_path):
    validate = validations([{"kl": 2.0}, {"kl": 3.0}])
    for name in ("a.jsonl", "deep/a.csv"):
        result = quiet(Counting(4.0), [X], epochs=4, validate=validate, validate_every=4, log=tmp_path / name)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in lines] == [1, 2, 3, 4]
    assert lines[3]["valid_kl"] == 2.0
    head, *rows = [line.split(",") for line in (tmp_path / "deep" / "a.csv").read_text().splitlines()]
    assert head == ["epoch", "step", "loss", "seconds", "valid_kl"]
    assert [row[-1] for row in rows] == ["", "", "", "3.0"]
    assert [float(row[3]) for row in rows] == [row["seconds"] for row in result.history]


def test_a_row_is_in_the_file_when_its_epoch_ends(tmp_path):
    seen = []

    class Reader:
        def on_epoch(self, info):
            seen.append(len((tmp_path / "a.jsonl").read_text().splitlines()))

    quiet(Counting(), [X], epochs=3, log=tmp_path / "a.jsonl", callbacks=[Reader()])
    assert seen == [1, 2, 3]


def test_tensorboard_gets_the_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    quiet(Counting(8.0), [X] * 2, epochs=3, tensorboard=tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(2, 2.0), (4, 2.0), (6, 2.0)]


def test_tensorboard_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    trainer = Counting()
    with pytest.raises(ImportError, match=r"pip install 'pyro_dgm\[tensorboard\]'"):
        quiet(trainer, [X], epochs=1, tensorboard=tmp_path)
    assert not trainer.calls


def test_progress_is_a_few_lines_where_there_is_no_terminal(capsys):
    fit(Counting(8.0), [X] * 50, epochs=2, validate=lambda: 3.0)
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("epoch 2  step 100/100  loss 2  valid_loss 3  ")
    assert line.endswith("step/s")


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(Counting(8.0), [X] * 50, epochs=2)
    shown = capsys.readouterr().err
    assert "epoch 2: 100%" in shown
    assert "100/100" in shown
    assert "loss 2" in shown


def test_progress_can_be_silent(capsys):
    quiet(Counting(), [X], epochs=1)
    assert capsys.readouterr() == ("", "")


def test_importing_training_imports_nothing_heavy():
    code = "import sys, pyro_dgm.training; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorboard", "matplotlib", "lightning_fabric", "pyro", "arviz", "sklearn"} & set(loaded)


class NoState:
    def step(self):
        return 1.0


BAD_ARGUMENTS = {
    "exactly one of epochs and steps": {},
    "got epochs=1 and steps=1": {"epochs": 1, "steps": 1},
    "epochs must be a whole number from 1; got 0": {"epochs": 0},
    "epochs must be a whole number from 1; got True": {"epochs": True},
    "steps must be a whole number from 1; got 2.5": {"steps": 2.5},
    "validate_every must be": {"epochs": 1, "validate_every": 0},
    "patience must be": {"epochs": 1, "patience": -1},
    "patience, restore_best and ReduceLROnPlateau follow a metric": {"epochs": 1, "patience": 1},
    "mode must be 'min' or 'max'": {"epochs": 1, "mode": "lower"},
    "nonfinite must be 'raise' or 'skip'": {"epochs": 1, "nonfinite": "ignore"},
    "scheduler must be one of torch": {"epochs": 1, "scheduler": 0.1},
    "scheduler_interval must be": {"epochs": 1, "scheduler_interval": "batch"},
    "resume=True needs a folder": {"epochs": 1, "resume": True},
    "checkpoint_every=3 needs a folder": {"epochs": 1, "checkpoint_every": 3},
    "checkpoint_every must be": {"epochs": 1, "checkpoint": "x", "checkpoint_every": 0},
    "log must end in .jsonl or .csv; got 'metrics.txt'": {"epochs": 1, "log": "metrics.txt"},
    "a callback has on_step or on_epoch; got int": {"epochs": 1, "callbacks": [3]},
    "data must be an iterable of batches; got Tensor": {"epochs": 1, "data": X},
    "data must be an iterable of batches; got int": {"epochs": 1, "data": 3},
    "data must give at least one batch an epoch": {"epochs": 1, "data": []},
    "one batch an epoch; got none": {"epochs": 1, "data": iter([])},
    "can be run through 2 times; got a one-shot": {"epochs": 2, "data": iter([X])},
    "a batch must be a tensor, .* got int": {"epochs": 1, "data": [3]},
}


@pytest.mark.parametrize("message", BAD_ARGUMENTS)
def test_a_bad_argument_is_named_before_any_step(message):
    trainer, options = Counting(), dict(BAD_ARGUMENTS[message])
    with pytest.raises((TypeError, ValueError), match=message):
        quiet(trainer, options.pop("data", [X]), **options)
    assert not trainer.calls


def test_what_is_no_trainer_is_named():
    assert not isinstance(NoState(), Trainer)
    with pytest.raises(TypeError, match="a trainer has step, state_dict and load_state_dict; got NoState"):
        quiet(NoState(), [X], epochs=1)


def test_a_plateau_scheduler_per_step_is_refused(regression, batches):
    trainer = regression()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(trainer.optimizer)
    with pytest.raises(ValueError, match="follows a metric of the epoch"):
        quiet(trainer, batches, epochs=1, scheduler=scheduler, scheduler_interval="step", monitor="loss")


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (None, "step must return a float or a mapping .* got NoneType for 'loss'"),
        (torch.ones(2), "a tensor of shape"),
        ({"loss": "1"}, "got str for 'loss'"),
        ({"epoch": 1.0}, "step returned 'epoch'. Rename it"),
    ],
)
def test_a_step_that_returns_something_else_is_named(results, message):
    with pytest.raises((TypeError, ValueError), match=message):
        quiet(Counting(results), [X], epochs=1)


def test_a_batch_without_rows_is_refused():
    with pytest.raises(ValueError, match="the batch of step 2 has none"):
        quiet(Counting(), [X, X[:0]], epochs=1)


def test_a_monitor_that_nobody_reports_is_named():
    with pytest.raises(ValueError, match=r"got 'valid_los'. Use one of .*valid_loss"):
        quiet(Counting(), [X], epochs=1, validate=lambda: 1.0, monitor="valid_los")


def test_data_that_runs_out_is_named():
    with pytest.raises(ValueError, match="can be run through again"):
        quiet(Counting(), iter([X] * 3), steps=5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_ends_the_run_and_spares_the_checkpoint(tmp_path, value):
    trainer = Counting(lambda call: value if call == 5 else 1.0)
    with pytest.raises(FloatingPointError, match=f"step gave loss = {value} at step 5"):
        quiet(trainer, [X] * 2, epochs=9, checkpoint=tmp_path, checkpoint_every=1)
    assert load_checkpoint(tmp_path / "last.ckpt")["trainer"]["place"] == 4
    with pytest.raises(FloatingPointError, match=f"validate gave valid_kl = {value} at step 2"):
        quiet(Counting(), [X] * 2, epochs=1, validate=lambda: {"kl": value})


def test_steps_that_are_not_finite_can_be_skipped_and_are_counted():
    trainer = Counting(lambda call: math.nan if call == 2 else 8.0)
    first, second = quiet(trainer, [X] * 3, epochs=2, nonfinite="skip").history
    assert (first["loss"], first["skipped"]) == (2.0, 1)
    assert "skipped" not in second
    with pytest.raises(FloatingPointError, match="got 3 skipped"):
        quiet(Counting(math.nan), [X] * 3, epochs=2, nonfinite="skip")


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    quiet(Counting(), [X], epochs=1, checkpoint=tmp_path, log=tmp_path / "a.csv")
    before = (tmp_path / "last.ckpt").read_bytes(), (tmp_path / "a.csv").read_bytes()
    trainer = Counting()
    with pytest.raises(ValueError, match=r"already holds one. Go on with resume=True, or choose another folder"):
        quiet(trainer, [X], epochs=1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"already holds rows. Go on with resume=True, choose another path"):
        quiet(trainer, [X], epochs=1, log=tmp_path / "a.csv")
    assert before == ((tmp_path / "last.ckpt").read_bytes(), (tmp_path / "a.csv").read_bytes())
    assert not trainer.calls


def test_a_folder_whose_run_took_no_step_is_free(tmp_path):
    with pytest.raises(TypeError):
        quiet(Counting(), [3], epochs=1, checkpoint=tmp_path)
    assert quiet(Counting(), [X], epochs=1, checkpoint=tmp_path).steps == 1


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="checkpoint must be a folder"):
        quiet(Counting(), [X], epochs=1, checkpoint=tmp_path / "file")


def test_a_state_that_cannot_be_saved_is_named_before_any_step(tmp_path):
    trainer = Counting()
    trainer.place = object()
    trainer.state_dict = lambda: {"optimizer": {"state": {0: {"step": object()}}}}
    with pytest.raises(TypeError, match=r"got builtins.object at trainer.optimizer.state.0.step"):
        quiet(trainer, [X], epochs=1, checkpoint=tmp_path)
    assert not trainer.calls


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint(tmp_path):
    class FillDisk:
        def on_step(self, info):
            if info.step == 3:
                (tmp_path / "last.ckpt.tmp").symlink_to("/dev/full")

    with pytest.raises(CheckpointError, match="Free space"):
        quiet(Counting(), [X], epochs=9, checkpoint=tmp_path, callbacks=[FillDisk()])
    assert load_checkpoint(tmp_path / "last.ckpt")["step"] == 2
    trainer = Counting()
    assert quiet(trainer, [X], epochs=9, checkpoint=tmp_path, resume=True).steps == 9
    assert trainer.place == 9
