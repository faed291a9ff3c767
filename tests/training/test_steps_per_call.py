"""Several steps in one call are the steps taken one by one, wherever calls are cut."""

import functools
import signal

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from pyro_dgm.infer import ELBO, SVI, KLAnnealing, Linear
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.training import StopTraining, fit, load_checkpoint

PER_EPOCH = 5


@pytest.fixture
def several(regression):
    """The trainer with `steps`, which notes how many each call took; its own `steps` is a counter."""

    class Several:
        def __init__(self, **options):
            self.one = regression(**options)
            self.calls = []
            self.step, self.state_dict, self.load_state_dict = (
                self.one.step,
                self.one.state_dict,
                self.one.load_state_dict,
            )

        def steps(self, batches):
            self.calls.append(len(batches))
            return [self.one.step(*batch) for batch in batches]

        @property
        def weights(self):
            return self.one.weights

    return Several


class Listener:
    """Notes what it is told; raises what it is given at a step."""

    def __init__(self, at=None, act=None):
        self.at, self.act, self.heard = at, act, []

    def on_step(self, info):
        self.heard.append((info.epoch, info.step, info.metrics["loss"]))
        if info.step == self.at:
            self.act()

    def state_dict(self):
        return {"heard": list(self.heard)}

    def load_state_dict(self, state):
        self.heard = list(state["heard"])


def run(trainer, data, **options):
    listener = Listener()
    result = fit(trainer, data, callbacks=[listener], progress=False, **options)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in result.history]
    return rows, listener.heard, trainer.weights, result.epochs, result.steps


@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 13}, {"steps": 10}, {"steps": 2}])
@pytest.mark.parametrize("num", [2, 3, 5, 8])
def test_the_steps_are_those_taken_one_by_one(several, make_data, reseed, num, length):
    expected = run(several(), make_data(), **length)
    reseed()
    trainer = several()
    assert run(trainer, make_data(), steps_per_call=num, **length) == expected
    assert max(trainer.calls) == min(num, PER_EPOCH, length.get("steps", PER_EPOCH))


def test_calls_are_cut_at_the_end_of_an_epoch_at_checkpoints_and_at_the_last_step(several, batches, tmp_path):
    trainer = several()
    fit(trainer, batches, epochs=2, steps_per_call=3, progress=False)
    assert trainer.calls == [3, 2, 3, 2]
    trainer = several()
    fit(trainer, batches, steps=9, steps_per_call=3, checkpoint=tmp_path, checkpoint_every=4, progress=False)
    assert trainer.calls == [3, 3]  # and single steps: 3 1 | 1 3 | 1
    assert trainer.one.steps == 9


def test_one_step_per_call_never_calls_steps(several, batches):
    trainer = several()
    fit(trainer, batches, epochs=2, progress=False)
    assert trainer.calls == []


def test_a_partial_last_batch_weighs_its_rows(several, reseed):
    x = torch.arange(33.0).reshape(11, 3).sin()
    data = list(zip(x.split(4), x.sum(-1).split(4), strict=True))
    assert [len(rows) for rows, _ in data] == [4, 4, 3]
    expected = run(several(), data, epochs=4)
    for num in (2, 3, 7):
        reseed()
        assert run(several(), data, epochs=4, steps_per_call=num) == expected


class Stream(IterableDataset):
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize("num", [2, 3, 5, 9])
def test_data_without_a_length(several, batches, reseed, num):
    expected = run(several(), DataLoader(Stream(batches), batch_size=None), epochs=3)
    reseed()
    assert run(several(), DataLoader(Stream(batches), batch_size=None), epochs=3, steps_per_call=num) == expected
    reseed()
    trainer = several()
    endless = iter(lambda: batches[0], None)
    assert run(trainer, endless, steps=7, steps_per_call=num)[-1] == 7
    assert trainer.one.steps == 7


@pytest.mark.parametrize("num", [2, 3, 8])
@pytest.mark.parametrize(("crash_at", "every"), [(13, None), (13, 1), (13, 3), (14, 4)])
def test_resume_is_bitwise_with_any_calls(several, make_data, reseed, tmp_path, num, crash_at, every):
    expected = run(several(), make_data(), epochs=4)
    reseed()
    options = {"epochs": 4, "checkpoint": tmp_path, "checkpoint_every": every, "steps_per_call": num}
    crashing = several(crash_at=crash_at)
    with pytest.raises(ConnectionError):
        run(crashing, make_data(), **options)
    saved = load_checkpoint(tmp_path / "last.ckpt")["step"]
    assert saved == (crash_at - 1) // (every or PER_EPOCH) * (every or PER_EPOCH)
    torch.manual_seed(77)
    trainer = several()
    assert run(trainer, make_data(), resume=True, **options) == expected
    assert trainer.one.steps == 20 - saved


def test_a_checkpoint_of_single_steps_goes_on_in_calls_and_back(several, make_loader, reseed, tmp_path):
    expected = run(several(), make_loader(), steps=17)
    reseed()
    for steps, num in ((7, 1), (13, 4), (17, 2)):
        found = run(several(), make_loader(), steps=steps, steps_per_call=num, checkpoint=tmp_path, resume=steps > 7)
    assert found == expected


def stop():
    raise StopTraining


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("at", "ends"), [(1, 3), (3, 3), (4, 5), (7, 8)])
@pytest.mark.parametrize(("act", "error"), [(stop, None), (press_ctrl_c, KeyboardInterrupt)])
def test_what_ends_a_run_waits_for_the_call(several, make_data, reseed, tmp_path, at, ends, act, error):
    expected = run(several(), make_data(), epochs=2)
    reseed()
    listener = Listener(at, act)
    options = {"epochs": 2, "checkpoint": tmp_path, "steps_per_call": 3, "progress": False}
    if error is None:
        assert fit(several(), make_data(), callbacks=[listener], **options).stopped_early
    else:
        with pytest.raises(error):
            fit(several(), make_data(), callbacks=[listener], **options)
    assert [step for _, step, _ in listener.heard] == list(range(1, ends + 1))
    assert load_checkpoint(tmp_path / "last.ckpt")["step"] == ends
    assert run(several(), make_data(), epochs=2, checkpoint=tmp_path, steps_per_call=3, resume=True) == expected


class Once:
    """Stateful data without a length, of five batches an epoch."""

    def __init__(self, batches):
        self.batches, self.place = batches, 0

    def __iter__(self):
        while self.place < len(self.batches):
            self.place += 1
            yield self.batches[self.place - 1]
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


@pytest.mark.parametrize("at", [2, 4, 5])
def test_a_run_stopped_where_stateful_data_has_run_out_goes_on(several, batches, reseed, tmp_path, at):
    expected = run(several(), batches, epochs=2)
    reseed()
    options = {"epochs": 2, "checkpoint": tmp_path, "steps_per_call": 3, "progress": False}
    fit(several(), Once(batches), callbacks=[Listener(at, stop)], **options)
    assert run(several(), Once(batches), epochs=2, checkpoint=tmp_path, steps_per_call=3, resume=True) == expected


def test_a_loss_that_is_not_finite_is_named_by_its_step(several, batches):
    class Broken(several):
        def steps(self, given):
            return [float("nan") if number == 3 else 1.0 for number, _ in enumerate(given)]

    with pytest.raises(FloatingPointError, match="step gave loss = nan at step 4"):
        fit(Broken(), batches, epochs=1, steps_per_call=5, progress=False)
    (row,) = fit(Broken(), batches, epochs=1, steps_per_call=5, nonfinite="skip", progress=False).history
    assert row["skipped"] == 1


# SVI


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3)

    def forward(self, x):
        pyro.module("model", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, x):
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


def train_svi(num, compile=False, annealing=None, **options):
    pyro.clear_param_store()
    torch.manual_seed(0)
    data = list(torch.randn(38, 3).split(4))  # nine batches and a half
    model, guide = Model(), Guide()
    programs = (model, guide) if annealing is None else (annealing(model), annealing(guide))
    svi = SVI(*programs, functools.partial(torch.optim.Adam, lr=0.02), ELBO(), compile=compile, report_every=1)
    result = fit(svi, data, epochs=5, steps_per_call=num, progress=False, **options)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in result.history]
    return rows, [parameter.detach() for parameter in (*model.parameters(), *guide.parameters())]


@pytest.mark.parametrize("num", [2, 3, 25])
@pytest.mark.parametrize("compile", [False, Compiler("graph", wait=True, quiet=True)], ids=["as written", "compiled"])
def test_svi_takes_the_same_steps_in_calls(compile, num):
    (expected, weights), (found, same) = train_svi(1, compile), train_svi(num, compile)
    assert found == expected
    assert all(map(torch.equal, weights, same))


def test_annealed_programs_are_reported_at_every_step():
    expected, weights = train_svi(1, annealing=KLAnnealing(Linear(0.0, 1.0, over=20)))
    found, same = train_svi(4, annealing=KLAnnealing(Linear(0.0, 1.0, over=20)))
    assert found == expected
    assert all(map(torch.equal, weights, same))
    assert {"kl_weight", "elbo"} <= found[0].keys()


# Bad input


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, None, "2"])
def test_a_number_of_steps_that_is_none(several, batches, bad):
    trainer = several()
    with pytest.raises(ValueError, match=f"steps_per_call must be a whole number from 1; got {bad!r}. 1 takes"):
        fit(trainer, batches, epochs=1, steps_per_call=bad, progress=False)
    assert trainer.one.steps == 0


def test_a_trainer_without_steps_is_named(regression, batches):
    with pytest.raises(TypeError, match=r"needs a trainer with steps, .* got Regression without. Use steps_per_call=1"):
        fit(regression(), batches, epochs=1, steps_per_call=2, progress=False)


def test_a_scheduler_of_each_step_is_refused(several, batches):
    trainer = several()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(trainer.one.optimizer, 0.5)
    options = {"epochs": 1, "scheduler": scheduler, "progress": False, "steps_per_call": 2}
    with pytest.raises(ValueError, match="stands still within a call; got scheduler_interval='step'"):
        fit(trainer, batches, scheduler_interval="step", **options)
    assert len(fit(trainer, batches, **options).history) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [([{"x": torch.ones(2)}] * 2, "got a mapping of keyword arguments"), ([3, 3], "a batch must be .* got int")],
)
def test_batches_that_steps_cannot_take(several, data, message):
    with pytest.raises(TypeError, match=message):
        fit(several(), data, epochs=1, steps_per_call=2, progress=False)


def test_steps_that_return_too_few_losses_are_named(several, batches):
    trainer = several()
    trainer.steps = lambda given: [1.0]
    with pytest.raises(ValueError, match="got 1 results for 3 batches"):
        fit(trainer, batches, epochs=1, steps_per_call=3, progress=False)
