"""`fit` with a KL weight that changes: both numbers are reported, and the schedule must end before training does."""

import functools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from contracts import refuses
from pyro_dgm.infer import ELBO, SVI
from pyro_dgm.infer.annealing import KLAnnealing
from pyro_dgm.infer.schedules import Cyclical, Linear
from pyro_dgm.training import fit

PER_EPOCH = 5


class Programs(pyro.nn.PyroModule):
    """A linear encoder, and a standard normal prior."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(0.2))
        self.noise = torch.nn.Parameter(torch.tensor(0.5))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, self.noise.exp()), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, 0.5))


def trainer_of(schedule, **options):
    programs, annealing = Programs(), KLAnnealing(schedule)
    optim = functools.partial(torch.optim.Adam, lr=0.05)
    return SVI(annealing(programs.model), annealing(programs.guide), optim, ELBO(), **options)


def loader():
    return DataLoader(TensorDataset(torch.linspace(-1, 1, 20).sin()), batch_size=4, shuffle=True)


class Stream:
    """Data of unknown length."""

    def __iter__(self):
        return iter(loader())


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def weights_of(trainer):
    return [parameter.item() for group in trainer.optimizer.param_groups for parameter in group["params"]]


def test_the_objective_and_the_unweighted_elbo_are_both_reported():
    """Pitfall 13: the last batch of every epoch has its ELBO."""
    trainer = trainer_of(Linear(0.0, 1.0, over=10))
    told = []

    class Tell:
        def on_step(self, info):
            told.append(info.metrics)

    history = fit(trainer, loader(), epochs=4, callbacks=[Tell()], progress=False).history
    assert [row["kl_weight"] for row in history] == pytest.approx([0.2, 0.7, 1.0, 1.0])
    assert all({"loss", "elbo"} <= row.keys() for row in history)
    assert [step for step, metrics in enumerate(told, 1) if "elbo" in metrics] == [1, 5, 10, 15, 20]
    assert history[1]["elbo"] == pytest.approx(told[9]["elbo"])
    assert history[0]["elbo"] == pytest.approx((told[0]["elbo"] + told[4]["elbo"]) / 2)
    assert told[9].keys() == {"loss", "kl_weight", "elbo"}


def test_with_a_weight_of_one_the_loss_is_minus_the_elbo():
    """In the mean over 400 epochs; 5 standard errors of the difference."""
    trainer = trainer_of(Linear(1.0, 1.0, over=1))
    trainer.optimizer.param_groups[0]["lr"] = 0.0
    x = torch.linspace(-1, 1, 20).sin()
    history = fit(trainer, [x], epochs=400, progress=False).history
    sums = torch.tensor([row["loss"] + row["elbo"] for row in history], dtype=torch.float64)
    assert sums.mean().abs() < 5 * sums.std() / 20


@pytest.mark.parametrize(
    ("length", "schedule"),
    [
        ({"epochs": 2}, Linear(0.0, 1.0, over=11)),
        ({"steps": 9}, Linear(0.0, 1.0, over=10)),
        ({"epochs": 3}, Linear(0.0, 1.0, over=4, steps_per_epoch=PER_EPOCH)),
        ({"epochs": 2}, Cyclical(0.0, 1.0, over=12, cycles=2, proportion=0.9)),
    ],
)
def test_a_schedule_longer_than_training_is_refused_before_the_first_step(length, schedule, tmp_path):
    """Pitfall 15."""
    trainer = trainer_of(schedule)
    before = weights_of(trainer)
    total = length.get("steps", length.get("epochs", 0) * PER_EPOCH)
    with refuses(ValueError, f"got {total} steps", f"needs {schedule.num_steps_needed}"):
        fit(trainer, loader(), **length, checkpoint=tmp_path / "run", progress=False)
    assert weights_of(trainer) == before
    assert schedule.num_steps == 0
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.ckpt"))


@pytest.mark.parametrize("length", [{"epochs": 2}, {"steps": 10}])
def test_a_schedule_that_just_ends_is_accepted(length):
    trainer = trainer_of(Linear(0.0, 1.0, over=10))
    fit(trainer, loader(), **length, progress=False)
    assert trainer.schedules()[0].value == 1.0


def test_steps_taken_before_count():
    trainer = trainer_of(Linear(0.0, 1.0, over=10))
    for _ in range(5):
        trainer.step(torch.ones(3))
    fit(trainer, loader(), epochs=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(trainer, loader(), epochs=1, progress=False)


def test_a_resumed_run_counts_the_steps_it_has_taken(tmp_path):
    trainer = trainer_of(Linear(0.0, 1.0, over=10))
    with pytest.raises(ConnectionError):
        fit(trainer, loader(), epochs=2, checkpoint=tmp_path, callbacks=[Crash(8)], progress=False)
    resumed = trainer_of(Linear(0.0, 1.0, over=10))
    result = fit(resumed, loader(), epochs=2, checkpoint=tmp_path, resume=True, progress=False)
    assert (result.steps, resumed.schedules()[0].num_steps) == (10, 10)


def test_a_resumed_run_that_is_too_short_for_a_longer_schedule_is_refused(tmp_path):
    """Pitfall 15: the schedule of the resumed trainer is the one that counts."""
    fit(trainer_of(Linear(0.0, 1.0, over=5)), loader(), epochs=1, checkpoint=tmp_path, progress=False)
    resumed = trainer_of(Linear(0.0, 1.0, over=11))
    with refuses(ValueError, "5 of them taken", "needs 11"):
        fit(resumed, loader(), epochs=2, checkpoint=tmp_path, resume=True, progress=False)
    fit(trainer_of(Linear(0.0, 1.0, over=11)), loader(), epochs=3, checkpoint=tmp_path, resume=True, progress=False)


def test_an_unknown_length_is_warned_of_once_at_the_end(tmp_path):
    """Pitfall 15, where it cannot be known before; resuming the finished run repeats nothing."""
    trainer = trainer_of(Linear(0.0, 1.0, over=11))
    with pytest.warns(UserWarning, match="10 of 11 steps") as caught:
        fit(trainer, Stream(), epochs=2, checkpoint=tmp_path, progress=False)
    assert len(caught) == 1
    again = trainer_of(Linear(0.0, 1.0, over=11))
    fit(again, Stream(), epochs=2, checkpoint=tmp_path, resume=True, progress=False)
    fit(again, Stream(), epochs=3, checkpoint=tmp_path, resume=True, progress=False)


def test_a_run_stopped_early_is_warned_of():
    """Pitfall 15: patience can end a run that was long enough."""
    trainer = trainer_of(Linear(0.0, 1.0, over=20))
    values = iter([1.0, 2.0, 3.0, 4.0])
    with pytest.warns(UserWarning, match="10 of 20 steps"):
        fit(trainer, loader(), epochs=4, validate=lambda: next(values), patience=1, restore_best=False, progress=False)


class Crash:
    """Ends the process at a step, as a failing machine would."""

    def __init__(self, step):
        self.step = step

    def on_step(self, info):
        if info.step == self.step:
            raise ConnectionError("the machine is gone")


@pytest.mark.parametrize(("crash_at", "every"), [(8, None), (12, 1), (13, 3), (5, 2)])
def test_resume_is_bitwise_with_annealing(tmp_path, reseed, crash_at, every):
    """Pitfall 19, with a weight that changes at every step and an ELBO at some."""
    schedule = functools.partial(Linear, 0.0, 1.0, over=17)
    straight = trainer_of(schedule(), report_every=4)
    expected = fit(straight, loader(), epochs=4, progress=False)
    reseed()
    options = {"epochs": 4, "checkpoint": tmp_path, "checkpoint_every": every, "progress": False}
    with pytest.raises(ConnectionError):
        fit(trainer_of(schedule(), report_every=4), loader(), callbacks=[Crash(crash_at)], **options)
    torch.manual_seed(99)
    resumed = trainer_of(schedule(), report_every=4)
    got = fit(resumed, loader(), resume=True, **options)
    assert weights_of(resumed) == weights_of(straight)
    assert without_seconds(got.history) == without_seconds(expected.history)
    assert resumed.schedules()[0].num_steps == 20


def test_a_finished_run_goes_on_as_if_it_had_been_longer(tmp_path, reseed):
    """An epoch cut short has no report that the same epoch in a longer run would not have."""
    straight = trainer_of(Linear(0.0, 1.0, over=7))
    expected = fit(straight, loader(), steps=18, progress=False)
    reseed()
    fit(trainer_of(Linear(0.0, 1.0, over=7)), loader(), steps=8, checkpoint=tmp_path, progress=False)
    resumed = trainer_of(Linear(0.0, 1.0, over=7))
    got = fit(resumed, loader(), steps=18, checkpoint=tmp_path, resume=True, progress=False)
    assert without_seconds(got.history) == without_seconds(expected.history)


class Reports:
    """A trainer that is no SVI."""

    def __init__(self, report):
        self._report, self.full = report, []

    def step(self, x):
        return float(len(x))

    def report(self, *, full=False):
        self.full.append(full)
        return self._report

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_any_trainer_may_report():
    trainer = Reports({"speed": 3.0})
    history = fit(trainer, [torch.ones(4), torch.ones(2)], epochs=2, progress=False).history
    assert [(row["loss"], row["speed"]) for row in history] == [(1.0, 3.0)] * 2
    assert trainer.full == [False, True] * 2


def test_a_report_that_repeats_a_name_or_is_not_finite_is_refused():
    with refuses(ValueError, "['loss']"):
        fit(Reports({"loss": 1.0}), [torch.ones(4)], epochs=1, progress=False)
    with pytest.raises(FloatingPointError, match="speed"):
        fit(Reports({"speed": float("nan")}), [torch.ones(4)], epochs=1, progress=False)
    with pytest.raises(ValueError, match="fit's own"):
        fit(Reports({"lr": 1.0}), [torch.ones(4)], epochs=1, progress=False)
