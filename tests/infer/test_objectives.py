import copy
import functools
import math

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn

from contracts import refuses
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO, IWAE, BoundObjective, Objective, log_weights
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

OBJECTIVES = [
    ELBO(),
    ELBO(3),
    ELBO(3, vectorize_particles=False),
    ELBO(analytic_kl=True),
    ELBO(3, analytic_kl=True),
    IWAE(1),
    IWAE(3),
    IWAE(3, vectorize_particles=False),
]

SAMPLED = [objective for objective in OBJECTIVES if not getattr(objective, "analytic_kl", False)]


def describe(objective):
    parts = [type(objective).__name__, str(objective.num_particles)]
    parts += [] if objective.vectorize_particles else ["in turn"]
    parts += ["analytic"] if getattr(objective, "analytic_kl", False) else []
    return " ".join(parts)


every_objective = pytest.mark.parametrize("objective", [copy.copy(objective) for objective in OBJECTIVES], ids=describe)


class Amortized(nn.Module):
    """A linear guide with its own scale, as a module with ``forward``; in float64."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(3, 2).double()
        self.log_scale = nn.Parameter(torch.tensor([-0.3, 0.2]).double())

    def forward(self, x, data_size=None):
        with pyro.plate("data", data_size or len(x), subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(self.encode(x), self.log_scale.exp()).to_event(1))


class Both(PyroModule):
    """Model and guide as methods of one PyroModule."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.decoder = nn.Linear(2, 3)
        self.noise = PyroParam(torch.tensor(0.5), constraint=dist.constraints.positive)

    @pyro.nn.pyro_method
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.noise).to_event(1), obs=x)

    @pyro.nn.pyro_method
    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def our_programs():
    model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6, hidden_features=(5,))))
    return model, AmortizedGuide(z=DiagonalNormal(MLP(6, 4, hidden_features=(5,))))


# Values


@pytest.mark.parametrize("objective", [copy.copy(each) for each in SAMPLED], ids=describe)
def test_the_bound_is_the_evidence_when_the_guide_is_exact(exact, objective):
    for size in (7, 700):
        loss = objective.loss(exact.model, exact.exact_guide, exact.x, data_size=size)
        torch.testing.assert_close(-loss, size / 7 * exact.log_evidence(exact.x).sum())


@every_objective
def test_a_bound_per_datum_does_not_change_with_the_data_it_stands_for(exact, objective):
    guide = Amortized()
    losses = []
    for size in (7, 7000):
        torch.manual_seed(0)
        losses.append(objective.loss(exact.model, guide, exact.x, data_size=size) / size)
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("vectorize", [True, False])
def test_elbo_and_its_gradient_equal_stock_trace_elbo_on_the_same_draws(exact, num_particles, vectorize):
    guide = Amortized()
    results = []
    for objective in (
        Trace_ELBO(num_particles, vectorize_particles=vectorize and num_particles > 1, max_plate_nesting=1),
        ELBO(num_particles, vectorize_particles=vectorize),
    ):
        guide.zero_grad()
        torch.manual_seed(0)
        loss = objective.differentiable_loss(exact.model, guide, exact.x, data_size=70)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in guide.parameters())])
    torch.testing.assert_close(*results)


def test_iwae_of_one_particle_is_the_elbo_on_the_same_draw(exact):
    guide = Amortized()
    losses = []
    for objective in (ELBO(), IWAE(1)):
        torch.manual_seed(0)
        losses.append(objective.loss(exact.model, guide, exact.x))
    torch.testing.assert_close(*losses)


def test_iwae_and_its_gradient_equal_a_hand_written_one_on_the_same_noise(exact):
    guide, k = Amortized(), 6
    torch.manual_seed(0)
    noise = torch.randn(k, 7, 2, dtype=torch.float64)
    z = guide.encode(exact.x) + guide.log_scale.exp() * noise
    log_p = -0.5 * z.square().sum(-1) - 0.5 * ((exact.x - exact.bias - z @ exact.weight.T) / exact.sigma).square().sum(
        -1
    )
    log_p = log_p - 2.5 * math.log(2 * math.pi) - 3 * math.log(exact.sigma)
    log_q = (-0.5 * noise.square() - guide.log_scale).sum(-1) - math.log(2 * math.pi)
    by_hand = -((log_p - log_q).exp().mean(0).log()).sum()
    expected = torch.autograd.grad(by_hand, list(guide.parameters()))
    torch.manual_seed(0)
    loss = IWAE(k).differentiable_loss(exact.model, guide, exact.x)
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(torch.autograd.grad(loss, list(guide.parameters())), expected)


def test_vectorised_and_sequential_particles_estimate_the_same_bound(exact):
    """K = 5, seed 0, 300 repetitions, 5 standard errors of the difference; the noise differs in order only."""
    torch.manual_seed(0)
    for kind in (ELBO, IWAE):
        values = []
        for vectorize in (True, False):
            objective = kind(5, vectorize_particles=vectorize, max_plate_nesting=1)
            values.append(torch.stack([objective.loss(exact.model, exact.wide_guide, exact.x) for _ in range(300)]))
        error = math.sqrt(sum(value.var() for value in values) / 300)
        assert abs(values[0].mean() - values[1].mean()) < 5 * error


# Gradients in expectation


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_the_gradient_of_the_elbo_is_unbiased(exact, analytic_kl, assert_mean):
    """Against autograd through the closed form: K = 1, 1500 draws, seed 0, 5 standard errors for each parameter."""
    guide = Amortized()
    elbo = exact.elbo(exact.x, guide.encode(exact.x), guide.log_scale.exp().expand(7, 2)).sum()
    truth = torch.autograd.grad(-elbo, list(guide.parameters()))
    objective = ELBO(analytic_kl=analytic_kl)
    torch.manual_seed(0)
    draws, losses = [], []
    for _ in range(1500):
        loss = objective.differentiable_loss(exact.model, guide, exact.x)
        gradient = torch.autograd.grad(loss, list(guide.parameters()))
        draws.append(torch.cat([part.flatten() for part in gradient]))
        losses.append(loss.detach())
    assert_mean(torch.stack(draws), torch.cat([part.flatten() for part in truth]))
    assert_mean(torch.stack(losses), -elbo.detach())


def test_the_gradient_for_the_model_is_unbiased_with_a_frozen_discrete_guide(assert_mean):
    """Against enumeration: two components, 2000 draws, seed 0, 5 standard errors."""
    x = torch.tensor([0.5, -1.0])
    centre = nn.Parameter(torch.tensor(0.7))

    def model():
        with pyro.plate("data", 2):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(centre * k, 1.0), obs=x)

    def guide():
        with pyro.plate("data", 2):
            pyro.sample("k", dist.Bernoulli(0.3))

    truth = -0.3 * (x - centre).sum().detach()
    torch.manual_seed(0)
    draws = [torch.autograd.grad(ELBO().differentiable_loss(model, guide), centre)[0] for _ in range(2000)]
    assert_mean(torch.stack(draws), truth)


# The three ways to ask


@every_objective
def test_loss_loss_and_grads_and_differentiable_loss_agree(exact, objective):
    guide = Amortized()
    values, gradients = [], []
    for ask in (objective.differentiable_loss, objective.loss_and_grads, objective.loss):
        guide.zero_grad()
        torch.manual_seed(0)
        value = ask(exact.model, guide, exact.x)
        if ask == objective.differentiable_loss:
            value.backward()
        assert value.shape == ()
        values.append(value.detach())
        gradients.append([p.grad for p in guide.parameters()])
        assert value.requires_grad == (ask == objective.differentiable_loss)
    torch.testing.assert_close(values[1:], values[:1] * 2)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert all(gradient is None for gradient in gradients[2])


@every_objective
@pytest.mark.parametrize("local", [True, False])
def test_a_bound_objective_is_a_module_with_all_parameters(objective, local):
    """Pitfall 5; modules and methods of modules, with module-local parameters on and off."""
    with pyro.settings.context(module_local_params=local):
        both, (model, guide), x = Both(), our_programs(), torch.rand(4, 3)
        for bound, modules, data in (
            (objective(both.model, both.guide), [both], x),
            (objective(model, guide), [model, guide], torch.rand(4, 6).round()),
            (objective(poutine.scale(model, scale=1.0), functools.partial(guide)), [model, guide], torch.ones(4, 6)),
        ):
            assert isinstance(bound, BoundObjective)
            assert {id(p) for p in bound.parameters()} == {id(p) for m in modules for p in m.parameters()}
            optimizer = torch.optim.Adam(bound.parameters(), lr=1e-3)
            before = [p.detach().clone() for p in bound.parameters()]
            bound(data).backward()
            optimizer.step()
            assert not any(torch.equal(p, old) for p, old in zip(bound.parameters(), before, strict=True))


def test_a_bound_objective_without_parameters_is_refused(exact):
    with refuses(ValueError, "no module", "PyroModules"):
        ELBO()(exact.model, exact.exact_guide)

    class Empty(PyroModule):
        def forward(self, x):
            exact.model(x)

    with refuses(ValueError, "no parameter"):
        ELBO()(Empty(), exact.exact_guide)(exact.x)


def test_a_copy_of_a_bound_objective_has_its_own_parameters():
    both = Both()
    copied = copy.deepcopy(ELBO()(both.model, both.guide))
    with torch.no_grad():
        for parameter in both.parameters():
            parameter.fill_(torch.nan)
    assert copied(torch.rand(4, 3)).isfinite()


@every_objective
@pytest.mark.parametrize("local", [True, False])
def test_stock_svi_trains_our_programs_with_every_objective(objective, local):
    with pyro.settings.context(module_local_params=local):
        model, guide = our_programs()
        before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), objective)
        x = torch.rand(8, 6).round()
        first = svi.step(x)
        assert isinstance(first, float)
        assert isinstance(svi.evaluate_loss(x), float)
        after = [*model.parameters(), *guide.parameters()]
        assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@every_objective
def test_stock_svi_trains_programs_of_the_global_store(objective):
    x = torch.randn(20) + 2

    def model():
        slope = pyro.param("w", torch.tensor(0.1))
        with pyro.plate("data", 20):
            z = pyro.sample("z", dist.Normal(slope, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide():
        loc = pyro.param("loc", torch.zeros(20))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", 20):
            pyro.sample("z", dist.Normal(loc, scale))

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), objective)
    for _ in range(60):
        svi.step()
    assert abs(pyro.param("w") - x.mean()) < 0.6


def test_training_the_elbo_reaches_the_evidence(exact):
    """The guide N(Ax + c, S) with free full covariance holds the posterior; 1500 steps of Adam with decaying rate."""

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(3, 2).double()
            self.chol = PyroParam(torch.eye(2).double(), constraint=dist.constraints.lower_cholesky)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.MultivariateNormal(self.encode(x), scale_tril=self.chol))

    torch.manual_seed(0)
    bound = ELBO(4, max_plate_nesting=1)(exact.model, Guide())
    optimizer = torch.optim.Adam(bound.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.995)
    for _ in range(1500):
        optimizer.zero_grad()
        bound(exact.x).backward()
        optimizer.step()
        scheduler.step()
    truth = exact.log_evidence(exact.x).sum()
    with torch.no_grad():
        value = -torch.stack([bound(exact.x) for _ in range(50)]).mean()
    assert abs(value - truth) < 0.02


# What is refused


def test_iwae_refuses_sites_that_belong_to_no_datum():
    def model(x, extra=None):
        beta = pyro.sample("beta", dist.Normal(0.0, 1.0), obs=extra)
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(beta, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def local(x, extra=None):
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal(x, 1.0))

    def with_beta(x):
        pyro.sample("beta", dist.Normal(0.0, 1.0))
        local(x)

    with refuses(ValueError, "['beta']", "Use ELBO"):
        IWAE(3).loss(model, with_beta, torch.zeros(4))
    with refuses(ValueError, "['beta']", "Use ELBO"):
        IWAE(3).loss(model, local, torch.zeros(4), torch.tensor(0.0))
    with refuses(ValueError, "'reg'"):
        IWAE(3).loss(
            lambda x: (pyro.factor("reg", torch.tensor(-7.0)), model(x, torch.tensor(0.0))), local, torch.zeros(4)
        )
    assert ELBO(3).loss(model, with_beta, torch.zeros(4)).isfinite()


def test_iwae_refuses_a_subsample_inside_one_datum():
    def model():
        with pyro.plate("data", 4, dim=-2), pyro.plate("inner", 30, subsample=torch.arange(3), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(4, 3))

    def guide():
        with pyro.plate("data", 4, dim=-2), pyro.plate("inner", 30, subsample=torch.arange(3), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with refuses(ValueError, "['inner']", "ELBO"):
        IWAE(3).loss(model, guide)
    assert ELBO(3).loss(model, guide).isfinite()


def test_iwae_accepts_a_deterministic_site_outside_the_plate(exact):
    def model(x):
        pyro.deterministic("facts", torch.ones(3))
        exact.model(x)

    torch.testing.assert_close(-IWAE(3).loss(model, exact.exact_guide, exact.x), exact.log_evidence(exact.x).sum())


@pytest.mark.parametrize(("bad", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)])
@pytest.mark.parametrize("kind", [ELBO, IWAE])
def test_num_particles_must_be_a_positive_integer(kind, bad, error):
    with refuses(error, "num_particles", str(bad)):
        kind(bad)


def test_an_objective_used_on_deeper_programs_says_so():
    objective = ELBO(3)

    def programs(*names):
        def model():
            plates = [pyro.plate(name, 2) for name in names]
            with plates[0], plates[-1]:
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros((2,) * len(names)))

        def guide():
            plates = [pyro.plate(name, 2) for name in names]
            with plates[0], plates[-1]:
                pyro.sample("z", dist.Normal(0.0, 1.0))

        return model, guide

    def one():
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(2))

    def its_guide():
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    objective.loss(one, its_guide)
    with refuses(ValueError, "max_plate_nesting", "'data'", "-3"):
        objective.loss(*programs("inner", "data"))
    assert ELBO(3).loss(*programs("inner", "data")).isfinite()


def test_a_new_objective_has_one_method_to_write(exact):
    class LeastWeight(Objective):
        def bound_of(self, log_weights):
            return log_weights.min(dim=0).values

    loss = LeastWeight(3).loss(exact.model, exact.exact_guide, exact.x)
    torch.testing.assert_close(-loss, exact.log_evidence(exact.x).sum())


def test_a_model_without_latents_has_its_likelihood_as_bound():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        pass

    x = torch.randn(5)
    truth = dist.Normal(0.0, 1.0).log_prob(x).sum()
    for objective in map(copy.copy, OBJECTIVES):
        torch.testing.assert_close(-objective.loss(model, guide, x), truth)
    assert log_weights(model, guide, x, num_particles=3).local.shape == (3, 5)
