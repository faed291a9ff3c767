"""A run that was interrupted and resumed is bitwise equal to one that was not."""

import random
import signal

import numpy as np
import pytest
import torch

from pyro_dgm.training import CheckpointError, StopTraining, fit, load_checkpoint, save_checkpoint

PER_EPOCH = 5


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def check_equal(one, other):
    (trainer, result), (same, resumed) = one, other
    assert trainer.weights == same.weights
    assert without_seconds(result.history) == without_seconds(resumed.history)
    assert (result.best_step, result.epochs, result.steps) == (resumed.best_step, resumed.epochs, resumed.steps)


def random_draws():
    return torch.rand(2).tolist(), random.random(), np.random.rand()  # noqa: NPY002


def step_lr(trainer):
    return {"scheduler": torch.optim.lr_scheduler.StepLR(trainer.optimizer, 1, 0.5)}


def one_cycle(trainer):
    scheduler = torch.optim.lr_scheduler.OneCycleLR(trainer.optimizer, 0.3, total_steps=100)
    return {"scheduler": scheduler, "scheduler_interval": "step"}


def plateau(trainer):
    return {
        "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(trainer.optimizer, "max", patience=0),
        "monitor": "loss",
    }


class Recorder:
    """A callback whose state is part of the run."""

    def __init__(self):
        self.total = 0.0

    def on_step(self, info):
        self.total += info.metrics["loss"]

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


@pytest.mark.parametrize(("crash_at", "every"), [(13, None), (11, None), (13, 1), (13, 3), (16, 5), (11, 2), (2, None)])
def test_resume_is_bitwise_for_any_data(make_data, straight, interrupted, crash_at, every):
    expected = straight(make_data, epochs=4)
    draws = random_draws()
    got = interrupted(make_data, crash_at, epochs=4, checkpoint_every=every)
    check_equal(expected, got)
    assert random_draws() == draws
    lost = (crash_at - 1) % (every or PER_EPOCH)
    assert expected[0].seen[crash_at - 1 - lost :] == got[0].seen


@pytest.mark.parametrize("build", [step_lr, one_cycle, plateau])
@pytest.mark.parametrize("crash_at", [8, 11])
def test_resume_is_bitwise_with_a_scheduler(make_loader, straight, interrupted, build, crash_at):
    options = {"epochs": 4, "checkpoint_every": 2, "build": build}
    expected, got = straight(make_loader, **options), interrupted(make_loader, crash_at, **options)
    check_equal(expected, got)
    assert len({row["lr"] for row in got[1].history}) > 1


def test_resume_is_bitwise_with_validation_and_a_callback(make_loader, straight, interrupted):
    recorders = []

    def build(trainer):
        recorders.append(Recorder())
        noise = lambda: {"loss": sum(trainer.weights) + torch.rand(()), "draw": random.random()}  # noqa: E731
        return {"validate": noise, "callbacks": recorders[-1:]}

    options = {"epochs": 6, "validate_every": 2, "patience": 2, "build": build}
    expected, got = straight(make_loader, **options), interrupted(make_loader, 18, **options)
    check_equal(expected, got)
    assert recorders[0].total == recorders[2].total


def test_resume_is_bitwise_with_steps(make_data, straight, interrupted):
    expected = straight(make_data, steps=18)
    check_equal(expected, interrupted(make_data, 13, steps=18, checkpoint_every=1))


def drop_optimizer(state):
    state["trainer"]["optimizer"]["state"] = {}


def drop_rng(state):
    state["rng"]["torch"] = torch.Generator().manual_seed(99).get_state()


def drop_data(state):
    state["data"]["start"]["rng"]["torch"] = torch.Generator().manual_seed(99).get_state()


@pytest.mark.parametrize("drop", [drop_optimizer, drop_rng, drop_data])
def test_each_part_of_the_state_is_needed(regression, make_loader, straight, tmp_path, drop, reseed):
    expected, _ = straight(make_loader, epochs=3)
    reseed()
    with pytest.raises(ConnectionError):
        fit(regression(crash_at=9), make_loader(), epochs=3, checkpoint=tmp_path, checkpoint_every=1, progress=False)
    state = load_checkpoint(tmp_path / "last.ckpt")
    drop(state)
    save_checkpoint(tmp_path / "last.ckpt", state)
    trainer = regression()
    fit(trainer, make_loader(), epochs=3, checkpoint=tmp_path, resume=True, progress=False)
    assert trainer.weights != expected.weights


@pytest.mark.parametrize("first", [10, 7])
@pytest.mark.parametrize("limit", ["epochs", "steps"])
def test_a_finished_run_goes_on_as_if_it_had_been_longer(
    regression, make_data, straight, tmp_path, capsys, limit, first, reseed
):
    scale = PER_EPOCH if limit == "epochs" else 1
    first = first // scale
    validate = {"validate": lambda: float(torch.rand(()))}
    expected = straight(make_data, **{limit: 18 // scale}, **validate)
    reseed()
    options = {"checkpoint": tmp_path, "log": tmp_path / "log.csv", **validate}
    done = fit(regression(), make_data(), **{limit: first}, **options, progress=False)
    rows = (tmp_path / "log.csv").read_text()

    trainer = regression()
    again = fit(trainer, make_data(), **{limit: first}, **options, resume=True)
    assert "Nothing left to do" in capsys.readouterr().err
    assert again._replace(seconds=0) == done._replace(seconds=0)
    assert trainer.steps == 0
    assert (tmp_path / "log.csv").read_text() == rows

    trainer = regression()
    got = fit(trainer, make_data(), **{limit: 18 // scale}, **options, resume=True, progress=False)
    check_equal(expected, (trainer, got))


def test_a_run_killed_before_its_closing_row_gets_it_on_resuming(regression, make_loader, straight, tmp_path, reseed):
    expected = straight(make_loader, steps=7)
    reseed()
    fit(regression(), make_loader(), steps=7, checkpoint=tmp_path, progress=False)
    state = load_checkpoint(tmp_path / "last.ckpt")
    del state["closing"]
    save_checkpoint(tmp_path / "last.ckpt", state)
    trainer = regression()
    check_equal(
        expected, (trainer, fit(trainer, make_loader(), steps=7, checkpoint=tmp_path, resume=True, progress=False))
    )
    assert "closing" in load_checkpoint(tmp_path / "last.ckpt")


def test_rows_after_the_checkpoint_are_not_doubled(straight, make_loader, interrupted, tmp_path):
    _, result = interrupted(make_loader, 14, epochs=4, checkpoint_every=8, log=tmp_path / "log.jsonl")
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [f'"epoch": {epoch},' in line for epoch, line in enumerate(lines, 1)] == [True] * 4
    assert len(result.history) == 4


def test_one_generator_of_batches_can_be_resumed(regression, batches, straight, interrupted):
    once = lambda: (batch for batch in batches)  # noqa: E731
    check_equal(straight(once, epochs=1), interrupted(once, 4, epochs=1, checkpoint_every=1))


def test_the_best_state_survives_a_resume(regression, batches, interrupted):
    values = iter([3.0, 1.0, 2.0, 2.5, 2.7, 2.8])
    seen = {}

    def build(trainer):
        def validate():
            seen[value := next(values)] = trainer.weights
            return value

        return {"validate": validate, "patience": 9}

    trainer, result = interrupted(lambda: batches, 18, build=build, epochs=6)
    assert result.best_step == 10
    assert trainer.weights == seen[1.0]


class PressCtrlC:
    def __init__(self, step, times=1):
        self.step, self.times = step, times

    def on_step(self, info):
        if info.step == self.step:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("step", [7, 10])
def test_ctrl_c_saves_the_step_and_is_raised(regression, make_data, straight, tmp_path, capsys, step, reseed):
    expected = straight(make_data, epochs=4)
    reseed()
    with pytest.raises(KeyboardInterrupt):
        fit(regression(), make_data(), epochs=4, checkpoint=tmp_path, callbacks=[PressCtrlC(step)], progress=False)
    assert "ends after this step" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert load_checkpoint(tmp_path / "last.ckpt")["step"] == step
    torch.manual_seed(5)
    trainer = regression()
    got = fit(trainer, make_data(), epochs=4, checkpoint=tmp_path, resume=True, progress=False)
    check_equal(expected, (trainer, got))


def test_a_second_ctrl_c_saves_nothing(regression, batches, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(regression(), batches, epochs=4, checkpoint=tmp_path, callbacks=[PressCtrlC(7, times=2)], progress=False)
    assert load_checkpoint(tmp_path / "last.ckpt")["step"] == 5


class StopAt:
    def __init__(self, step):
        self.step = step

    def on_step(self, info):
        if info.step == self.step:
            raise StopTraining


@pytest.mark.parametrize("step", [7, 10])
def test_a_run_that_a_callback_stopped_goes_on(regression, make_data, straight, tmp_path, step, reseed):
    expected = straight(make_data, epochs=3)
    reseed()
    stopped = fit(regression(), make_data(), epochs=3, checkpoint=tmp_path, callbacks=[StopAt(step)], progress=False)
    assert (stopped.steps, stopped.stopped_early) == (step, True)
    trainer = regression()
    got = fit(trainer, make_data(), epochs=3, checkpoint=tmp_path, resume=True, progress=False)
    check_equal(expected, (trainer, got))


@pytest.fixture
def begun(regression, batches, tmp_path):
    fit(regression(), batches, epochs=1, checkpoint=tmp_path, progress=False)
    return tmp_path


def resume(trainer, batches, folder, **options):
    return fit(trainer, batches, epochs=2, checkpoint=folder, resume=True, progress=False, **options)


def test_a_checkpoint_of_another_architecture_changes_nothing(regression, batches, begun):
    trainer = regression(features=4)
    with pytest.raises(CheckpointError, match=r"trainer.model.1.weight is float32\[1, 3\], not float32\[1, 4\]"):
        resume(trainer, batches, begun)
    assert set(trainer.weights) == {trainer.weights[0]}


def test_a_scheduler_or_callback_that_was_not_there_is_named(regression, batches, begun):
    with pytest.raises(CheckpointError, match="scheduler is missing"):
        resume(trainer := regression(), batches, begun, **step_lr(trainer))
    with pytest.raises(CheckpointError, match="callback 0 Recorder is missing"):
        resume(regression(), batches, begun, callbacks=[Recorder()])


def test_a_trainer_that_refuses_the_state_is_left_as_it_was(regression, batches, begun):
    trainer = regression()
    before = trainer.weights
    state = load_checkpoint(begun / "last.ckpt")
    state["trainer"]["optimizer"]["param_groups"][0]["params"] = []
    save_checkpoint(begun / "last.ckpt", state)
    with pytest.raises(CheckpointError, match="the trainer refused it"):
        resume(trainer, batches, begun)
    assert trainer.weights == before


def test_other_data_is_refused(regression, batches, make_loader, tmp_path):
    with pytest.raises(ConnectionError):
        fit(regression(crash_at=5), batches, epochs=1, checkpoint=tmp_path, checkpoint_every=1, progress=False)
    with pytest.raises(ValueError, match="used 4 batches of its epoch, and data gave 3"):
        resume(regression(), batches[:3], tmp_path)


def test_best_ckpt_in_place_of_last_is_refused(regression, batches, tmp_path):
    fit(regression(), batches, epochs=1, checkpoint=tmp_path, monitor="loss", progress=False)
    (tmp_path / "best.ckpt").replace(tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"last.ckpt differs: data is missing"):
        resume(regression(), batches, tmp_path)


def test_data_of_another_kind_is_refused(regression, begun, own_order):
    with pytest.raises(CheckpointError, match=r"data.data is missing; data.start is unexpected"):
        resume(regression(), own_order, begun)


def test_resuming_nothing_is_refused(regression, batches, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no .*last.ckpt"):
        resume(regression(), batches, tmp_path)
