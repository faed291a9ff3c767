"""Approximation and amortization gaps against closed forms, and what refitting must leave alone."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from contracts import refuses, tensors_of
from pyro_dgm.distributions import Bernoulli, ConditionalDistribution, DiagonalNormal, FullNormal, StandardNormal
from pyro_dgm.evaluation import Estimate, inference_gaps
from pyro_dgm.guides import AmortizedGuide, PerDatumGuide, SigmoidBeliefGuide
from pyro_dgm.models import LatentVariableModel, LinearGaussian, SigmoidBeliefNet
from pyro_dgm.nn import MLP

D, X, N = 2, 4, 3
SHIFT = torch.tensor([0.5, -0.4])

# Closed form: q = N(m, diag(1 / precision_ii)) is the best diagonal normal, and KL(q || p) is quadratic in a shift of m


def linear_gaussian(seed: int = 0) -> LinearGaussian:
    """A model whose posterior is not diagonal."""
    torch.manual_seed(seed)
    model = LinearGaussian(D, X)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.4], [0.3, 1.0], [-0.8, -0.2], [0.2, 0.1]]))
        model.log_scale.fill_(-0.3)
    return model


def precision(model: LinearGaussian) -> Tensor:
    return torch.linalg.inv(model.posterior(torch.zeros(1, X)).covariance_matrix[0]).detach()


def encoder(model: LinearGaussian, shift: Tensor | float = 0.0, stretch: float = 1.0) -> AmortizedGuide:
    """The best diagonal normal for every datum, its mean shifted and its scales stretched."""
    net = MLP(X, 2 * D, ())
    covariance = torch.linalg.inv(precision(model))
    with torch.no_grad():
        net.layers[0].weight.zero_()
        net.layers[0].weight[:D] = covariance @ (model.weight / model._variance().unsqueeze(-1)).T
        net.layers[0].bias[:D] = shift
        net.layers[0].bias[D:] = math.log(stretch) - precision(model).diagonal().log() / 2
    return AmortizedGuide(z=DiagonalNormal(net))


def approximation_gap(model: LinearGaussian) -> float:
    """KL(q* || p) of q* = N(m, diag(1 / precision_ii)): half of sum log precision_ii - log det precision."""
    own = precision(model)
    return 0.5 * float(own.diagonal().log().sum() - own.logdet())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_diagonal_guide_has_its_divergence_for_an_approximation_gap(seed):
    """Seeds 0 and 1, K = 5000; 5 standard errors, and 0.005 for a refit that is not quite the best."""
    model = linear_gaussian(seed)
    x = model(num=N).detach()
    found = inference_gaps(model, encoder(model), x, num_steps=100)
    assert approximation_gap(model) > 0.1
    error = 5 * (found.evidence_error + found.refitted_error) + 0.005
    assert ((found.approximation_gap - approximation_gap(model)).abs() < error).all()
    assert (found.amortization_gap.abs() < 5 * (found.refitted_error + found.amortized_error) + 0.005).all()
    assert ((found.log_evidence - model.log_evidence(x)).abs() < 5 * found.evidence_error + 0.005).all()
    assert found.pareto_k.max() < 0.7


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"shift": SHIFT}, lambda own: 0.5 * SHIFT @ own @ SHIFT),
        ({"stretch": 1.5}, lambda own: torch.tensor(0.5 * D * (1.5**2 - 1 - 2 * math.log(1.5)))),
    ],
    ids=["shifted", "stretched"],
)
def test_a_bad_encoder_has_its_own_divergence_for_an_amortization_gap(change, expected):
    """Seed 0, K = 5000; 5 standard errors, and 0.01 for a refit that is not quite the best, which errs to one side."""
    model = linear_gaussian()
    x = model(num=N).detach()
    found = inference_gaps(model, encoder(model, **change), x, num_steps=400, learning_rate=0.01)
    truth, own = float(expected(precision(model))), approximation_gap(model)
    error = 5 * (found.evidence_error + found.refitted_error + found.amortized_error)
    assert truth > 0.2
    assert (found.amortization_gap < truth + error).all()
    assert (found.amortization_gap > truth - error - 0.01).all()
    assert (found.approximation_gap > own - error).all()
    assert (found.approximation_gap < own + error + 0.01).all()
    torch.testing.assert_close(found.inference_gap, found.approximation_gap + found.amortization_gap)
    assert found.inference == Estimate.of(found.log_evidence - found.amortized_bound)
    assert found.approximation == Estimate.of(found.approximation_gap)
    assert found.amortization == Estimate.of(found.amortization_gap)
    assert str(found.amortization) in str(found)


def test_the_exact_posterior_has_no_gap():
    model = linear_gaussian()
    net = MLP(X, FullNormal.num_parameters(D), ()).double()
    covariance = torch.linalg.inv(precision(model))
    factor = torch.linalg.cholesky(covariance)
    with torch.no_grad():
        net.layers[0].weight.zero_()
        net.layers[0].weight[:D] = covariance @ (model.weight / model._variance().unsqueeze(-1)).T
        net.layers[0].bias.copy_(torch.cat([torch.zeros(D), factor.diagonal().log(), factor[1:, 0]]))
    model, x = model.double(), model.double()(num=N).detach()
    found = inference_gaps(model, AmortizedGuide(z=FullNormal(net)), x, num_steps=5, evidence_particles=100)
    torch.testing.assert_close(found.amortized_bound, model.log_evidence(x).detach(), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(found.inference_gap, torch.zeros(N).double(), atol=5e-3, rtol=0.0)
    assert (found.amortization_gap.abs() <= 5 * found.refitted_error + 1e-5).all()
    assert (found.approximation_gap >= -1e-5).all()


def test_binary_latents_are_refitted_too():
    """Seed 0, K = 2000: the evidence by enumeration within 5 standard errors; a spoilt guide has a gap to close."""
    torch.manual_seed(0)
    model, guide = SigmoidBeliefNet(X, (3,)), SigmoidBeliefGuide(X, (3,))
    with torch.no_grad():
        model.likelihood.net.layers[0].weight.mul_(6)
        guide.hidden.z1.net.layers[0].bias.copy_(torch.tensor([2.0, -2.0, 2.0]))
    x = torch.bernoulli(torch.full((N, X), 0.5))
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    logits = model.likelihood(states).base_dist.logits.unsqueeze(1)
    truth = (dist.Bernoulli(logits=logits).log_prob(x).sum(-1) - 3 * math.log(2)).logsumexp(0).double()
    found = inference_gaps(model, guide, x, num_steps=150, learning_rate=0.05, evidence_particles=2000)
    assert ((found.log_evidence - truth).abs() < 5 * found.evidence_error).all()
    assert (found.amortization_gap > 0.3).all()
    assert (found.refitted_bound < truth + 5 * found.refitted_error).all()


# What must stay as it is


class Recording(nn.Module):
    """Notes the mode it runs in."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        return x


def test_programs_are_left_as_they_were():
    """Parameters, gradients, buffers, modes; the copies are evaluated in the same mode."""
    seen = Recording()
    decoder = nn.Sequential(MLP(D, 6, (5,)), nn.BatchNorm1d(6), nn.Dropout(0.5))
    model = LatentVariableModel(StandardNormal(D), Bernoulli(Flattened(decoder)))
    guide = AmortizedGuide(z=DiagonalNormal(nn.Sequential(seen, nn.Dropout(0.5), MLP(6, 2 * D, (5,)))))
    decoder[1].eval()
    parameters = [*model.parameters(), *guide.parameters()]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    before = tensors_of(model, guide)
    modes = [part.training for program in (model, guide) for part in program.modules()]
    inference_gaps(model, guide, torch.ones(2, 6), num_steps=5, evidence_particles=10)
    assert all(map(torch.equal, tensors_of(model, guide), before))
    assert all(parameter.requires_grad and bool(parameter.grad.eq(1).all()) for parameter in parameters)
    assert [part.training for program in (model, guide) for part in program.modules()] == modes
    assert seen.modes
    assert not any(seen.modes)


class Flattened(nn.Module):
    """Gives a batch norm one batch dimension."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], -1)


class Vamp(ConditionalDistribution):
    """A prior made of the guide's own conditional, at one pseudo-input."""

    def __init__(self, posterior: ConditionalDistribution) -> None:
        super().__init__()
        self.posterior, self.inputs = posterior, nn.Parameter(torch.full((1, 6), 0.5))

    def forward(self, *context: Tensor) -> dist.Distribution:
        d = self.posterior(self.inputs)
        return dist.Normal(d.base_dist.loc[0], d.base_dist.scale[0]).to_event(1)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_prior_that_shares_the_guides_network_stays_as_it_is(frozen):
    """The bound of a refitted copy is the frozen model's: never above its evidence, at any number of steps."""
    torch.manual_seed(0)
    guide = AmortizedGuide(z=DiagonalNormal(MLP(6, 2 * D, (5,))))
    model = LatentVariableModel(Vamp(guide.sites.z), Bernoulli(MLP(D, 6, (5,))))
    if frozen:
        model.requires_grad_(False)
        guide.requires_grad_(False)
    x, before = torch.ones(2, 6), tensors_of(model, guide)
    torch.manual_seed(1)
    found = inference_gaps(model, guide, x, num_steps=200, learning_rate=0.02, evidence_particles=2000)
    assert all(map(torch.equal, tensors_of(model, guide), before))
    assert not any(p.requires_grad == frozen for p in (*model.parameters(), *guide.parameters()))
    z = torch.randn(200_000, D) * guide.sites.z(model.prior.inputs).base_dist.scale.detach()
    z = z + guide.sites.z(model.prior.inputs).base_dist.loc.detach()
    evidence = model.likelihood(z).log_prob(x[0]).logsumexp(0).item() - math.log(200_000)
    assert found.log_evidence.tolist() == pytest.approx([evidence] * 2, abs=0.02)
    assert (found.refitted_bound < evidence + 5 * found.refitted_error + 0.02).all()


class Stranger(PyroModule):
    """A guide as Pyro's tutorials have them: a network of torch's, and parameters with constraints."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(X, D)
        self.scale = PyroParam(2.0 * torch.ones(D), constraint=dist.constraints.positive)

    def forward(self, x: Tensor) -> None:
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), self.scale).to_event(1))


def test_the_global_store_keeps_a_strangers_parameters():
    """Pyro would hand the copy of a PyroModule the original's parameters by their names."""
    model, guide = linear_gaussian().requires_grad_(False), Stranger()
    x = model(num=2).detach()
    weight = pyro.param("unrelated", torch.ones(3))
    PyroSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(x)
    names, before = list(pyro.get_param_store()), tensors_of(guide)
    leaves = {name: id(parameter) for name, parameter in pyro.get_param_store().named_parameters()}
    found = inference_gaps(model, guide, x, num_steps=300, learning_rate=0.03, evidence_particles=1000)
    assert (found.amortization_gap > 0.5).all()
    assert (found.approximation_gap < approximation_gap(model) + 0.05).all()
    assert list(pyro.get_param_store()) == names
    assert {name: id(parameter) for name, parameter in pyro.get_param_store().named_parameters()} == leaves
    assert all(map(torch.equal, tensors_of(guide), before))
    assert torch.equal(pyro.param("unrelated"), weight)
    PyroSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(x)  # the original is trained on
    assert not any(map(torch.equal, tensors_of(guide), before))


def test_a_strangers_guide_that_has_not_run_yet_is_not_given_the_copys_parameters():
    model, guide = linear_gaussian().requires_grad_(False), Stranger()
    before = tensors_of(guide)
    inference_gaps(model, guide, model(num=1).detach(), num_steps=20, learning_rate=0.1, evidence_particles=10)
    guide(torch.zeros(2, X))
    assert all(map(torch.equal, tensors_of(guide), before))


def test_a_method_of_one_module_that_is_model_and_guide_is_refitted():
    class Both(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.scale = PyroParam(torch.tensor(0.7), constraint=dist.constraints.positive)
            self.slope = nn.Parameter(torch.tensor(-1.0))

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, self.scale), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.slope * x, self.scale))

    both, x = Both(), torch.tensor([1.0, -0.5])
    truth = dist.Normal(0.0, math.sqrt(1 + 0.7**2)).log_prob(x).double()
    found = inference_gaps(both.model, both.guide, x, num_steps=300, learning_rate=0.05)
    assert ((found.log_evidence - truth).abs() < 0.01).all()
    assert (found.approximation_gap < 0.01).all()
    assert (found.amortization_gap > 0.1).all()
    assert both.slope.item() == -1.0
    assert both.scale.item() == pytest.approx(0.7)


def test_what_is_frozen_in_part_stays_fixed_in_the_copy():
    """With the scales frozen at 1.5 times the best ones, the refit closes the shift alone."""
    model = linear_gaussian()
    guide = encoder(model, SHIFT)
    base = guide.sites.z
    x = model(num=2).detach()

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(D))
            self.log_stretch = nn.Parameter(torch.full((D,), math.log(1.5)), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            loc, log_scale = base.net(x).detach().chunk(2, -1)
            return torch.cat([loc + self.shift, log_scale + self.log_stretch], -1)

    found = inference_gaps(model, AmortizedGuide(z=DiagonalNormal(Split())), x, num_steps=300, learning_rate=0.01)
    left = approximation_gap(model) + 0.5 * D * (1.5**2 - 1 - 2 * math.log(1.5))
    error = 5 * (found.evidence_error + found.refitted_error) + 0.02
    assert ((found.approximation_gap - left).abs() < error).all()


def test_a_flow_that_remembers_its_last_draw_is_copied():
    class Planar(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.flow = nn.Linear(X, 2 * D), T.planar(D)

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                loc, log_scale = self.net(x).chunk(2, -1)
                base = dist.Normal(loc, log_scale.exp()).to_event(1)
                pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))

    model, guide = linear_gaussian(), Planar()
    x = model(num=2).detach()
    Trace_ELBO().differentiable_loss(model, guide, x).backward()
    found = inference_gaps(model, guide, x, num_steps=100, learning_rate=0.02, evidence_particles=1000)
    assert (found.amortization_gap > 0.1).all()


def test_a_refit_that_diverges_is_given_up():
    model = linear_gaussian()
    guide, x = encoder(model), model(num=2).detach()
    found = inference_gaps(model, guide, x, num_steps=30, learning_rate=1e6, evidence_particles=500)
    assert (found.amortization_gap == 0).all()
    assert torch.equal(found.refitted_error, found.amortized_error)


# Arguments


def test_context_index_and_keywords_are_cut():
    """Each datum comes with its own row of everything, and the refit of a table moves that row."""
    model = LatentVariableModel(DiagonalNormal(MLP(2, 2 * D, (4,))), Bernoulli(MLP(D + 2, 6, (4,))))
    guide = PerDatumGuide(10, z=D)
    x, c = torch.bernoulli(torch.full((3, 6), 0.5)), torch.eye(2)[[0, 1, 1]]
    options = {"num_steps": 100, "learning_rate": 0.05, "evidence_particles": 500}
    found = inference_gaps(model, guide, x, c=c, index=torch.tensor([4, 9, 0]), data_size=10, **options)
    assert (found.amortization_gap > -0.05).all()
    assert (guide.sites.z.net.weight == 0).all()
    assert found.num_particles == 500
    assert all(getattr(found, name).shape == (3,) for name in found._fields[:-1])
    assert not any(getattr(found, name).requires_grad for name in found._fields[:-1])


def test_draws_come_from_torchs_generator():
    model = linear_gaussian()
    guide, x = encoder(model, SHIFT), model(num=1).detach()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(inference_gaps(model, guide, x, num_steps=5, evidence_particles=10).refitted_bound)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"num_steps": 0}, ValueError, ("num_steps", "at least 1; got 0")),
        ({"num_steps": 2.5}, ValueError, ("num_steps", "got 2.5")),
        ({"evidence_particles": 1}, ValueError, ("evidence_particles", "at least 2; got 1")),
        ({"num_particles": 0}, ValueError, ("num_particles", "got 0")),
        ({"num_particles": 1.5}, TypeError, ("num_particles", "got 1.5")),
        ({"learning_rate": 0.0}, ValueError, ("learning_rate", "got 0.0")),
        ({"learning_rate": math.inf}, ValueError, ("learning_rate", "got inf")),
    ],
)
def test_numbers_are_checked(options, error, parts):
    model = linear_gaussian()
    with refuses(error, *parts):
        inference_gaps(model, encoder(model), torch.zeros(2, X), **options)


def test_a_guide_without_parameters_of_its_own_is_refused():
    model, x = linear_gaussian(), torch.zeros(2, X)

    def function(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(D)), 1.0).to_event(1))

    with refuses(TypeError, "must be a module", "function", "PyroModule"):
        inference_gaps(model, function, x)

    class Plain(nn.Module):
        def __init__(self, own: bool) -> None:
            super().__init__()
            self.own = nn.Parameter(torch.zeros(D)) if own else None

        def forward(self, x: Tensor) -> None:
            function(x)

    with refuses(ValueError, "must have parameters", "Plain"):
        inference_gaps(model, Plain(own=False), x)
    with refuses(ValueError, "must be its own", "['loc']", "PyroParams"):
        inference_gaps(model, Plain(own=True), x)


def test_data_that_are_not_there_and_programs_that_do_not_fit_are_refused():
    model = linear_gaussian()
    with refuses(ValueError, "got an empty tensor"):
        inference_gaps(model, encoder(model), torch.zeros(0, X))
    with refuses(ValueError, "without ['z']"):
        inference_gaps(model, AmortizedGuide(y=DiagonalNormal(MLP(X, 2 * D))), torch.zeros(2, X))
    with refuses(ValueError, "outside the data plate"):
        inference_gaps(with_global, WithGlobal(), torch.zeros(2))


def with_global(x: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(b, 1.0), obs=x)


class WithGlobal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        pyro.sample("b", dist.Normal(self.loc, 1.0))
