"""What a ``PyroOptim`` asks for beside its optimiser: clipping of each parameter, and schedulers. The truth is Pyro."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from contracts import refuses
from pyro_dgm.infer import ELBO, SVI
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.training import fit

STEPS = 18
GRAPH = Compiler("graph", wait=True, quiet=True)


def model(x):
    """The gradient of ``gain`` is much larger than that of the rest."""
    loc = pyro.param("loc", torch.zeros(3))
    gain = pyro.param("gain", torch.tensor(0.2))
    scale = pyro.param("scale", torch.tensor(0.8), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc + 5.0 * gain * z[:, None], scale).to_event(1), obs=x)


def guide(x):
    net = guide.net
    pyro.module("net", net)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(net(x)[:, 0], 0.7))


def values():
    return {name: value.detach().clone() for name, value in pyro.get_param_store().named_parameters()}


def batch(step):
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(step)) + 1.0


def train(svi_class, make, *, steps=STEPS, every=3, metric=None, **options):
    """The parameters after so many steps, with a scheduler that is stepped after every three; and the trainer."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    guide.net = nn.Linear(3, 1)
    optim = make()
    svi = svi_class(model, guide, optim, Trace_ELBO(), **options)
    for step in range(steps):
        torch.manual_seed(step)
        svi.step(batch(step))
        if isinstance(optim, pyro.optim.PyroLRScheduler) and step % every == every - 1:
            optim.step(*(() if metric is None else (metric(step),)))
    return values(), svi


def check(make, tolerance=1e-5, **options):
    """As with Pyro, as written and compiled; compiled once."""
    expected, _ = train(pyro.infer.SVI, make, **options)
    found, _ = train(SVI, make, **options)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    found, svi = train(SVI, make, compile=GRAPH, **options)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert svi.compiled.refusals == []
    assert svi.compiled.num_compiled == 1
    return expected


# Clipping


def by_name(module, name):
    """As Pyro asks: by the module's name and the parameter's."""
    return {"clip_norm": 0.5} if name == "gain" else {"clip_value": 0.1} if module == "net" else {}


CLIPS = {
    "norm": {"clip_norm": 2.0},
    "value": {"clip_value": 1.0},
    "both": {"clip_norm": 2.0, "clip_value": 0.5},
    "none": {"clip_norm": None},
    "by name": by_name,
}
MAKERS = {
    "Adam": lambda clip: pyro.optim.Adam({"lr": 0.05}, clip),
    "SGD": lambda clip: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.5}, clip),
    "SGD by name": lambda clip: pyro.optim.SGD(lambda name: {"lr": 1e-3 if name == "gain" else 2e-3}, clip),
    "ClippedAdam": lambda clip: pyro.optim.PyroOptim(pyro.optim.clipped_adam.ClippedAdam, {"lr": 0.05}, clip),
    "RMSprop, outside of the graph": lambda clip: pyro.optim.RMSprop({"lr": 0.01}, clip),
}


@pytest.mark.parametrize(
    ("make", "clip"), [*(("Adam", clip) for clip in CLIPS), *((make, "both") for make in MAKERS), ("SGD", "by name")]
)
def test_each_parameter_is_clipped_as_pyro_does(make, clip):
    check(lambda: MAKERS[make](CLIPS[clip]))


@pytest.mark.parametrize("clip", ["norm", "value", "both", "by name"])
def test_the_clipping_bites(clip):
    free, _ = train(SVI, lambda: MAKERS["SGD"](None))
    clipped, _ = train(SVI, lambda: MAKERS["SGD"](CLIPS[clip]))
    assert not torch.allclose(clipped["gain"], free["gain"], atol=0.02)


def test_clip_args_may_be_a_function_of_the_name_as_optim_args_are():
    names = set()

    def limits(name):
        names.add(name)
        return by_name(name.split(".")[0], name)

    found, _ = train(SVI, lambda: MAKERS["SGD"](limits))
    expected, _ = train(SVI, lambda: MAKERS["SGD"](by_name))
    assert names == {"loc", "gain", "scale", "net.weight", "net.bias"}
    torch.testing.assert_close(found, expected)


def test_the_global_norm_is_clipped_first():
    """Under SGD with a rate of one a step is the gradient."""
    before, _ = train(SVI, lambda: pyro.optim.SGD({"lr": 0.0}), steps=1)
    moves = {}
    for clip_norm in (None, 1.0):
        make = functools.partial(pyro.optim.SGD, {"lr": 1.0}, {"clip_value": 0.5})
        after, _ = train(SVI, make, steps=1, clip_norm=clip_norm)
        moves[clip_norm] = {name: (after[name] - before[name]).abs() for name in before}
    assert moves[None]["gain"] == moves[1.0]["gain"] == 0.5
    assert (moves[1.0]["loc"] < moves[None]["loc"]).all()


def late_model(x, late):
    shift = pyro.param("shift", torch.tensor(0.3)) if late else 0.0
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(30.0 * shift + z, 1.0), obs=x[:, 0])


def late_guide(x, late):
    slope = pyro.param("slope", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x[:, 0], 0.7))


def train_late(svi_class, optim, *, births=7, **options):
    pyro.clear_param_store()
    svi = svi_class(late_model, late_guide, optim, Trace_ELBO(), **options)
    for step in range(STEPS):
        torch.manual_seed(step)
        svi.step(batch(step), late=step >= births)
        if isinstance(optim, pyro.optim.PyroLRScheduler) and step % 2:
            optim.step()
    return values()


LATE = {
    "clipped": lambda: pyro.optim.SGD({"lr": 0.01}, {"clip_norm": 1.0}),
    "clipped by name": lambda: pyro.optim.SGD({"lr": 0.01}, lambda _, name: {"clip_norm": 1.0 + len(name)}),
    "exponential": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.7}, {"clip_norm": 1.0}
    ),
    "cosine": lambda: pyro.optim.CosineAnnealingLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "T_max": 4}
    ),
    "milestones": lambda: pyro.optim.MultiStepLR(
        {"optimizer": torch.optim.Adam, "optim_args": lambda name: {"lr": 0.01 * len(name)}, "milestones": [2, 4]}
    ),
}


@pytest.mark.parametrize("make", LATE.values(), ids=LATE)
def test_a_parameter_born_later_is_clipped_and_scheduled_from_its_birth(make):
    expected = train_late(pyro.infer.SVI, make())
    torch.testing.assert_close(train_late(SVI, make()), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(train_late(SVI, make(), compile=GRAPH), expected, rtol=1e-5, atol=1e-5)


BAD_CLIPS = [
    {"clip_norm": -1.0},
    {"clip_value": float("nan")},
    {"clip_nrm": 1.0},
    {"clip_norm": "1"},
    {"clip_value": 0},
]


@pytest.mark.parametrize("clip", BAD_CLIPS)
def test_clip_args_that_pyro_does_not_take(clip):
    with refuses(ValueError, "clip_args", *map(repr, clip)):
        SVI(model, guide, pyro.optim.Adam({"lr": 0.1}, clip), ELBO())
    guide.net = nn.Linear(3, 1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}, lambda module, name: clip), ELBO())
    with refuses(ValueError, "clip_args", *map(repr, clip)):
        svi.step(batch(0))


# Schedulers


def scheduler(kind, optimizer=torch.optim.Adam, optim_args=None, clip=None, **arguments):
    args = {"optimizer": optimizer, "optim_args": optim_args or {"lr": 0.05}, **arguments}
    return lambda: getattr(pyro.optim, kind)(dict(args), clip)


def plateau(step):
    return 1.0 if step < 9 else 2.0


SCHEDULERS = {
    "ExponentialLR": (scheduler("ExponentialLR", gamma=0.6), None),
    "of SGD": (scheduler("ExponentialLR", torch.optim.SGD, {"lr": 1e-3, "momentum": 0.5}, gamma=0.6), None),
    "by name": (scheduler("ExponentialLR", optim_args=lambda name: {"lr": 0.02 * len(name)}, gamma=0.6), None),
    "clipped": (scheduler("ExponentialLR", clip={"clip_norm": 0.5}, gamma=0.6), None),
    "of ClippedAdam": (
        scheduler("StepLR", pyro.optim.clipped_adam.ClippedAdam, {"lr": 0.05, "lrd": 0.9}, step_size=2),
        None,
    ),
    "MultiStepLR": (scheduler("MultiStepLR", milestones=[2, 4], gamma=0.3), None),
    "ReduceLROnPlateau": (scheduler("ReduceLROnPlateau", factor=0.2, patience=0), plateau),
    "CosineAnnealingLR": (scheduler("CosineAnnealingLR", T_max=4), None),
    "warm restarts": (scheduler("CosineAnnealingWarmRestarts", T_0=3), None),
    "LinearLR": (scheduler("LinearLR", start_factor=0.2, total_iters=3), None),
    "LambdaLR": (scheduler("LambdaLR", lr_lambda=lambda epoch: 0.8**epoch), None),
    "OneCycleLR": (scheduler("OneCycleLR", max_lr=0.1, total_steps=9), None),
    "OneCycleLR of SGD": (
        scheduler(
            "OneCycleLR",
            torch.optim.SGD,
            {"lr": 1e-3, "momentum": 0.5},
            max_lr=1e-3,
            max_momentum=0.6,
            base_momentum=0.3,
            total_steps=9,
        ),
        None,
    ),
    "CyclicLR": (scheduler("CyclicLR", base_lr=0.01, max_lr=0.1, step_size_up=2), None),
}


@pytest.mark.parametrize(("make", "metric"), SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_scheduler_of_pyros_schedules_as_pyro_does(make, metric):
    check(make, tolerance=3e-5, metric=metric)


def test_the_rate_is_what_the_scheduler_says():
    _, svi = train(SVI, SCHEDULERS["ExponentialLR"][0], steps=6)
    assert svi.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 0.6**2)


def test_a_step_of_the_scheduler_before_the_first_update_does_nothing():
    for svi_class in (pyro.infer.SVI, SVI):
        pyro.clear_param_store()
        guide.net = nn.Linear(3, 1)
        optim = SCHEDULERS["ExponentialLR"][0]()
        svi = svi_class(model, guide, optim, Trace_ELBO())
        optim.step()
        svi.step(batch(0))
        (rate,) = {group["lr"] for one in optim.optim_objs.values() for group in one.optimizer.param_groups}
        assert rate == 0.05
        optim.step()
        (rate,) = {group["lr"] for one in optim.optim_objs.values() for group in one.optimizer.param_groups}
        assert rate == pytest.approx(0.03)


def test_two_trainers_may_share_a_scheduler():
    optim = SCHEDULERS["ExponentialLR"][0]()
    guide.net = nn.Linear(3, 1)
    trainers = [SVI(model, guide, optim, Trace_ELBO()) for _ in range(2)]
    for step in range(2):
        for svi in trainers:
            svi.step(batch(step))
        optim.step()
    assert [svi.optimizer.param_groups[0]["lr"] for svi in trainers] == pytest.approx([0.018, 0.018])
    assert set(optim.get_state()) <= {*values(), None}


# States and copies


ALL = {name: lambda make=make: make(CLIPS["both"]) for name, make in MAKERS.items()}
ALL |= {name: make for name, (make, metric) in SCHEDULERS.items() if metric is None}


def go_on(svi, optim, first=6, last=STEPS):
    for step in range(first, last):
        torch.manual_seed(step)
        svi.step(batch(step))
        if isinstance(optim, pyro.optim.PyroLRScheduler) and step % 3 == 2:
            optim.step()
    return values()


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_training_resumes_bitwise(make):
    _, svi = train(SVI, make, steps=6)
    saved = copy.deepcopy(svi.state_dict())
    straight = go_on(svi, svi._optim)
    for trained in (0, 4):  # a fresh trainer, and one that has gone on elsewhere
        optim = make()
        _, resumed = train(SVI, lambda optim=optim: optim, steps=trained)
        resumed.evaluate_loss(batch(0))
        for _ in range(2):  # twice: what was loaded must not have been written into
            resumed.load_state_dict(saved)
            found = go_on(resumed, optim)
            assert all(torch.equal(found[name], value) for name, value in straight.items())


def test_the_state_of_a_scheduler_is_saved_before_it_begins():
    _, fresh = train(SVI, SCHEDULERS["CosineAnnealingLR"][0], steps=0)
    fresh.evaluate_loss(batch(0))
    saved = copy.deepcopy(fresh.state_dict())
    assert saved["optimizer"]["lr_schedulers"] == []
    straight = go_on(fresh, fresh._optim, 0)
    fresh.load_state_dict(saved)
    found = go_on(fresh, fresh._optim, 0)
    assert all(torch.equal(found[name], value) for name, value in straight.items())


def test_limits_are_not_state_and_stay_when_one_without_them_is_loaded():
    """States were saved before there were limits; and who clips anew means it."""
    _, free = train(SVI, lambda: MAKERS["SGD"](None), steps=4)
    saved = copy.deepcopy(free.state_dict())
    _, clipped = train(SVI, lambda: MAKERS["SGD"](CLIPS["norm"]), steps=2)
    limits = [dict(group, params=None, lr=None) for group in clipped.optimizer.param_groups]
    assert clipped.state_dict()["optimizer"]["param_groups"][0].keys() == saved["optimizer"]["param_groups"][0].keys()
    clipped.load_state_dict(saved)
    assert [dict(group, params=None, lr=None) for group in clipped.optimizer.param_groups] == limits


def test_the_state_of_another_scheduler_is_refused():
    _, svi = train(SVI, SCHEDULERS["ExponentialLR"][0], steps=2)
    saved = copy.deepcopy(svi.state_dict())
    _, other = train(SVI, SCHEDULERS["MultiStepLR"][0], steps=2)
    with refuses(ValueError, "Adam under ExponentialLR", "Adam under MultiStepLR"):
        other.load_state_dict(saved)
    _, plain = train(SVI, lambda: MAKERS["Adam"](None), steps=2)
    with refuses(ValueError, "Adam under ExponentialLR"):
        plain.load_state_dict(saved)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)

    def forward(self, x):
        pyro.module("encoder", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(5.0 * self.net(x)[:, 0], 0.7))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.2))

    def forward(self, x):
        pyro.module("decoder", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(20.0 * self.gain * z[:, None], 1.0).expand([len(x), 3]).to_event(1), obs=x)


@pytest.mark.parametrize("compile", [False, GRAPH])
@pytest.mark.parametrize("make", [ALL["SGD by name"], ALL["clipped"], ALL["CosineAnnealingLR"]])
@pytest.mark.parametrize("steps", [0, 9])
def test_a_deep_copy_goes_on_alike_and_apart(make, compile, steps):
    torch.manual_seed(0)
    with pyro.settings.context(module_local_params=True):
        svi = SVI(Decoder(), Encoder(), make(), Trace_ELBO(), compile=compile)
        for step in range(steps):
            svi.step(batch(step))
        if isinstance(svi._optim, pyro.optim.PyroLRScheduler):
            svi._optim.step()
        twin = copy.deepcopy(svi)
        ends = []
        for one in (svi, twin):
            pyro.clear_param_store()
            for step in range(steps, STEPS):
                torch.manual_seed(step)
                one.step(batch(step))
                if step % 2 and isinstance(one._optim, pyro.optim.PyroLRScheduler):
                    one._optim.step()
            ends.append([parameter.detach() for parameter in (*one.model.parameters(), *one.guide.parameters())])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-5)
    assert svi.optimizer is not twin.optimizer


class EachEpoch:
    """Steps a scheduler of Pyro's, whose place is in the trainer's state."""

    def __init__(self, optim):
        self.optim = optim

    def on_epoch(self, info):
        self.optim.step()


@pytest.mark.parametrize("make", [ALL["clipped"], ALL["MultiStepLR"], ALL["OneCycleLR"], ALL["CyclicLR"]])
def test_fit_resumes_a_schedule(make, tmp_path):
    def go(epochs, **options):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim, modules = make(), (Decoder(), Encoder())
        svi = SVI(*modules, optim, Trace_ELBO())
        data = [batch(step) for step in range(3)]
        fit(svi, data, epochs=epochs, callbacks=[EachEpoch(optim)], progress=False, **options)
        return [parameter for module in modules for parameter in module.parameters()]

    with pyro.settings.context(module_local_params=True):
        straight = go(7)
        go(3, checkpoint=tmp_path)
        resumed = go(7, checkpoint=tmp_path, resume=True)
    assert all(map(torch.equal, straight, resumed))


def test_an_optimiser_without_a_learning_rate():
    make = functools.partial(pyro.optim.AdagradRMSProp, {"eta": 0.1})
    expected, _ = train(pyro.infer.SVI, make)
    torch.testing.assert_close(train(SVI, make)[0], expected, rtol=1e-5, atol=1e-5)
