import functools
import math

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn

from contracts import refuses
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO, IWAE, SVI, NonFiniteError
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

ADAM = functools.partial(torch.optim.Adam, lr=0.05)
SGD = functools.partial(torch.optim.SGD, lr=0.05)


def model(x):
    scale = pyro.param("scale", torch.tensor(0.8), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def guide(x):
    slope = pyro.param("slope", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, 0.7))


def store_values():
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def store_programs():
    return model, guide


def pyro_modules():
    """A user's own PyroModules, with a constrained parameter and a plain network."""

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.tensor(0.8), constraint=dist.constraints.positive)
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(self.bias, 1.0))
                pyro.sample("x", dist.Normal(z, self.scale), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = PyroModule[nn.Linear](1, 1)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x[:, None])[:, 0], 0.7))

    return Model(), Guide()


def registered_modules():
    """Plain networks announced by pyro.module."""
    decoder, encoder = nn.Linear(1, 1), nn.Linear(1, 1)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(decoder(z[:, None])[:, 0], 1.0), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x[:, None])[:, 0], 0.7))

    return model, guide


def autoguide():
    return model, AutoNormal(model)


def our_programs():
    ours = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6, hidden_features=(4,))))
    encoder = AmortizedGuide(z=DiagonalNormal(MLP(6, 4, hidden_features=(4,))))
    return lambda x: ours(_binary(x)), lambda x: encoder(_binary(x))


def our_modules():
    ours = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6, hidden_features=(4,))))
    return ours, AmortizedGuide(z=DiagonalNormal(MLP(6, 4, hidden_features=(4,))))


def _binary(x):
    return (x[:, None] > torch.linspace(-1, 1, 6)).float()


PROGRAMS = [store_programs, pyro_modules, registered_modules, autoguide, our_programs, our_modules]
OPTIMS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.05, "betas": (0.8, 0.99)}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "clip_norm": 0.5, "lrd": 0.9}),
    "SGD": lambda: pyro.optim.SGD({"lr": 0.01, "momentum": 0.9}),
    "by name": lambda: pyro.optim.Adam(lambda name: {"lr": 0.1 if "slope" in name or "scale" in name else 0.01}),
}


def trajectory(svi_class, make, optim, objective, steps=8):
    """The losses of some steps on changing data, from the same start."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    programs = make()
    svi = svi_class(*programs, optim, objective)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        x = torch.randn(5) + 1
        losses.append(svi.step(_binary(x) if make is our_modules else x))
    return losses


# The same as Pyro's


@pytest.mark.parametrize("make", PROGRAMS)
@pytest.mark.parametrize("kind", ["Adam", "ClippedAdam", "SGD"])
def test_the_trajectory_is_that_of_pyros_svi(make, kind):
    stock = trajectory(pyro.infer.SVI, make, OPTIMS[kind](), Trace_ELBO())
    ours = trajectory(SVI, make, OPTIMS[kind](), Trace_ELBO())
    assert ours == pytest.approx(stock, rel=1e-5)


@pytest.mark.parametrize("make", [store_programs, registered_modules, autoguide])
def test_the_trajectory_is_that_of_pyros_svi_with_a_rate_for_each_name(make):
    """For programs of the global store: Pyro has no name for a module's own parameter, we have."""
    stock = trajectory(pyro.infer.SVI, make, OPTIMS["by name"](), Trace_ELBO())
    ours = trajectory(SVI, make, OPTIMS["by name"](), Trace_ELBO())
    assert ours == pytest.approx(stock, rel=1e-5)


@pytest.mark.parametrize(
    "objective",
    [
        lambda: ELBO(),
        lambda: ELBO(3),
        lambda: IWAE(3, vectorize_particles=False),
        lambda: TraceGraph_ELBO(),
        lambda: TraceMeanField_ELBO(2),
    ],
)
def test_the_trajectory_is_that_of_pyros_svi_under_any_objective(objective):
    stock = trajectory(pyro.infer.SVI, store_programs, OPTIMS["Adam"](), objective())
    assert trajectory(SVI, store_programs, OPTIMS["Adam"](), objective()) == pytest.approx(stock, rel=1e-5)


@pytest.mark.parametrize("make", [pyro_modules, registered_modules, our_modules, our_programs])
def test_module_local_params_change_nothing(make):
    losses = []
    for local in (True, False):
        with pyro.settings.context(module_local_params=local):
            losses.append(trajectory(SVI, make, ADAM, ELBO()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("local", [True, False])
def test_an_autoguide_of_a_module_is_trained_with_its_model(local):
    with pyro.settings.context(module_local_params=local):
        model, _ = pyro_modules()
        guide = AutoNormal(model)
        svi = SVI(model, guide, ADAM, ELBO())
        svi.step(torch.ones(4))
        before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        svi.step(torch.ones(4))
        after = [*model.parameters(), *guide.parameters()]
        assert len(after) == 4
        assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["partial", "ready", "PyroOptim"])
def test_one_torch_optimiser_holds_all_parameters(kind):
    ours, encoder = our_modules()
    parameters = [*ours.parameters(), *encoder.parameters()]
    ready = torch.optim.Adam(parameters, lr=0.05)
    optim = {"partial": ADAM, "ready": ready, "PyroOptim": pyro.optim.Adam({"lr": 0.05})}
    svi = SVI(ours, encoder, optim[kind], ELBO())
    assert isinstance(svi.optimizer, torch.optim.Adam)
    assert (svi.optimizer is optim[kind]) == (kind == "ready")
    held = [p for group in svi.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in parameters}
    svi.step(torch.rand(4, 6).round())
    assert len([p for group in svi.optimizer.param_groups for p in group["params"]]) == len(parameters)


@pytest.mark.parametrize("make", [store_programs, registered_modules])
def test_a_pyro_optimiser_asks_for_arguments_by_the_names_pyro_uses(make):
    asked = {}
    for kind in (pyro.infer.SVI, SVI):
        names = asked[kind] = set()
        trajectory(kind, make, pyro.optim.Adam(functools.partial(_remember, names)), ELBO(), 2)
    assert asked[SVI] == asked[pyro.infer.SVI] != set()


def _remember(names, name):
    names.add(name)
    return {"lr": 0.01}


def test_parameters_of_modules_are_named_by_program():
    names = set()
    ours, encoder = our_modules()
    SVI(ours, encoder, pyro.optim.Adam(functools.partial(_remember, names)), ELBO())
    assert {"model.likelihood.net.layers.0.weight", "guide.sites.z.net.layers.0.bias"} <= names


def test_two_names_of_one_parameter_are_one_parameter():
    shared = nn.Linear(1, 1)

    def tied_model(x):
        pyro.module("decoder", shared)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(shared(z[:, None])[:, 0], 1.0), obs=x)

    def tied_guide(x):
        pyro.module("encoder", shared)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(shared(x[:, None])[:, 0], 0.7))

    svi = SVI(tied_model, tied_guide, ADAM, ELBO())
    before = shared.weight.detach().clone()
    svi.step(torch.ones(4))
    assert len([p for group in svi.optimizer.param_groups for p in group["params"]]) == 2
    assert not torch.equal(shared.weight, before)


@pytest.mark.parametrize("optim", [ADAM, pyro.optim.Adam({"lr": 0.05}), pyro.optim.Adam(lambda name: {"lr": 0.05})])
def test_a_parameter_born_later_joins(optim):
    def growing(x, late):
        slope = pyro.param("slope", torch.tensor(0.1))
        shift = pyro.param("shift", torch.tensor(0.0)) if late else 0.0
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x + shift, 0.7))

    svi = SVI(lambda x, late: model(x), growing, optim, ELBO())
    svi.step(torch.ones(4), late=False)
    svi.step(torch.ones(4), late=True)
    assert pyro.param("shift") != 0
    svi.step(torch.ones(4), late=False)
    assert {"slope", "shift", "scale"} <= set(svi.state_dict()["store"])
    assert svi.num_steps == 3


def test_a_ready_optimiser_decides_what_is_trained():
    ours, encoder = our_modules()
    svi = SVI(ours, encoder, torch.optim.SGD(encoder.parameters(), lr=0.1), ELBO())
    before = [p.detach().clone() for p in ours.parameters()]
    svi.step(torch.rand(4, 6).round())
    assert all(torch.equal(p, old) for p, old in zip(ours.parameters(), before, strict=True))


def test_gradients_left_in_the_store_do_not_count():
    """By an earlier trainer or by anybody's backward."""
    x = torch.ones(4)

    def gradient():
        torch.manual_seed(1)
        SVI(model, guide, functools.partial(torch.optim.SGD, lr=0.0), ELBO()).step(x)
        return dict(pyro.get_param_store().named_parameters())["slope"].grad.clone()

    assert torch.equal(gradient(), gradient())


def test_evaluate_loss_takes_no_step():
    svi = SVI(model, guide, ADAM, ELBO())
    x = torch.ones(4)
    torch.manual_seed(0)
    loss = svi.evaluate_loss(x)
    assert isinstance(loss, float)
    before = store_values()
    torch.manual_seed(0)
    assert svi.evaluate_loss(x) == loss
    assert store_values() == before
    assert svi.num_steps == 0
    torch.manual_seed(0)
    assert svi.step(x) == pytest.approx(loss)
    assert svi.num_steps == 1


def test_a_learning_rate_scheduler_holds_the_optimiser():
    ours, encoder = our_modules()
    svi = SVI(ours, encoder, SGD, ELBO())
    scheduler = torch.optim.lr_scheduler.StepLR(svi.optimizer, 1, gamma=0.0)
    svi.step(torch.rand(4, 6).round())
    scheduler.step()
    before = [p.detach().clone() for p in ours.parameters()]
    svi.step(torch.rand(4, 6).round())
    assert all(torch.equal(p, old) for p, old in zip(ours.parameters(), before, strict=True))


# Clipping


def test_clip_norm_clips_the_norm_of_all_gradients_together():
    ours, encoder = our_modules()
    parameters = [*ours.parameters(), *encoder.parameters()]
    x = torch.rand(4, 6).round()
    moves = {}
    for clip in (None, 0.01, 1e9):
        torch.manual_seed(0)
        before = [p.detach().clone() for p in parameters]
        SVI(ours, encoder, functools.partial(torch.optim.SGD, lr=1.0), ELBO(), clip_norm=clip).step(x)
        moves[clip] = torch.cat([(p.detach() - old).flatten() for p, old in zip(parameters, before, strict=True)])
        with torch.no_grad():
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)
    assert moves[None].norm() > 0.1
    assert math.isclose(moves[0.01].norm(), 0.01, rel_tol=1e-3)
    torch.testing.assert_close(moves[0.01] / moves[0.01].norm(), moves[None] / moves[None].norm(), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(moves[1e9], moves[None])


# Not finite


def nan_gradient_guide(x):
    """The square root's gradient is infinite at 0, its value is not."""
    slope = pyro.param("slope", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope.sqrt() * x, 0.7))


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWAE(3), Trace_ELBO(), ELBO(2, vectorize_particles=False)])
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_nan_in_the_data_is_named_before_the_step(objective):
    svi = SVI(model, guide, ADAM, objective)
    with pyro.validation_enabled(False):
        svi.step(torch.ones(4))
        svi.step(torch.ones(4))
        before = store_values()
        with refuses(NonFiniteError, "step 3", "model.x", "nan", "nonfinite='skip'"):
            svi.step(torch.tensor([1.0, torch.nan]))
        assert store_values() == before
        assert svi.num_steps == 2
        svi.step(torch.ones(4))
    assert all(value.isfinite() for value in store_values().values())


def test_a_gradient_that_is_not_finite_is_named_though_the_loss_is():
    svi = SVI(model, nan_gradient_guide, ADAM, ELBO())
    with refuses(NonFiniteError, "step 1", "the gradient of slope"):
        svi.step(torch.ones(4))
    assert pyro.param("slope") == 0
    assert svi.num_steps == 0


@pytest.mark.filterwarnings("ignore:Encountered")
def test_particles_are_searched_as_they_were_drawn():
    """One particle in a few divides by zero, so that only the same draws show it."""

    def risky_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(torch.where(z > 2, torch.nan, z), 1.0), obs=x)

    svi = SVI(risky_model, guide, ADAM, ELBO(200))
    with pyro.validation_enabled(False), refuses(NonFiniteError, "model.x"):
        svi.step(torch.ones(1))


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_step_that_is_not_finite_may_be_skipped():
    svi = SVI(model, guide, ADAM, ELBO(), nonfinite="skip")
    with pyro.validation_enabled(False):
        svi.step(torch.ones(4))
        before = store_values()
        assert math.isnan(svi.step(torch.tensor([1.0, torch.nan])))
        assert store_values() == before
        assert (svi.num_steps, svi.num_skipped) == (1, 1)
        svi.step(torch.ones(4))
    assert store_values() != before


def test_the_search_for_what_is_not_finite_leaves_the_generator_alone():
    svi = SVI(model, nan_gradient_guide, ADAM, ELBO())
    torch.manual_seed(0)
    skipping = SVI(model, nan_gradient_guide, ADAM, ELBO(), nonfinite="skip")
    skipping.step(torch.ones(4))
    expected = torch.get_rng_state()
    torch.manual_seed(0)
    with pytest.raises(NonFiniteError):
        svi.step(torch.ones(4))
    assert torch.equal(torch.get_rng_state(), expected)


# Bad input


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("kind", ["partial", "ready", "PyroOptim", "by name"])
def test_a_learning_rate_that_is_negative_or_not_finite(rate, kind):
    ours, encoder = our_modules()
    makers = {
        "partial": lambda: functools.partial(torch.optim.Adam, lr=rate),
        "ready": lambda: _ready(encoder, rate),
        "PyroOptim": lambda: pyro.optim.Adam({"lr": rate}),
        "by name": lambda: pyro.optim.Adam(lambda name: {"lr": rate}),
    }
    with refuses(ValueError, str(rate), "1e-3"):
        SVI(ours, encoder, makers[kind](), ELBO())
    if kind != "ready":
        with refuses(ValueError, str(rate)):
            SVI(model, guide, makers[kind](), ELBO()).step(torch.ones(4))
        assert pyro.param("slope") == torch.tensor(0.1)


def _ready(module, rate):
    optimizer = torch.optim.Adam(module.parameters(), lr=1.0)
    optimizer.param_groups[0]["lr"] = rate
    return optimizer


def test_an_optimiser_of_other_parameters():
    ours, encoder = our_modules()
    stranger = nn.Linear(1, 1)
    svi = SVI(ours, encoder, torch.optim.Adam(stranger.parameters()), ELBO())
    with refuses(ValueError, "no gradient", "holds them"):
        svi.step(torch.rand(4, 6).round())


def test_programs_without_parameters(exact):
    svi = SVI(exact.model, exact.exact_guide, ADAM, ELBO())
    with refuses(ValueError, "no gradient"):
        svi.step(exact.x)
    assert svi.evaluate_loss(exact.x) == pytest.approx(-float(exact.log_evidence(exact.x).sum()))


def test_programs_that_are_frozen():
    ours, encoder = our_modules()
    ours.requires_grad_(False)
    encoder.requires_grad_(False)
    with refuses(ValueError, "no gradient", "requires_grad"):
        SVI(ours, encoder, ADAM, ELBO()).step(torch.rand(4, 6).round())


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        ("adam", ("str", "functools.partial")),
        (None, ("NoneType",)),
    ],
)
def test_an_optimiser_of_no_known_kind(bad, parts):
    with refuses(TypeError, *parts):
        SVI(*our_modules(), bad, ELBO())


@pytest.mark.parametrize("bad", [ELBO, Trace_ELBO().loss, None, "elbo", nn.MSELoss()])
def test_a_loss_of_no_known_kind(bad):
    with refuses(TypeError, "loss must be an objective"):
        SVI(model, guide, ADAM, bad)


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf])
def test_a_norm_that_cannot_be_clipped_to(bad):
    with refuses(ValueError, "clip_norm", str(bad)):
        SVI(model, guide, ADAM, ELBO(), clip_norm=bad)


def test_an_unknown_policy():
    with refuses(ValueError, "nonfinite", "'ignore'"):
        SVI(model, guide, ADAM, ELBO(), nonfinite="ignore")


def test_the_optimiser_of_programs_that_have_not_run():
    svi = SVI(model, guide, ADAM, ELBO())
    with refuses(ValueError, "Call step"):
        _ = svi.optimizer
    svi.evaluate_loss(torch.ones(4))
    assert isinstance(svi.optimizer, torch.optim.Adam)


def test_divergence_that_validation_meets_first_is_named_and_leaves_the_parameters():
    """With validation on, Pyro refuses a NaN scale before there is a loss (pitfall 20)."""
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 4)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            loc, log_scale = self.net(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    svi = SVI(model, Guide(), SGD, ELBO())
    with torch.no_grad():
        net.bias.fill_(torch.inf)
    before = net.weight.detach().clone()
    with pytest.raises(NonFiniteError, match=r"at step 1, with NaN or infinity in guide\.z"):
        svi.step(torch.ones(3, 2))
    assert torch.equal(net.weight, before)
    skipping = SVI(model, Guide(), SGD, ELBO(), nonfinite="skip")
    assert torch.isnan(torch.tensor(skipping.step(torch.ones(3, 2))))
    assert skipping.num_skipped == 1


@pytest.mark.parametrize("num_steps", [1, 5])
def test_a_running_baseline_of_pyros_is_one_parameter_however_often_it_is_replaced(num_steps):
    logit = torch.nn.Linear(1, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.module("logit", logit)
        with pyro.plate("data", len(x)):
            infer = {"baseline": {"use_decaying_avg_baseline": True}}
            pyro.sample("z", dist.Bernoulli(logits=logit(x.unsqueeze(-1)).squeeze(-1)), infer=infer)

    pyro.clear_param_store()
    svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.01), TraceGraph_ELBO())
    for _ in range(num_steps):
        svi.step(torch.randn(4))
    held = [parameter for group in svi.optimizer.param_groups for parameter in group["params"]]
    assert len(held) == 3


def test_an_optimiser_of_no_known_kind_is_refused_before_there_are_parameters():
    with refuses(TypeError, "torch optimiser", "str"):
        SVI(lambda x: None, lambda x: None, "adam", ELBO())
