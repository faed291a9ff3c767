"""A compiled step is the step as it is written, or it is not compiled and says why.

Every test runs a program twice from the same seed, once as written and once compiled, and compares the losses of all
steps, which depend on all parameters. The graph is run as it was traced, which is what can go wrong; Inductor's part is
in ``test_inductor.py``.
"""

import copy
import functools
import json
import math
import random
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from torch import nn
from torch.distributions import constraints

from contracts import refuses
from pyro_dgm.infer import ELBO, IWAE, SVI, KLAnnealing, Linear, Relaxation
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.training import fit

STEPS, ROWS, FEATURES = 24, 6, 3
GRAPH = Compiler("graph", wait=True)


class Model(nn.Module):
    """Normal latents, a linear decoder, and a hook for what a test wants to happen inside."""

    def __init__(self, inside=None):
        super().__init__()
        self.decoder = nn.Linear(2, FEATURES)
        self.inside = inside
        self.beta, self.count, self.is_wide, self.history = 1.0, 0, False, []

    def forward(self, x, *args, **kwargs):
        pyro.module("model", self)
        scale = self.inside(self, x, *args, **kwargs) if self.inside is not None else self.beta
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=scale):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 2.0 if self.is_wide else 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(FEATURES, 4)

    def forward(self, x, *args, **kwargs):
        pyro.module("guide", self)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.02)


def batches(num=STEPS, rows=ROWS):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(rows, FEATURES, generator=generator) for _ in range(num)]


def train(make, compile, optim=adam, loss=Trace_ELBO, data=None, before=None, options=None):
    """Losses, the trainer, and the warnings, of which each is a refusal."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the generator that programs of users draw from
    model, guide = make()
    svi = SVI(model, guide, optim, loss(), compile=compile, **(options or {}))
    torch.manual_seed(1)
    losses = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        for number, item in enumerate(data if data is not None else batches()):
            if before is not None:
                before(number, svi)
            args, kwargs = item if isinstance(item, tuple) else ((item,), {})
            losses.append(svi.step(*args, **kwargs))
    return torch.tensor(losses, dtype=torch.float64), svi, [str(one.message) for one in said]


def check(make, *, refused=None, is_compiled=True, tolerance=2e-5, **options):
    """The same losses as written and compiled; and compiled, or refused with this in the reason."""
    expected, _, _ = train(make, False, **options)
    found, svi, said = train(make, GRAPH, **options)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    compiled = svi.compiled
    if refused is None:
        assert not said
        assert (compiled.num_compiled > 0) == is_compiled
    else:
        assert any(refused in reason for reason in said), said
    return svi


def modules(inside=None):
    return lambda: (Model(inside), Guide())


# What is compiled


@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO])
def test_stock_objectives(loss):
    svi = check(modules(), loss=loss)
    assert svi.num_steps == STEPS


@pytest.mark.parametrize("loss", [lambda: RenyiELBO(0.5, 4), lambda: ReweightedWakeSleep(4)])
def test_stock_objectives_of_several_particles(loss):
    check(modules(), loss=loss)


OPTIMISERS = {
    "Adam": adam,
    "Adam with weight decay": functools.partial(torch.optim.Adam, lr=0.02, weight_decay=0.1),
    "amsgrad": functools.partial(torch.optim.Adam, lr=0.02, amsgrad=True),
    "AdamW": functools.partial(torch.optim.AdamW, lr=0.02, weight_decay=0.1),
    "SGD": functools.partial(torch.optim.SGD, lr=1e-3),
    "momentum": functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9, weight_decay=0.01),
    "Nesterov": functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9, nesterov=True),
    "dampening": functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9, dampening=0.3),
    "ClippedAdam": pyro.optim.ClippedAdam({"lr": 0.02, "clip_norm": 1.0, "lrd": 0.99}),
    "RMSprop, outside of the graph": functools.partial(torch.optim.RMSprop, lr=0.01),
    "Adam by Pyro": pyro.optim.Adam({"lr": 0.02}),
}


@pytest.mark.parametrize("optim", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_optimisers(optim, clip_norm):
    check(modules(), optim=optim, options={"clip_norm": clip_norm})


def test_groups_with_settings_of_their_own():
    def optim(parameters):
        first, *rest = parameters
        return torch.optim.Adam([{"params": [first], "lr": 0.1}, {"params": rest, "betas": (0.5, 0.9)}], lr=0.01)

    check(modules(), optim=optim)


def scaled():
    """A scale of the store, and a guide without any."""
    encoder = nn.Linear(FEATURES, 2)

    def model(x):
        scale = pyro.param("scale", torch.tensor(0.8), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), scale).to_event(1), obs=x[:, :1])

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

    return model, guide


def test_parameters_of_the_store_and_plain_functions():
    check(scaled)


def bits(baseline=None):
    def make():
        decoder, encoder = nn.Linear(2, FEATURES), nn.Linear(FEATURES, 2)

        def model(x):
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.4)).to_event(1))
                pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("data", len(x)):
                infer = {} if baseline is None else {"baseline": baseline}
                pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1), infer=infer)

        return model, guide

    return make


@pytest.mark.parametrize("baseline", [None, {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}])
def test_score_functions_and_running_baselines(baseline):
    check(bits(baseline), loss=TraceGraph_ELBO)


def test_enumerated_latents():
    def make():
        @config_enumerate
        def model(x):
            weights = pyro.param("weights", torch.ones(3) / 3, constraint=constraints.simplex)
            loc = pyro.param("loc", lambda: torch.randn(3))
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Categorical(weights))
                pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x[:, 0])

        return model, lambda x: None

    check(make, loss=lambda: TraceEnum_ELBO(max_plate_nesting=1))


class Normed(Guide):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4))


def test_batch_norm_and_dropout():
    svi = check(lambda: (Model(), Normed()))
    assert int(svi.guide.encoder[1].num_batches_tracked) == STEPS


def test_running_statistics_are_those_of_the_steps_as_written():
    """Torch does not count it as a change of these tensors that batch norm has written them, as it does in a trace."""
    optim = functools.partial(torch.optim.SGD, lr=1e-3)
    runs = [train(lambda: (Model(), Normed()), how, optim, ELBO) for how in (False, GRAPH)]
    (_, plain, _), (_, compiled, _) = runs
    assert compiled.compiled.num_compiled == 1
    for found, expected in zip(compiled.guide.encoder[1].buffers(), plain.guide.encoder[1].buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_tensor_that_the_program_changes_in_place():
    """An attribute that is no buffer, and a global; neither is one trace ahead."""

    def inside(model, x):
        with torch.no_grad():
            model.total.add_(x.abs().sum())
            FACTOR.mul_(0.99)
        return 1 / (1 + 0.01 * model.total) + FACTOR

    def make():
        model = Model(inside)
        model.total = torch.tensor(0.0)
        FACTOR.fill_(0.5)
        return model, Guide()

    svi = check(make)
    total = sum(x.abs().sum() for x in batches())
    torch.testing.assert_close(svi.model.total, total, rtol=1e-4, atol=0)


@pytest.mark.parametrize("guide", [pyro.infer.autoguide.AutoNormal, pyro.infer.autoguide.AutoMultivariateNormal])
def test_autoguides(guide):
    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(FEATURES - 1), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(x[:, 1:] @ w, 1.0), obs=x[:, 0])

    check(lambda: (model, guide(model)))


def test_autocast():
    class Halved(Guide):
        def forward(self, x):
            pyro.module("guide", self)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loc, log_scale = self.encoder(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc.float(), log_scale.float().exp()).to_event(1))

    check(lambda: (Model(), Halved()), tolerance=0.02)


# What changes from step to step


def test_a_learning_rate_changed_by_a_scheduler():
    def before(number, svi):
        if number:
            for group in svi.optimizer.param_groups:
                group["lr"] = 0.05 / number

    svi = check(modules(), before=before)
    assert svi.compiled.num_compiled == 1


def test_an_annealed_attribute_becomes_an_input():
    """The number is changed at every step from the tenth on; the step is compiled twice, with it and for it."""

    def before(number, svi):
        svi.model.beta = 1.0 if number < 10 else 0.05 * number

    svi = check(modules(), before=before)
    assert svi.compiled.num_compiled == 1


def test_an_annealed_attribute_that_the_program_looks_at():
    def inside(model, x):
        return model.beta if model.beta > 0.5 else 0.5

    check(modules(inside), before=lambda number, svi: setattr(svi.model, "beta", 0.1 * (number // 8 + 3)))


@pytest.mark.parametrize("loss", [Trace_ELBO, ELBO, lambda: IWAE(3), lambda: ELBO(free_bits=0.2)])
def test_the_annealing_of_a_schedule_becomes_an_input(loss):
    """A weight that moves for twelve steps and then stands; compiled once for both."""

    def make():
        annealing = KLAnnealing(Linear(0.1, 1.0, over=12))
        model, guide = Model(), Guide()
        make.keep = model, guide  # of the store's own names
        return annealing(model), annealing(guide)

    svi = check(make, loss=loss)
    assert svi.compiled.num_compiled == 1


def test_a_capacity_and_a_temperature_that_follow_schedules_become_inputs():
    svi = check(modules(), loss=lambda: ELBO(analytic_kl=True, capacity=Linear(0.0, 2.0, over=12)))
    assert svi.compiled.num_compiled == 1
    svi = check(bits(), loss=lambda: ELBO(gradient="gumbel", relaxation=Relaxation(Linear(1.0, 0.5, over=12))))
    assert svi.compiled.num_compiled == 1


def test_float_and_tensor_arguments_are_inputs():
    def inside(model, x, beta, gamma=1.0):
        return beta * gamma

    data = [((x, 0.1 + 0.01 * i), {"gamma": torch.tensor(0.5 + 0.1 * i)}) for i, x in enumerate(batches())]
    svi = check(modules(inside), data=data)
    assert svi.compiled.num_compiled == 1


def test_a_float_argument_that_the_program_looks_at():
    def inside(model, x, beta):
        return beta if beta > 0.3 else 0.3

    data = [((x, 0.2 + 0.2 * (i // 12)), {}) for i, x in enumerate(batches())]
    svi = check(modules(inside), data=data)
    assert svi.compiled.num_compiled == 2


@pytest.mark.parametrize("values", [(True, False), ("a", "bc"), (1, 3)])
def test_other_arguments_select_a_version(values):
    def inside(model, x, flag=None):
        return {True: 1.0, False: 0.3, "a": 0.7, "bc": 0.2, 3: 2.0}[flag]

    data = [((x,), {"flag": values[i % 2]}) for i, x in enumerate(batches())]
    svi = check(modules(inside), data=data)
    assert svi.compiled.num_compiled == 2


def test_batches_of_other_sizes_and_dtypes():
    sizes = [6, 6, 6, 2, 6, 6, 2, 6, 6, 2, 6, 6, 2, 2, 2, 6, 6]
    data = [batches(1, rows)[0] + i for i, rows in enumerate(sizes)]
    svi = check(modules(), data=data)
    assert svi.compiled.num_compiled == 2

    def inside(model, x):
        return 1.0 if x.dtype == torch.float32 else 0.5

    class Cast(Guide):
        def forward(self, x):
            super().forward(x.float())

    data = [x.double() if i % 2 else x for i, x in enumerate(batches())]
    svi = check(lambda: (Model(inside), Cast()), data=data)
    assert svi.compiled.num_compiled == 2


def test_evaluation_mode():
    def make():
        guide = Guide()
        guide.encoder = nn.Sequential(nn.Dropout(0.5), guide.encoder)
        return Model(), guide

    svi = check(make, before=lambda number, svi: svi.guide.train(number % 10 < 5))
    assert svi.compiled.num_compiled == 2


def test_a_flag_of_the_model():
    svi = check(modules(), before=lambda number, svi: setattr(svi.model, "is_wide", number >= 10))
    assert svi.compiled.num_compiled == 2


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store")
def test_a_parameter_that_is_frozen_and_thawed():
    def before(number, svi):
        svi.model.decoder.bias.requires_grad_(not 8 <= number < 16)

    check(modules(), before=before)


def test_a_module_that_is_swapped():
    """The new module's parameters are not trained until SVI knows them, compiled or not."""

    def before(number, svi):
        if number == 10:
            torch.manual_seed(5)
            svi.model.decoder = nn.Linear(2, FEATURES)

    check(modules(), before=before)


def test_a_parameter_of_the_store_that_is_set_or_cleared():
    def is_set(number, svi):
        if number == 10:
            pyro.get_param_store()["scale"] = torch.tensor(2.0)

    def is_cleared(number, svi):
        if number == 10:
            pyro.clear_param_store()

    check(scaled, before=is_set)
    check(scaled, before=is_cleared)


def test_a_running_baseline_that_a_step_as_written_has_replaced():
    """Data that require grad are never compiled: those steps are as written, between compiled ones."""
    data = [x.requires_grad_(i in (9, 10, 17)) for i, x in enumerate(batches())]
    make = bits({"use_decaying_avg_baseline": True, "baseline_beta": 0.9})
    svi = check(make, loss=TraceGraph_ELBO, data=data)
    assert svi.compiled.num_compiled == 1


FACTOR = torch.tensor(0.5)
PLAIN = 0.5


def test_a_global_tensor_changed_in_place_or_rebound(monkeypatch):
    def inside(model, x):
        return FACTOR.clamp(min=0.1)

    def in_place(number, svi):
        FACTOR.fill_(0.1 * (number + 1))

    def rebound(number, svi):
        monkeypatch.setitem(globals(), "FACTOR", torch.tensor(0.3 if number < 12 else 0.9))

    svi = check(modules(inside), before=in_place)
    assert svi.compiled.num_compiled == 1

    def once(number, svi):
        if number in (0, 12):
            rebound(number, svi)

    check(modules(inside), before=once)


def test_a_global_number(monkeypatch):
    def inside(model, x):
        return PLAIN * 2

    check(modules(inside), before=lambda n, svi: monkeypatch.setitem(globals(), "PLAIN", 0.5 if n < 10 else 0.1))


def test_a_number_in_a_closure():
    def make():
        state = {"weight": 1.0}
        weight = 1.0

        def inside(model, x):
            return state["weight"] * weight

        def change(value):
            nonlocal weight
            weight = value
            state["weight"] = 1 / value

        model = Model(inside)
        model.change = change
        return model, Guide()

    check(make, before=lambda n, svi: svi.model.change(1.0 if n < 8 else 0.5 if n < 16 else 0.25))


class Settings:
    """A class attribute, and a property that reads another."""

    weight = 0.8
    __slots__ = ("factor",)

    def __init__(self):
        self.factor = 1.0

    @property
    def product(self):
        return self.weight * self.factor


def test_class_attributes_properties_and_slots(monkeypatch):
    def make():
        settings = Settings()
        model = Model(lambda model, x: settings.product)
        model.settings = settings
        return model, Guide()

    def before(number, svi):
        monkeypatch.setattr(Settings, "weight", 0.8 if number < 8 else 0.2)
        svi.model.settings.factor = 1.0 if number < 16 else 2.0

    check(make, before=before)


def test_a_list_that_the_program_reads():
    def inside(model, x):
        return 1.0 / (1 + len(model.history))

    def before(number, svi):
        if number in (8, 14):
            svi.model.history.append(number)

    svi = check(modules(inside), before=before)
    assert svi.compiled.num_compiled == 3


def test_what_the_program_does_not_read_does_not_matter():
    def before(number, svi):
        svi.model.losses = [*getattr(svi.model, "losses", []), number]

    svi = check(modules(), before=before)
    assert svi.compiled.num_compiled == 1


def test_handlers_with_changing_values():
    def inside(model, x):
        return model.beta

    def make():
        model = Model(inside)
        keep = torch.ones(ROWS, dtype=torch.bool)
        model.keep = keep

        def masked(x):
            with poutine.mask(mask=keep):
                model(x)

        masked.own = model
        return masked, poutine.mask(Guide(), mask=keep)

    def before(number, svi):
        svi.model.own.keep[number % ROWS] = number % 2 == 0

    svi = check(make, before=before)
    assert svi.compiled.num_compiled == 1


def test_subsampling_side_by_side():
    def make():
        loc = nn.Parameter(torch.tensor(0.5))

        def model(x):
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x), subsample_size=3) as rows:
                pyro.sample("x", dist.Normal(mu, 1.0), obs=x[rows, 0])

        class Posterior(nn.Module):
            def __init__(self):
                super().__init__()
                self.loc = loc

            def forward(self, x):
                pyro.module("posterior", self)
                pyro.sample("mu", dist.Normal(self.loc, 0.5))

        return model, Posterior()

    check(make)


# What is refused


def test_reading_a_tensor_is_refused_with_the_place():
    readers = {
        "item": lambda model, x: x.mean().exp().item(),
        "__float__": lambda model, x: float(x.mean().exp()),
        "__bool__": lambda model, x: 1.0 if x.mean() > 0 else 0.5,
        "tolist": lambda model, x: x[0, :1].abs().tolist()[0] + 0.1,
        "numpy": lambda model, x: torch.as_tensor(x.numpy()).exp().mean(),
        "__int__": lambda model, x: 1.0 + int(x.abs().sum() > 1),
    }
    for name, reader in readers.items():
        svi = check(modules(reader), refused=f"Tensor.{name} at {__file__}:")
        assert svi.compiled.num_compiled == 0


def test_shapes_that_depend_on_the_data_are_refused():
    check(modules(lambda model, x: x[x > 0].exp().mean()), refused="boolean")
    check(modules(lambda model, x: x.flatten().nonzero().sum().clamp(max=1)), refused="depend on the data")


def test_plates_of_a_size_that_depends_on_the_data_are_refused():
    def make():
        def model(x):
            with pyro.plate("some", int((x > 0).sum())):
                pyro.sample("w", dist.Normal(0.0, 1.0))

        def guide(x):
            loc = pyro.param("loc", torch.tensor(0.1))
            with pyro.plate("some", int((x > 0).sum())):
                pyro.sample("w", dist.Normal(loc, 1.0))

        return model, guide

    check(make, refused="Tensor.__int__")


def test_sequential_plates_with_subsampling_are_refused():
    def make():
        def model(x):
            for i in pyro.plate("rows", len(x), subsample_size=2):
                pyro.sample(f"w_{i}", dist.Normal(0.0, 1.0))

        def guide(x):
            loc = pyro.param("loc", torch.tensor(0.1))
            for i in pyro.plate("rows", len(x), subsample_size=2):
                pyro.sample(f"w_{i}", dist.Normal(loc, 1.0))

        return model, guide

    check(make, refused="is not compiled")


def test_randomness_that_is_not_torchs_is_refused():
    check(modules(lambda model, x: random.random()), refused="random numbers")
    check(modules(lambda model, x: np.random.rand()), refused="random numbers")  # noqa: NPY002
    check(modules(lambda model, x: 1.0 if random.random() < 0.5 else 0.5), refused="is not compiled")
    check(modules(lambda model, x: torch.tensor(np.random.rand(2)).mean()), refused="NumPy")  # noqa: NPY002


def test_programs_that_change_their_own_state_are_refused():
    def counts(model, x):
        model.count += 1
        return 1.0 / model.count

    def remembers(model, x):
        model.history.append(len(x))
        return 1.0 / len(model.history)

    check(modules(counts), refused="Model.count")
    check(modules(remembers), refused="Model.history")


def test_a_counter_kept_by_the_loop_is_refused_in_the_end():
    def inside(model, x):
        return [1.0, 0.5, 0.25][model.count % 3] + model.count / 100

    svi = check(
        modules(inside),
        before=lambda number, svi: setattr(svi.model, "count", number),
        refused="Model.count",
    )
    assert len(svi.compiled.refusals) == 1


def test_a_nan_is_caught_at_the_same_step_and_nothing_has_changed():
    data = batches()
    data[15] = torch.full_like(data[15], float("nan"))
    results = {}
    for compile in (False, GRAPH):
        _, svi, _ = train(modules(), compile, data=data[:15], loss=ELBO)
        before = [parameter.detach().clone() for parameter in svi.model.parameters()]
        with pyro.validation_enabled(False), pytest.raises(ArithmeticError) as caught:
            svi.step(data[15])
        for parameter, old in zip(svi.model.parameters(), before, strict=True):
            torch.testing.assert_close(parameter, old, rtol=0, atol=0)
        results[bool(compile)] = str(caught.value), svi.num_steps
        if compile:
            assert svi.compiled.num_compiled == 1
    assert results[True] == results[False]


def test_losses_go_on_after_a_skipped_step():
    data = batches()
    data[15] = torch.full_like(data[15], float("nan"))
    with pyro.validation_enabled(False):
        expected, plain, _ = train(modules(), False, loss=ELBO, data=data, options={"nonfinite": "skip"})
        found, svi, _ = train(modules(), GRAPH, loss=ELBO, data=data, options={"nonfinite": "skip"})
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5, equal_nan=True)
    assert plain.num_skipped == svi.num_skipped == 1


@pytest.mark.parametrize("budget", [1, 1500])
@pytest.mark.parametrize("optim", [adam, OPTIMISERS["ClippedAdam"], OPTIMISERS["RMSprop, outside of the graph"]])
def test_several_steps_in_one_call(optim, budget, monkeypatch):
    """In one graph or each by itself; a batch of another size, and steps before anything is compiled, among them."""
    monkeypatch.setattr("pyro_dgm.infer.compiling.chaining.BUDGET", budget)
    data = [*batches(29), batches(1, rows=2)[0], *batches(5)]
    expected, _, _ = train(modules(), False, optim=optim, data=data)
    _, svi, _ = train(modules(), GRAPH, optim=optim, data=[])
    torch.manual_seed(1)
    found = torch.tensor(svi.steps(data[:11]) + svi.steps((x,) for x in data[11:]), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
    assert svi.num_steps == len(data)
    assert svi.compiled.num_compiled == 1


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_a_bad_batch_among_several_is_caught_where_it_is(nonfinite):
    """Those before it are taken, those after it only if it is skipped; as one by one."""
    data, options = batches(20), {"nonfinite": nonfinite}
    data[14] = torch.full_like(data[14], float("nan"))
    results = []
    with pyro.validation_enabled(False):
        for is_together in (False, True):
            _, svi, _ = train(modules(), GRAPH if is_together else False, loss=ELBO, data=data[:8], options=options)
            try:
                found = svi.steps(data[8:]) if is_together else [svi.step(x) for x in data[8:]]
            except ArithmeticError as error:
                found = [str(error)]
            parameters = [parameter.detach() for parameter in svi.model.parameters()]
            results.append((found, svi.num_steps, svi.num_skipped, parameters))
    (one, *counts, parameters), (other, *counts_too, parameters_too) = results
    assert counts == counts_too
    torch.testing.assert_close(parameters, parameters_too, rtol=2e-5, atol=2e-5)
    if nonfinite == "raise":
        assert one == other
    else:
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5, equal_nan=True)


def test_a_copy_of_a_trainer_is_compiled_anew_and_leaves_the_first_alone():
    data = batches(30)
    expected, _, _ = train(modules(), False, data=data)
    _, first, _ = train(modules(), GRAPH, data=data[:12])
    noise = torch.get_rng_state()
    second = copy.deepcopy(first)
    before = [parameter.detach().clone() for parameter in first.model.parameters()]
    torch.set_rng_state(noise)
    found = torch.tensor([second.step(x) for x in data[12:]], dtype=torch.float64)
    torch.testing.assert_close(found, expected[12:], rtol=2e-5, atol=2e-5)
    assert second.compiled.num_compiled == 1
    torch.testing.assert_close(before, list(first.model.parameters()), rtol=0, atol=0)


def test_compiling_can_wait_until_it_pays(monkeypatch):
    monkeypatch.setattr("pyro_dgm.infer.compiling.payoff.SECONDS", 0.05)
    _, svi, _ = train(modules(), "auto", data=batches(3))
    assert svi.compiled is None or svi.compiled.num_compiled == 0
    svi._compiler = GRAPH
    for x in batches(100):
        svi.step(x)
    assert svi.compiled.num_compiled == 1


@pytest.mark.parametrize(("num_steps", "is_compiled"), [(10_000_000, True), (30, False), (0, False)])
def test_it_compiles_where_the_steps_to_come_are_worth_it(num_steps, is_compiled):
    """A step takes about a millisecond, so that ten million are worth a minute and thirty are not."""
    _, svi, _ = train(modules(), "auto", data=[])
    svi._compiler = GRAPH
    svi.expect(num_steps)
    for x in batches(20):
        svi.step(x)
    assert (svi.compiled is not None and svi.compiled.num_compiled == 1) == is_compiled


def test_a_run_of_fit_tells_how_many_steps_are_to_come():
    told = []
    _, svi, _ = train(modules(), "auto", data=batches(1))
    svi.expect = told.append
    fit(svi, batches(4), epochs=3, progress=False)
    fit(svi, batches(4), steps=7, progress=False)
    fit(svi, iter(batches(4)), epochs=1, progress=False)
    assert told == [12, 7]
    with refuses(ValueError, "at least 0", "-1"):
        train(modules(), "auto", data=[])[1].expect(-1)


def test_compile_is_checked_at_once():
    with refuses(ValueError, "'auto'", "'yes'"):
        train(modules(), "yes")
    with refuses(ValueError, "'graph'", "'nvcc'"):
        Compiler("nvcc")


@pytest.mark.parametrize("compile", [False, GRAPH])
def test_a_state_that_is_put_back_is_gone_on_from(compile):
    """Ten steps, and the last five of them again; compiled or not, before or after."""
    data = batches(15)
    expected, _, _ = train(modules(), False, data=data)
    _, first, _ = train(modules(), GRAPH, data=data[:10])
    state, noise = copy.deepcopy(first.state_dict()), torch.get_rng_state()
    _, second, _ = train(modules(), compile, data=data[:8])
    second.load_state_dict(state)
    torch.set_rng_state(noise)
    found = torch.tensor([second.step(x) for x in data[10:]], dtype=torch.float64)
    torch.testing.assert_close(found, expected[10:], rtol=2e-5, atol=2e-5)


def annealed_modules():
    model, guide = modules()()
    schedule = Linear(0.1, 1.0, 200)
    annealing = KLAnnealing(schedule)
    return annealing(model), annealing(guide)


@pytest.mark.parametrize(
    ("make", "optim"),
    [
        (modules(), adam),
        (modules(), functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9)),
        (modules(), pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.99})),
        (annealed_modules, adam),
    ],
)
@pytest.mark.parametrize("cut", [3, 12, 27])
def test_a_resumed_run_goes_on_bit_by_bit(make, optim, cut):
    """Steps of two kinds, of which none, the more common or both have been compiled before the cut."""
    data = [x if number % 5 else x[:3] for number, x in enumerate(batches(40))]
    expected, whole, _ = train(make, GRAPH, optim, data=data)
    first, svi, _ = train(make, GRAPH, optim, data=data[:cut])
    state, noise = copy.deepcopy(svi.state_dict()), torch.get_rng_state()
    assert len(json.loads(state["compiled"])) == 2
    _, other, _ = train(make, GRAPH, copy.deepcopy(optim), data=data[:1])
    other.load_state_dict(state)
    torch.set_rng_state(noise)
    rest = torch.tensor([other.step(x) for x in data[cut:]], dtype=torch.float64)
    assert torch.equal(torch.cat([first, rest]), expected)
    assert other.num_steps == whole.num_steps == 40
    for one, another in zip(other.optimizer.param_groups, whole.optimizer.param_groups, strict=True):
        torch.testing.assert_close(one["params"], another["params"], rtol=0.0, atol=0.0)


def test_a_resumed_run_refuses_what_was_refused_without_a_step_more():
    """Steps that are taken back cannot take back what a program counts, or the numbers it draws from NumPy."""
    counted = []

    def model(x):
        counted.append(len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(())), 1), obs=x[:, 0])

    def guide(x):
        pass

    def trainer():
        return SVI(model, guide, adam, Trace_ELBO(), compile=GRAPH)

    first = trainer()
    with pytest.warns(RuntimeWarning, match="own Python state"):
        assert all(math.isfinite(first.step(x)) for x in batches(8))
    state = copy.deepcopy(first.state_dict())
    other = trainer()
    other.step(batches(1)[0])
    other.load_state_dict(state)
    counted.clear()
    for x in batches(3):
        other.step(x)
    assert len(counted) == 3
    assert other.state_dict()["compiled"] == state["compiled"]


def test_a_kind_may_be_named_in_several_lines():
    """A module among the arguments is part of what makes a kind, and prints itself over several lines."""
    net = nn.Sequential(nn.Linear(FEATURES, 1), nn.Tanh())

    def model(x, net):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x)[:, 0], 1), obs=x[:, 0])

    def guide(x, net):
        pass

    svi, other = (SVI(model, guide, adam, Trace_ELBO(), compile=GRAPH) for _ in range(2))
    data = batches(10)
    assert all(math.isfinite(svi.step(x, net)) for x in data[:8])
    state = copy.deepcopy(svi.state_dict())
    other.step(data[0], net)
    other.load_state_dict(state)
    other.step(data[8], net)
    assert other.compiled.num_compiled == 1  # before that step, as it was in the run
    assert other.state_dict()["compiled"] == state["compiled"]


def test_a_warm_up_that_is_broken_off_changes_nothing():
    """Ctrl-C, or data that the programs refuse, while the step is compiled that was compiled before."""
    _, svi, _ = train(modules(), GRAPH, data=batches(20))
    state, noise = copy.deepcopy(svi.state_dict()), torch.get_rng_state()
    _, other, _ = train(modules(), GRAPH, data=batches(1))
    other.load_state_dict(state)
    run, num_runs = other.loss.loss_and_grads, []

    def broken_off(*args):
        num_runs.append(len(num_runs))
        if len(num_runs) == 3:
            raise KeyboardInterrupt
        return run(*args)

    other.loss.loss_and_grads = broken_off
    torch.set_rng_state(noise)
    with pytest.raises(KeyboardInterrupt):
        other.step(batches(21)[20])
    assert torch.equal(torch.get_rng_state(), noise)
    after = other.state_dict()
    assert after["num_steps"] == 20
    for name in ("modules", "optimizer"):
        torch.testing.assert_close(after[name], state[name], rtol=0.0, atol=0.0)


def test_a_run_of_fit_resumed_in_a_new_trainer_goes_on_bit_by_bit(tmp_path):
    data = batches(9)

    def run(epochs, folder, **options):
        _, svi, _ = train(modules(), GRAPH, data=[])
        result = fit(svi, data, epochs=epochs, checkpoint=folder, progress=False, **options)
        assert svi.compiled.num_compiled == 1
        return result.history, svi.model.state_dict()

    expected, weights = run(4, tmp_path / "whole")
    run(2, tmp_path / "parts")
    found, others = run(4, tmp_path / "parts", resume=True)
    assert [row["loss"] for row in found] == [row["loss"] for row in expected]
    torch.testing.assert_close(others, weights, rtol=0.0, atol=0.0)
