import copy
import functools
import io

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

from contracts import refuses
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO, IWAE, SVI
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

ADAM = functools.partial(torch.optim.Adam, lr=0.05)


def store_programs(width=1):
    def model(x):
        scale = pyro.param("scale", torch.tensor(0.8), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x[:, 0])

    def guide(x):
        slope = pyro.param("slope", torch.full((width,), 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope.sum() * x[:, 0], 0.7))

    return model, guide


def our_modules(width=4):
    model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6, hidden_features=(width,))))
    return model, AmortizedGuide(z=DiagonalNormal(MLP(6, 4, hidden_features=(width,))))


def normed_modules(width=4):
    """With batch norm in the encoder, whose buffers are part of the state; it is given no particles to mix."""
    net = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Linear(width, 4))
    return our_modules(width)[0], AmortizedGuide(z=DiagonalNormal(net))


def mixed_programs(width=4):
    """A module as model, a method of another as guide, and a parameter of the store in between."""

    class Guides(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 4)

        def encode(self, x):
            shift = pyro.param("shift", torch.tensor(0.0))
            with pyro.plate("data", len(x)):
                loc, log_scale = self.net(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc + shift, log_scale.exp()).to_event(1))

    return our_modules(width)[0], Guides().encode


def autoguide(width=4):
    model, _ = our_modules(width)
    return model, AutoNormal(model)


PROGRAMS = [store_programs, our_modules, normed_modules, mixed_programs, autoguide]
OPTIMS = {
    "Adam": ADAM,
    "momentum": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "ClippedAdam": pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.9}),
    "by name": pyro.optim.Adam(lambda name: {"lr": 0.01 + 0.01 * (len(name) % 3)}),
}


def batch(seed):
    return torch.rand(5, 6, generator=torch.Generator().manual_seed(seed)).round()


def everything(svi):
    return copy.deepcopy(svi.state_dict())


def leaves(value, path="state"):
    """Every value inside nested dicts, lists and tuples, with where it is."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str | int), f"{path} has the key {key!r}"
            yield from leaves(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from leaves(item, f"{path}[{i}]")
    else:
        yield path, value


def assert_same(first, second):
    first, second = dict(leaves(first)), dict(leaves(second))
    assert first.keys() == second.keys()
    for path, value in first.items():
        same = torch.equal(value, second[path]) if isinstance(value, Tensor) else value == second[path]
        assert same, path


@pytest.mark.parametrize("optim", OPTIMS.values(), ids=OPTIMS)
@pytest.mark.parametrize("make", PROGRAMS)
def test_a_state_is_tensors_and_plain_values(make, optim):
    """So that it loads with weights_only=True."""
    svi = SVI(*make(), optim, ELBO())
    svi.step(batch(0))
    state = svi.state_dict()
    for path, value in leaves(state):
        assert value is None or type(value) in (Tensor, bool, int, float, str), f"{path} is a {type(value)}"
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert_same(torch.load(file, weights_only=True), state)


@pytest.mark.parametrize("objective", [ELBO(), IWAE(3)], ids=["ELBO", "IWAE"])
@pytest.mark.parametrize("optim", OPTIMS.values(), ids=OPTIMS)
@pytest.mark.parametrize("make", PROGRAMS)
def test_training_resumes_bitwise(make, optim, objective):
    """Pitfall 19: a fresh process is an empty store, new programs, and the torch generator put back."""
    torch.manual_seed(0)
    svi = SVI(*make(), optim, copy.copy(objective))
    for step in range(3):
        svi.step(batch(step))
    saved, generator = everything(svi), torch.get_rng_state()
    straight = [svi.step(batch(step)) for step in range(3, 6)]
    at_the_end = everything(svi)

    pyro.clear_param_store()
    torch.manual_seed(99)
    resumed = SVI(*make(), optim, copy.copy(objective))
    if make in (store_programs, mixed_programs, autoguide):
        resumed.evaluate_loss(batch(0))
    for _ in range(2):  # twice: what was loaded must not have been written into
        resumed.load_state_dict(saved)
        torch.set_rng_state(generator)
        assert [resumed.step(batch(step)) for step in range(3, 6)] == straight
        assert_same(everything(resumed), at_the_end)


def test_the_counters_are_part_of_the_state():
    svi = SVI(*our_modules(), ADAM, ELBO())
    svi.step(batch(0))
    svi.num_skipped = 5
    other = SVI(*our_modules(), ADAM, ELBO())
    other.load_state_dict(svi.state_dict())
    assert (other.num_steps, other.num_skipped) == (1, 5)


def test_a_learning_rate_comes_back():
    svi = SVI(*our_modules(), ADAM, ELBO())
    torch.optim.lr_scheduler.StepLR(svi.optimizer, 1)
    svi.optimizer.param_groups[0]["lr"] = 0.002
    other = SVI(*our_modules(), ADAM, ELBO())
    other.load_state_dict(svi.state_dict())
    assert other.optimizer.param_groups[0]["lr"] == 0.002


def state_of(programs, optim=ADAM, edit=None):
    pyro.clear_param_store()
    svi = SVI(*programs, optim, ELBO())
    svi.step(batch(0))
    state = everything(svi)
    if edit is not None:
        edit(state)
    pyro.clear_param_store()
    return state


MISMATCHES = {
    "wider": (our_modules, lambda: state_of(our_modules(5)), "other shapes"),
    "with batch norm": (our_modules, lambda: state_of(normed_modules()), "'guide'"),
    "of the store": (our_modules, lambda: state_of(store_programs()), "'modules'"),
    "of modules": (store_programs, lambda: state_of(our_modules()), "'modules'"),
    "store wider": (store_programs, lambda: state_of(store_programs(2)), "'store'"),
    "a module missing": (
        our_modules,
        lambda: state_of(our_modules(), edit=lambda s: s["modules"].pop("guide")),
        "guide",
    ),
    "a tensor missing": (
        our_modules,
        lambda: state_of(our_modules(), edit=lambda s: s["modules"]["model"].popitem()),
        "'model'",
    ),
    "no optimiser": (our_modules, lambda: state_of(our_modules(), edit=lambda s: s.pop("optimizer")), "optimizer"),
    "empty": (our_modules, dict, "optimizer"),
    "of SGD": (our_modules, lambda: state_of(our_modules(), functools.partial(torch.optim.SGD, lr=0.1)), "SGD"),
    "of SGD of the store": (
        store_programs,
        lambda: state_of(store_programs(), functools.partial(torch.optim.SGD, lr=0.1)),
        "SGD",
    ),
    "in other groups": (our_modules, lambda: state_of(our_modules(), OPTIMS["by name"]), "groups"),
}


@pytest.mark.parametrize(("make", "state", "part"), MISMATCHES.values(), ids=MISMATCHES)
def test_a_state_of_something_else_is_refused_and_changes_nothing(make, state, part):
    foreign = state()
    svi = SVI(*make(), ADAM, ELBO())
    svi.step(batch(0))
    before = everything(svi)
    with refuses(ValueError, part):
        svi.load_state_dict(foreign)
    assert_same(everything(svi), before)


def test_a_state_for_programs_that_have_not_run():
    saved = state_of(store_programs())
    with refuses(ValueError, "Call step or evaluate_loss once"):
        SVI(*store_programs(), ADAM, ELBO()).load_state_dict(saved)
    saved = state_of(autoguide())
    with refuses(ValueError, "must have run once"):
        SVI(*autoguide(), ADAM, ELBO()).load_state_dict(saved)
