"""LocalModule: parameters that are one's own, and that stock SVI finds."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import nn

from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.nn import MLP, LocalModule

both_settings = pytest.mark.parametrize("local", [False, True])


class Line(LocalModule):
    """y = w x + noise, with a plain parameter, a constrained one and a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.scale = PyroParam(torch.tensor(1.0), dist.constraints.positive)
        self.shift = nn.Linear(1, 1)

    def forward(self, y):
        loc = self.weight + self.shift(torch.ones(1)).squeeze()
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(loc, self.scale), obs=y)


def no_guide(y):
    """There is no latent."""


def train(model, *args, steps=3):
    svi = SVI(model, no_guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(steps):
        svi.step(*args)


@both_settings
def test_stock_svi_trains_every_kind_of_parameter(local):
    with pyro.settings.context(module_local_params=local):
        model = Line()
        before = [p.clone() for p in model.parameters()]
        train(model, torch.full((4,), 3.0))
        assert len(before) == 4
        assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
        assert len(pyro.get_param_store()) == 0


@both_settings
def test_the_setting_may_change_between_building_and_training(local):
    with pyro.settings.context(module_local_params=not local):
        model = Line()
    with pyro.settings.context(module_local_params=local):
        train(model, torch.full((4,), 3.0))
    assert model.weight != 0.5
    assert len(pyro.get_param_store()) == 0


def test_a_second_module_is_not_filled_with_the_first_ones_values():
    train(Line(), torch.full((4,), 3.0))
    second = Line()
    second(torch.zeros(4))
    assert second.weight == 0.5
    assert second.scale == 1.0


def test_a_plain_pyro_module_is_filled_which_is_why_there_is_a_local_one():
    class Shared(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = PyroParam(torch.tensor(0.5))

        def forward(self, y):
            with pyro.plate("data", len(y)):
                pyro.sample("y", dist.Normal(self.weight, 1.0), obs=y)

    train(Shared(), torch.full((4,), 3.0))
    second = Shared()
    second(torch.zeros(4))
    assert second.weight != 0.5


@both_settings
def test_parameters_of_the_global_store_train_beside_local_ones(local):
    def model(y):
        shift = pyro.param("shift", torch.tensor(0.0))
        width = pyro.param("width", torch.tensor(1.0), constraint=dist.constraints.positive)
        line(y - shift * width)

    with pyro.settings.context(module_local_params=local):
        line = Line()
        train(model, torch.full((4,), 3.0))
    assert pyro.param("shift") != 0.0
    assert pyro.param("width") != 1.0
    assert line.weight != 0.5
    assert set(pyro.get_param_store()) == {"shift", "width"}


def test_our_parts_train_inside_somebody_elses_module():
    class Vae(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.prior = StandardNormal(2)
            self.likelihood = Bernoulli(MLP(2, 4, (8,)))
            self.encoder = DiagonalNormal(MLP(4, 4, (8,)))

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", self.prior())
                pyro.sample("x", self.likelihood(z), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.encoder(x))

    vae = Vae()
    before = [p.clone() for p in vae.parameters()]
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(torch.ones(3, 4))
    assert all(not torch.equal(old, new) for old, new in zip(before, vae.parameters(), strict=True))


@pytest.mark.parametrize("registered", [False, True])
def test_our_parts_train_inside_a_function(registered):
    prior, likelihood = DiagonalNormal(MLP(1, 4, (8,))), Bernoulli(MLP(2, 4, (8,)))

    def model(x):
        if registered:  # as Pyro's tutorials do
            pyro.module("prior", prior)
            pyro.module("likelihood", likelihood)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(torch.ones(len(x), 1)))
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    modules = nn.ModuleList([prior, likelihood])
    before = [p.clone() for p in modules.parameters()]
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(torch.ones(3, 4))
    assert all(not torch.equal(old, new) for old, new in zip(before, modules.parameters(), strict=True))


def test_global_samples_stand_outside_the_plate():
    class Regression(LocalModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x):
            self.sample_globals()
            with pyro.plate("data", len(x)):
                return pyro.sample("y", dist.Normal(self.net(x).squeeze(-1), 1.0))

    net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    to_pyro_module_(net)
    for layer in (net[0], net[2]):
        layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand(layer.weight.shape).to_event(2))
    model = Regression()
    trace = poutine.trace(model).get_trace(torch.zeros(5, 1))
    assert [frame.name for frame in trace.nodes["y"]["cond_indep_stack"]] == ["data"]
    assert trace.nodes["net.0.weight"]["cond_indep_stack"] == ()
    assert trace.nodes["net.2.weight"]["cond_indep_stack"] == ()
    again = poutine.trace(model).get_trace(torch.zeros(5, 1))
    assert not torch.equal(trace.nodes["net.0.weight"]["value"], again.nodes["net.0.weight"]["value"])


def test_an_unconstrained_pyro_param_is_trained():
    class Mean(LocalModule):
        def __init__(self) -> None:
            super().__init__()
            self.mean = PyroParam(torch.zeros(2))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.mean, 1.0).to_event(1), obs=x)

    model = Mean()
    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(torch.ones(3, 2))
    torch.testing.assert_close(model.mean.detach(), torch.full((2,), 0.1), atol=1e-5, rtol=0.0)


def test_what_has_run_alone_can_become_a_part():
    class Inner(LocalModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = LocalModule()
            self.net.weight = nn.Parameter(torch.ones(()))

        def forward(self):
            return self.net.weight

    class Outer(LocalModule):
        def __init__(self, inner: LocalModule) -> None:
            super().__init__()
            self.inner = inner

        def forward(self):
            return self.inner()

    inner = Inner()
    inner()
    outer = Outer(inner)
    assert outer() == 1.0
    nodes = poutine.trace(outer).get_trace().nodes
    assert [name for name, site in nodes.items() if site["type"] == "param"] == ["inner.net.weight"]
    assert Outer(inner)() == 1.0
