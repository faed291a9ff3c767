"""Expectation maximisation as a trainer: who moves when, where it ends, and that it resumes."""

import copy
import functools
import math

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, pyro_method
from torch import Tensor, nn

from contracts import refuses, tensors_of
from pyro_dgm.distributions import (
    Bernoulli,
    Categorical,
    DiagonalNormal,
    FullNormal,
    LearnableBernoulli,
    Normal,
    StandardNormal,
)
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import CUBO, ELBO, IWAE, SVI, Baseline, KLAnnealing, NonFiniteError, Relaxation
from pyro_dgm.infer.expectation_maximization import ExactEM, VariationalEM
from pyro_dgm.infer.schedules import Linear
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.models.linear_gaussian import LinearGaussian
from pyro_dgm.models.mixture import GaussianMixture
from pyro_dgm.nn import MLP
from pyro_dgm.training import fit

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
SGD = functools.partial(torch.optim.SGD, lr=1e-3)


def vae(width: int = 4) -> tuple[LatentVariableModel, AmortizedGuide]:
    model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6, hidden_features=(width,))))
    return model, AmortizedGuide(z=DiagonalNormal(MLP(6, 4, hidden_features=(width,))))


def batch(seed: int = 0) -> Tensor:
    return torch.rand(5, 6, generator=torch.Generator().manual_seed(seed)).round()


def linear_data(num: int = 100) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(num, 2, generator=generator, dtype=torch.float64)
    weight = torch.tensor([[1.5, 0.0], [-1.0, 0.7], [0.2, 1.2], [0.8, -0.5]]).double()
    return z @ weight.T + 0.5 * torch.randn(num, 4, generator=generator, dtype=torch.float64) + 1.0


def clusters(num: int = 90) -> Tensor:
    noise = torch.randn(num, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centres = torch.tensor([[0.0, 0], [3.0, -2], [-2.0, 3]]).double()
    return centres[torch.arange(num) % 3] + noise


def likelihood(model: GaussianMixture | LinearGaussian, x: Tensor) -> float:
    return float(model.log_evidence(x).mean().detach())


class Classes(nn.Module):
    """The posterior of a mixture of unit Gaussians is a softmax of a linear map: the exact family."""

    def __init__(self, features: int, components: int, degree: int = 1) -> None:
        super().__init__()
        self.degree = degree
        self.linear = nn.Linear(features * degree, components)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.cat([x**power for power in range(1, self.degree + 1)], -1))


# Who moves when


@pytest.mark.parametrize("objective", [ELBO(), IWAE(3), IWAE(3, gradient="dreg"), Trace_ELBO()])
@pytest.mark.parametrize("steps", [(1, 1), (3, 2)])
def test_an_e_step_moves_only_the_guide_and_an_m_step_only_the_model(objective, steps):
    """Bitwise: the moves are watched through the optimisers, and the order is E before M."""
    model, guide = vae()
    trainer = VariationalEM(model, guide, ADAM, objective, e_steps=steps[0], m_steps=steps[1])
    moves = []

    def watch(optimizer, name):
        before = []

        def note(*_):
            before[:] = [tensors_of(model), tensors_of(guide)]

        def compare(*_):
            moves.append(
                (
                    name,
                    all(map(torch.equal, before[0], tensors_of(model))),
                    all(map(torch.equal, before[1], tensors_of(guide))),
                )
            )

        optimizer.register_step_pre_hook(note)
        optimizer.register_step_post_hook(compare)

    watch(trainer.guide_optimizer, "E")
    watch(trainer.model_optimizer, "M")
    start = tensors_of(model), tensors_of(guide)
    trainer.step(batch())
    trainer.step(batch())
    assert moves == ([("E", True, False)] * steps[0] + [("M", False, True)] * steps[1]) * 2
    for old, module in zip(start, (model, guide), strict=True):
        assert not any(map(torch.equal, old, tensors_of(module)))


def test_steps_are_those_written_by_hand():
    """Momentum and all: two optimisers, each over its own program, one batch."""
    torch.manual_seed(0)
    model, guide = vae()
    by_hand = copy.deepcopy((model, guide))
    momentum = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    trainer = VariationalEM(model, guide, momentum, ELBO(), guide_optim=ADAM, e_steps=2)
    torch.manual_seed(1)
    losses = [trainer.step(batch(seed)) for seed in range(3)]

    optimizers = [ADAM(by_hand[1].parameters()), momentum(by_hand[0].parameters())]
    torch.manual_seed(1)
    expected = []
    for seed in range(3):
        for which in (0, 0, 1):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = ELBO().differentiable_loss(*by_hand, batch(seed))
            loss.backward()
            optimizers[which].step()
        expected.append(float(loss.detach()))
    assert losses == expected
    torch.testing.assert_close(tensors_of(model, guide), tensors_of(*by_hand), rtol=0.0, atol=0.0)


def test_no_gradient_is_left_over_for_the_other_program():
    model, guide = vae()
    trainer = VariationalEM(model, guide, SGD, ELBO())
    for parameter in (*model.parameters(), *guide.parameters()):
        parameter.grad = torch.full_like(parameter, 1e6)
    trainer.step(batch())
    assert all(parameter.abs().max() < 100 for parameter in (*model.parameters(), *guide.parameters()))


def test_a_network_baseline_learns_in_the_e_step():
    model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6, hidden_features=(4,))))
    baseline = Baseline(MLP(6, 1, hidden_features=(4,)))
    guide = AmortizedGuide(z=DiagonalNormal(MLP(6, 4, hidden_features=(4,))))
    before = [parameter.detach().clone() for parameter in baseline.parameters()]
    trainer = VariationalEM(model, guide, ADAM, ELBO(gradient="nvil", baseline=baseline))
    held = {id(p) for group in trainer.guide_optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in (*guide.parameters(), *baseline.parameters())}
    trainer.step(batch())
    assert not any(torch.equal(old, new) for old, new in zip(before, baseline.parameters(), strict=True))


def coded() -> tuple[LatentVariableModel, AmortizedGuide]:
    model = LatentVariableModel(LearnableBernoulli(3), Bernoulli(MLP(3, 6, hidden_features=(4,))))
    return model, AmortizedGuide(z=Bernoulli(MLP(6, 3, hidden_features=(4,))))


class Surrogate(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(9, 1)

    def forward(self, z, x):
        return self.net(torch.cat([z, x.expand(*z.shape[:-1], 6)], -1))


def network() -> Baseline:
    return Baseline(MLP(6, 1, hidden_features=(4,)))


WITH_PARTS = {
    "rebar": lambda: ELBO(gradient="rebar"),
    "gumbel": lambda: ELBO(gradient="gumbel"),
    "relax": lambda: ELBO(gradient="relax", relaxation=Relaxation(net=Surrogate())),
    "sum": lambda: 0.5 * ELBO(gradient="nvil", baseline=network()) + 0.5 * ELBO(gradient="nvil", baseline=network()),
}


@pytest.mark.parametrize("name", WITH_PARTS)
def test_whatever_an_objective_learns_learns_with_the_guide(name):
    torch.manual_seed(0)
    (model, guide), objective = coded(), WITH_PARTS[name]()
    parts = [parameter for part in objective.parts().values() for parameter in part.parameters()]
    trainer = VariationalEM(model, guide, ADAM, objective, e_steps=2)
    held = {id(p) for group in trainer.guide_optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in (*guide.parameters(), *parts)}
    before = [parameter.detach().clone() for parameter in parts if parameter.requires_grad]
    trainer.step(batch())
    after = [parameter for parameter in parts if parameter.requires_grad]
    assert bool(before) == (name != "gumbel")
    assert not any(map(torch.equal, before, after))


def test_an_annealed_program_and_a_temperature_advance_once_in_a_step():
    annealing = KLAnnealing(Linear(0.0, 1.0, over=4))
    temperature = Linear(1.0, 0.5, over=8)
    model, guide = coded()
    objective = ELBO(gradient="gumbel", relaxation=Relaxation(temperature))
    trainer = VariationalEM(annealing(model), annealing(guide), ADAM, objective, e_steps=3, m_steps=2)
    assert list(trainer.schedules()) == [annealing.schedule, temperature]
    weights = []
    for num_steps in range(1, 7):
        trainer.step(batch())
        weights.append(trainer.report()["kl_weight"])
        assert [schedule.num_steps for schedule in trainer.schedules()] == [num_steps] * 2
    assert weights == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert "elbo" in trainer.report(full=True)


def test_all_inner_steps_have_the_weight_of_their_step():
    annealing = KLAnnealing(Linear(0.0, 1.0, over=4))
    model, guide = vae()
    weights = []

    class Watched(PyroModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            weights.append(annealing.value)
            return self.model(x)

    trainer = VariationalEM(annealing(Watched()), annealing(guide), ADAM, Trace_ELBO(), e_steps=2, m_steps=1)
    for _ in range(3):
        trainer.step(batch())
    assert weights == [0.0] * 3 + [0.25] * 3 + [0.5] * 3


def test_a_step_that_was_skipped_altogether_does_not_advance():
    annealing = KLAnnealing(Linear(0.0, 1.0, over=4))
    model, guide = vae()
    trainer = VariationalEM(annealing(model), annealing(guide), ADAM, ELBO(), nonfinite="skip")
    trainer.step(batch())
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    trainer.step(batch())
    assert annealing.schedule.num_steps == 1


def test_fit_refuses_a_schedule_that_cannot_finish():
    annealing = KLAnnealing(Linear(0.0, 1.0, over=100))
    model, guide = vae()
    trainer = VariationalEM(annealing(model), annealing(guide), ADAM, ELBO(), e_steps=50, m_steps=50)
    with refuses(ValueError, "every schedule", "got 3 steps"):
        fit(trainer, [batch()], epochs=3, progress=False)
    fit(trainer, [batch()], epochs=100, progress=False)
    assert annealing.schedule.num_steps == 100


def test_a_pyro_optimiser_and_an_autoguide_that_has_run_will_do():
    class Scale(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.tensor(0.8), constraint=dist.constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, self.scale), obs=x)

    model = Scale()
    guide = AutoNormal(model)
    x = torch.randn(5)
    with refuses(ValueError, "AutoNormal without parameters", "call an AutoGuide once"):
        VariationalEM(model, guide, ADAM, ELBO())
    guide(x)
    trainer = VariationalEM(model, guide, pyro.optim.Adam({"lr": 0.01}), ELBO())
    before = tensors_of(model, guide)
    trainer.step(x)
    assert not any(map(torch.equal, before, tensors_of(model, guide)))


# Where it ends


def test_the_exact_family_reaches_the_likelihood_of_the_closed_form():
    """Probabilistic PCA with a linear full-covariance guide by "stl"; 400 steps, seed 0, within 0.005 nats per datum.

    The bound itself, without noise at the optimum, is within the same.
    """
    torch.manual_seed(0)
    x = linear_data()
    best = LinearGaussian(2, 4).double()
    best.fit_closed_form(x)
    model = LinearGaussian(2, 4).double()
    guide = AmortizedGuide(z=FullNormal(MLP(4, FullNormal.num_parameters(2), hidden_features=()))).double()
    trainer = VariationalEM(model, guide, functools.partial(torch.optim.Adam, lr=0.05), ELBO(gradient="stl"))
    schedulers = [
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
        for optimizer in (trainer.guide_optimizer, trainer.model_optimizer)
    ]
    assert likelihood(model, x) < likelihood(best, x) - 0.3
    for _ in range(400):
        trainer.step(x)
        for scheduler in schedulers:
            scheduler.step()
    assert likelihood(best, x) - 0.005 < likelihood(model, x) < likelihood(best, x)
    assert -trainer.evaluate_loss(x) / len(x) == pytest.approx(likelihood(best, x), abs=0.005)


@pytest.mark.parametrize("objective", [ELBO(4), IWAE(8)], ids=["ELBO-loo", "VIMCO"])
def test_a_categorical_guide_approaches_the_likelihood_of_exact_em(objective):
    """From the same start, 150 steps on 90 data of three classes, within 0.01 nats per datum of 200 exact ones."""
    torch.manual_seed(0)
    x = clusters()
    model = GaussianMixture(3, 2).double()
    model.initialize(x)
    exact = copy.deepcopy(model)
    start = likelihood(model, x)
    fit(ExactEM(exact), [x], epochs=200, progress=False)
    guide = AmortizedGuide(z=Categorical(Classes(2, 3, degree=2))).double()
    slow, quick = (functools.partial(torch.optim.Adam, lr=lr) for lr in (0.05, 0.1))
    trainer = VariationalEM(model, guide, slow, objective, guide_optim=quick, e_steps=8)
    for _ in range(150):
        trainer.step(x)
    assert likelihood(exact, x) - 0.01 < likelihood(model, x) < likelihood(exact, x) + 1e-3
    assert likelihood(model, x) > start + 0.05


def test_svi_trains_the_mixture_as_well():
    torch.manual_seed(0)
    x = clusters().float()
    model = GaussianMixture(3, 2)
    model.initialize(x)
    before = likelihood(model, x)
    svi = SVI(
        model, AmortizedGuide(z=Categorical(Classes(2, 3))), functools.partial(torch.optim.Adam, lr=0.03), IWAE(8)
    )
    for _ in range(200):
        svi.step(x)
    assert likelihood(model, x) > before + 0.02


@pytest.mark.parametrize("build", [lambda: GaussianMixture(3, 4), lambda: LinearGaussian(2, 4)])
def test_fit_drives_exact_em(build):
    x = linear_data()
    torch.manual_seed(0)
    model = build().double()
    by_hand = copy.deepcopy(model)
    result = fit(ExactEM(model), [x], epochs=20, progress=False)
    values = [by_hand.em_step(x) for _ in range(20)]
    assert [row["loss"] for row in result.history] == pytest.approx([-value for value in values], rel=1e-12)
    assert ExactEM(model).evaluate_loss(x) == pytest.approx(-likelihood(by_hand, x) * len(x), rel=1e-12)
    torch.testing.assert_close(tensors_of(model), tensors_of(by_hand), rtol=0.0, atol=0.0)


# State


def trainers():
    return {
        "variational": lambda: VariationalEM(*vae(), ADAM, ELBO(gradient="stl"), e_steps=2),
        "discrete": lambda: VariationalEM(
            LatentVariableModel(Bernoulli(MLP(6, 6, hidden_features=())), Normal(MLP(6, 6, hidden_features=()))),
            AmortizedGuide(z=Bernoulli(MLP(6, 6, hidden_features=()))),
            ADAM,
            ELBO(),
        ),
        "exact": lambda: ExactEM(LinearGaussian(2, 6)),
        "mixture": lambda: ExactEM(GaussianMixture(2, 6)),
    }


def data_of(name: str) -> list[Tensor]:
    if name == "variational":
        return [batch(seed) for seed in range(4)]
    return [linear_data().float()[:, [0, 1, 2, 3, 0, 1]] + 0.1 * torch.randn(100, 6)]


@pytest.mark.parametrize("name", ["variational", "exact", "mixture"])
def test_training_resumes_bitwise_under_fit(name, tmp_path):
    torch.manual_seed(0)
    data = data_of(name)
    torch.manual_seed(1)
    straight = trainers()[name]()
    fit(straight, data, epochs=6, progress=False)
    torch.manual_seed(1)
    fit(trainers()[name](), data, epochs=3, checkpoint=tmp_path, progress=False)
    torch.manual_seed(99)
    resumed = trainers()[name]()
    fit(resumed, data, epochs=6, checkpoint=tmp_path, resume=True, progress=False)
    assert_same(straight.state_dict(), resumed.state_dict())


def assert_same(first, second) -> None:
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        for pair in zip(first, second, strict=True):
            assert_same(*pair)
    else:
        assert first == second


def test_a_state_of_something_else_is_refused_and_changes_nothing():
    trainer = VariationalEM(*vae(), ADAM, ELBO())
    trainer.step(batch())
    own = copy.deepcopy(trainer.state_dict())
    other_model = VariationalEM(*vae(5), ADAM, ELBO())
    other_optim = VariationalEM(*vae(), SGD, ELBO(), guide_optim=ADAM)
    svi = SVI(*vae(), ADAM, ELBO())
    for other, part in ((other_model, "shapes"), (other_optim, "SGD"), (svi, "e_step")):
        other.step(batch())
        with refuses(ValueError, part):
            trainer.load_state_dict(other.state_dict())
        assert_same(trainer.state_dict(), own)
    exact = ExactEM(LinearGaussian(2, 6))
    for state in ({}, ExactEM(LinearGaussian(3, 6)).state_dict(), {"model": exact.state_dict()["model"]}):
        with refuses(ValueError, "ExactEM", "(6, 2)"):
            exact.load_state_dict(state)


# What is not finite


def test_a_step_that_is_not_finite_raises_before_anything_moves():
    model, guide = vae()
    trainer = VariationalEM(model, guide, ADAM, ELBO())
    trainer.step(batch())
    with torch.no_grad():
        next(model.parameters()).fill_(math.inf)
    before = tensors_of(model, guide)
    with pytest.raises(NonFiniteError, match=r"x.*nonfinite='skip'"):
        trainer.step(batch())
    torch.testing.assert_close(tensors_of(model, guide), before, rtol=0.0, atol=0.0, equal_nan=True)


def test_a_step_that_is_not_finite_may_be_skipped():
    model, guide = vae()
    trainer = VariationalEM(model, guide, ADAM, ELBO(), e_steps=2, nonfinite="skip")
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    before = tensors_of(guide)
    assert math.isnan(trainer.step(batch()))
    assert trainer.num_skipped == 3
    torch.testing.assert_close(tensors_of(guide), before, rtol=0.0, atol=0.0)


def test_exact_em_of_a_model_that_is_not_finite_raises():
    trainer = ExactEM(LinearGaussian(1, 2))
    before = tensors_of(trainer.model)
    with pytest.raises(NonFiniteError, match="must be finite; got loss nan at step 1"):
        trainer.step(1e30 * torch.tensor([[1.0, -1.0], [-1.0, 2.0], [0.0, 5.0]]))
    assert all(map(torch.equal, tensors_of(trainer.model), before))


def test_exact_em_that_would_ruin_a_parameter_raises_and_puts_it_back():
    class Ruinous(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(2))

        def log_evidence(self, x):
            return torch.zeros(len(x))

        def em_step(self, x):
            with torch.no_grad():
                self.loc[1] = math.nan
            return 0.0

    model = Ruinous()
    with pytest.raises(NonFiniteError, match=r"got loss -0.0 at step 1, and NaN or infinity in \['loc'\]"):
        ExactEM(model).step(torch.zeros(3, 2))
    assert torch.equal(model.loc, torch.zeros(2))


# What is refused


class Both(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    @pyro_method
    def model(self, x):
        return None

    @pyro_method
    def guide(self, x):
        return None


def sharing():
    model, _ = vae()
    return model, AmortizedGuide(
        z=DiagonalNormal(nn.Sequential(nn.Linear(6, 2), model.likelihood.net, nn.Linear(6, 4)))
    )


def functions():
    return (lambda x: None), vae()[1]


def scheduled():
    return pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.9})


def make(programs=vae, optim=ADAM, loss=None, **options):
    return VariationalEM(*programs(), optim, ELBO() if loss is None else loss, **options)


BAD = [
    (lambda: make(e_steps=0), ValueError, ("e_steps", "got 0")),
    (lambda: make(m_steps=1.0), ValueError, ("m_steps", "got 1.0")),
    (lambda: make(sharing), ValueError, ("without common parameters", "likelihood.net", "SVI")),
    (lambda: make(lambda: (Both().model, vae()[1]), loss=Trace_ELBO, optim=ADAM), TypeError, ("make an instance",)),
    (lambda: make(functions), ValueError, ("no module as model", "PyroModule")),
    (lambda: make(optim=torch.optim.Adam(vae()[0].parameters())), TypeError, ("ready Adam", "partial")),
    (lambda: make(optim="adam"), TypeError, ("optim", "got str")),
    (lambda: make(optim=scheduled()), TypeError, ("a PyroLRScheduler", "guide_optimizer")),
    (lambda: make(nonfinite="ignore"), ValueError, ("nonfinite", "'ignore'")),
    (lambda: make(clip_norm=-1.0), ValueError, ("clip_norm", "-1.0")),
    (lambda: ExactEM(vae()[0]), TypeError, ("em_step", "LatentVariableModel")),
    (lambda: ExactEM(LinearGaussian), TypeError, ("em_step",)),
    (lambda: ExactEM(LinearGaussian(1, 2)).step(torch.zeros(3, 4)), ValueError, ("(B, 2)",)),
]


@pytest.mark.parametrize(("call", "error", "parts"), BAD)
def test_bad_input_is_refused_with_the_cure(call, error, parts):
    with refuses(error, *[part.replace("make an instance", "Make an instance") for part in parts]):
        call()


def test_methods_of_one_module_share_their_parameters():
    both = Both()
    with refuses(ValueError, "common parameters", "model.net.weight"):
        VariationalEM(both.model, both.guide, ADAM, ELBO())


def test_parameters_of_the_store_are_of_neither_module():
    model, guide = vae()

    class Stored(PyroModule):
        def __init__(self):
            super().__init__()
            self.guide = guide

        def forward(self, x):
            pyro.param("temperature", torch.tensor(1.0))
            return self.guide(x)

    trainer = VariationalEM(model, Stored(), ADAM, ELBO())
    before = tensors_of(model, guide)
    for _ in range(2):
        with refuses(ValueError, "of neither", "'temperature'"):
            trainer.step(batch())
    assert all(map(torch.equal, before, tensors_of(model, guide)))


def test_an_objective_that_trains_one_program_is_refused_before_anything_moves():
    model, guide = vae()
    before = tensors_of(model, guide)
    for objective, part in ((ELBO(moves="guide"), "the model by ELBO"), (CUBO(3), "the model by CUBO")):
        trainer = VariationalEM(model, guide, ADAM, objective)
        with refuses(ValueError, part, "SVI"):
            trainer.step(batch())
        assert all(map(torch.equal, before, tensors_of(model, guide)))
    with refuses(ValueError, "train something"):
        VariationalEM(model, guide, ADAM, ELBO(moves="model")).step(batch())
    assert all(map(torch.equal, before, tensors_of(model, guide)))


def test_a_copy_trains_as_the_original():
    trainer = VariationalEM(*vae(), ADAM, ELBO())
    trainer.step(batch())
    copied = copy.deepcopy(trainer)
    torch.manual_seed(1)
    loss = trainer.step(batch())
    torch.manual_seed(1)
    assert copied.step(batch()) == loss


def test_an_objective_may_not_share_parameters_with_the_model():
    model, guide = vae()
    baseline = Baseline(nn.Sequential(nn.Linear(6, 2), model.likelihood.net, nn.Linear(6, 1)))
    with refuses(ValueError, "without common parameters", "likelihood.net"):
        VariationalEM(model, guide, ADAM, ELBO(gradient="nvil", baseline=baseline))


def test_a_baseline_on_the_guides_network_is_held_once():
    model, guide = vae()
    baseline = Baseline(nn.Sequential(guide.sites.z.net, nn.Linear(4, 1)))
    trainer = VariationalEM(model, guide, ADAM, ELBO(gradient="nvil", baseline=baseline))
    held = [p for group in trainer.guide_optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(guide.parameters())) + 2
