"""What the incumbents get wrong about objectives and we must not, where no other test says so. Rows are of PITFALLS."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
    AutoStructured,
)
from torch import Tensor, nn

from contracts import refuses
from pyro_dgm.infer import CIWAE, ELBO, IWAE, MIWAE, Renyi, bounds, log_weights
from pyro_dgm.infer.implicit import check_explicit, may_be_implicit
from pyro_dgm.infer.programs import run

X = torch.tensor([0.3, -1.0, 2.5, 0.7])


# Row 1: the scale of the plate belongs outside the bound

WEIGHTED = {
    "Renyi 0": lambda: Renyi(0.0, 4),
    "Renyi 0.5": lambda: Renyi(0.5, 4),
    "Renyi 2": lambda: Renyi(2.0, 4),
    "VR-max": lambda: Renyi(-math.inf, 4),
    "MIWAE": lambda: MIWAE(4, 2),
    "CIWAE": lambda: CIWAE(4, 0.3),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_bound_per_datum_does_not_change_with_the_data_it_stands_for(name, exact):
    """Row 1, for the bounds beside ELBO and IWAE: exact where the guide is, and the same per datum where it is not."""
    objective = WEIGHTED[name]()
    loss = objective.loss(exact.model, exact.exact_guide, exact.x, data_size=1000)
    torch.testing.assert_close(-loss, 1000 / 7 * exact.log_evidence(exact.x).sum())
    losses = []
    for size in (7, 1000):
        torch.manual_seed(0)
        losses.append(objective.loss(exact.model, exact.wide_guide, exact.x, data_size=size) / size)
    torch.testing.assert_close(*losses)


# Row 2: no discrete latent without a gradient


class Switch(pyro.nn.PyroModule):
    """One bit per datum, in float64."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.4).double())

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3).double()))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.logit).expand((len(x),)))


def gradients_of(objective, program, x, repeats):
    rows = []
    for _ in range(repeats):
        program.zero_grad()
        objective.loss_and_grads(program.model, program.guide, x)
        rows.append(torch.zeros(()) if program.logit.grad is None else program.logit.grad.clone())
    return torch.stack(rows)


@pytest.mark.parametrize("alpha", [0.0, -math.inf])
def test_the_renyi_bound_gives_discrete_latents_a_gradient(alpha, assert_mean):
    """Row 2: stock gives exactly zero at alpha = 0; enumerated, K = 2, 100 steps of 2000 copies, 5 standard errors."""
    program, x = Switch(), torch.tensor([0.5]).double()
    q = program.logit.sigmoid()
    log_w = torch.stack(
        [
            (0.7 * dist.Normal(0.0, 1.0).log_prob(x).exp() / (1 - q)).log(),
            (0.3 * dist.Normal(2.0, 1.0).log_prob(x).exp() / q).log(),
        ]
    )  # (2, 1), by the bit
    masses = torch.stack([1 - q, q])
    expected = sum(masses[i] * masses[j] * bounds.renyi(log_w[[i, j]], alpha).sum() for i in range(2) for j in range(2))
    truth = -torch.autograd.grad(expected, program.logit)[0]
    assert truth.abs() > 0.01
    found = gradients_of(Renyi(alpha, 2), program, x.repeat(2000), 100) / 2000
    assert_mean(found, truth)
    if alpha == 0:
        stock = RenyiELBO(alpha=0, num_particles=2, vectorize_particles=True, max_plate_nesting=1)
        assert not gradients_of(stock, program, x, 5).any()


# Row 3: weights are normalised datum by datum


@pytest.mark.parametrize("copies", [1, 100])
def test_the_effective_sample_size_does_not_fall_with_the_batch(copies, exact):
    """Row 3: K = 50, a guide that is off; per datum, and equal weights of the same draws beside other data."""
    torch.manual_seed(0)
    x = exact.x[:1].repeat(copies, 1)
    weights = log_weights(exact.model, exact.wide_guide, x, num_particles=50).local.softmax(0)  # (K, B)
    size = 1 / weights.square().sum(0)
    assert size.shape == (copies,)
    reference = log_weights(exact.model, exact.wide_guide, exact.x[:1].repeat(2000, 1), num_particles=50)
    expected = 1 / reference.local.softmax(0).square().sum(0)
    error = expected.std() / math.sqrt(copies)
    assert abs(size.mean() - expected.mean()) < 5 * error


# Row 4: guides without an inverse


def test_a_planar_guide_trains_by_the_path_alone(exact):
    """Row 4: it has no inverse, so it can score its own draws and no others."""
    planar = transforms.planar(2).double()

    def guide(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [planar]))

    for objective in (ELBO(), IWAE(5)):
        planar.zero_grad()
        planar.clear_cache()
        objective.differentiable_loss(exact.model, guide, exact.x).backward()
        assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in planar.parameters())
    for objective in (ELBO(gradient="stl"), IWAE(5, gradient="dreg"), ELBO(2, gradient="loo")):
        planar.clear_cache()
        with pytest.raises((NotImplementedError, KeyError, ValueError)):
            objective.differentiable_loss(exact.model, guide, exact.x)


# Row 9: the gradient where the guide is exact


def test_stock_has_a_noisy_gradient_where_ours_is_zero(exact):
    """Row 9, the incumbent's side of it: 50 draws."""
    loc, covariance = exact.posterior(exact.x)
    loc = loc.requires_grad_()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, covariance))

    def spread(objective):
        draws = []
        for _ in range(50):
            loss = objective.differentiable_loss(exact.model, guide, exact.x)
            draws.append(torch.autograd.grad(loss, loc)[0])
        return torch.stack(draws).std(0).max()

    assert spread(Trace_ELBO()) > 0.5
    assert spread(ELBO(gradient="stl")) < 1e-9
    assert spread(IWAE(5, gradient="dreg")) < 1e-9


# Row 10: implicit guides


def two_kinds(x=X):
    """A positive global, one on the simplex, and a local latent per datum."""
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    pyro.sample("w", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), scale), obs=x)


def with_delta(model):
    """Of two latents one has a Normal, the other a point that depends on it."""
    return AutoStructured(
        model,
        conditionals={"scale": "normal", "w": "mvn", "z": "delta"},
        dependencies={"z": {"scale": "linear"}},
    )


def with_dependencies(model):
    return AutoStructured(
        model,
        conditionals={"scale": "normal", "w": "mvn", "z": "normal"},
        dependencies={"z": {"w": "linear", "scale": "linear"}, "w": {"scale": "linear"}},
    )


def with_flow(model):
    return AutoNormalizingFlow(model, lambda size: transforms.affine_autoregressive(size))


AUTOGUIDES = [
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
    with_delta,
    with_dependencies,
    with_flow,
]


def check(model, guide, *args):
    traces = run(model, guide, args, {})
    if may_be_implicit(traces):
        check_explicit(model, guide, args, {}, traces)


@pytest.mark.parametrize("num", [4, 200])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", AUTOGUIDES)
def test_autoguides_are_explicit(make, seed, num):
    """Row 10: a point mass that accounts for its density is welcome, at the start and after some training."""
    torch.manual_seed(seed)
    x = torch.randn(num)
    guide = make(two_kinds)
    guide(x)
    check(two_kinds, guide, x)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.005)
    for _ in range(20):
        optimizer.zero_grad()
        ELBO().loss_and_grads(two_kinds, guide, x)
        optimizer.step()
    check(two_kinds, guide, x)


def test_the_check_leaves_no_trace():
    guide, x = AutoNormal(two_kinds), torch.randn(4)
    traces = run(two_kinds, guide, (x,), {})
    before = torch.get_rng_state(), [parameter.clone() for parameter in guide.parameters()]
    check_explicit(two_kinds, guide, (x,), {}, traces)
    assert torch.equal(before[0], torch.get_rng_state())
    assert all(map(torch.equal, before[1], guide.parameters()))
    assert all(parameter.grad is None for parameter in guide.parameters())


def one_latent(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Noisy(nn.Module):
    """An implicit guide: a function of noise, of which ``known`` says whether its density is given."""

    def __init__(self, noise: int, function, known=None):
        super().__init__()
        self.noise, self.known = noise, known
        self.net = nn.Sequential(nn.Linear(2 + noise, 8), nn.Tanh(), nn.Linear(8, 2))
        self.loc, self.log_scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.function = function

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(len(x), self.noise), 1.0).to_event(1)
            noise = pyro.sample("noise", base, infer={"is_auxiliary": True})
            density = 0.0 if self.known is None else self.known(self)
            pyro.sample("z", dist.Delta(self.function(self, x, noise), log_density=density, event_dim=1))


def network(self, x, noise):
    return self.net(torch.cat([x, noise], -1))


def affine(self, x, noise):
    return x + self.loc + self.log_scale.exp() * noise


IMPLICIT = {
    "network": (2, network, None),
    "network of less noise": (1, network, None),
    "network of more noise": (5, network, None),
    "a scale that is 1 at the start": (2, affine, None),
    "a singular map": (2, lambda self, x, noise: self.loc + noise[..., :1].expand_as(noise), None),
    "a density of the wrong sign": (2, affine, lambda self: self.log_scale.sum()),
    "a residual network": (2, lambda self, x, noise: noise + network(self, x, noise), None),
}
EXPLICIT = {
    "a shift": (2, lambda self, x, noise: noise + self.net(torch.cat([x, x], -1)), None),
    "a scale": (2, affine, lambda self: -self.log_scale.sum()),
    "a permutation": (2, lambda self, x, noise: noise.flip(-1) + self.loc, None),
    "a point": (2, lambda self, x, noise: self.net(torch.cat([x, x], -1)), None),
}


BELIEVED = (
    "a density of the wrong sign",
    100,
)  # beyond 64 elements a log_density that depends on something is believed


@pytest.mark.parametrize(("name", "rows"), [case for case in itertools.product(IMPLICIT, (5, 100)) if case != BELIEVED])
def test_implicit_guides_are_refused(name, rows):
    """Row 10: the loss would be finite and wrong; with 10 elements and with 200."""
    x, guide = torch.randn(rows, 2), Noisy(*IMPLICIT[name])
    with refuses(ValueError, "['z']", "['noise']", "log_density", "TransformedDistribution"):
        check(one_latent, guide, x)


@pytest.mark.parametrize("rows", [5, 100])
@pytest.mark.parametrize("name", EXPLICIT)
def test_maps_whose_density_is_accounted_for_are_accepted(name, rows):
    check(one_latent, Noisy(*EXPLICIT[name]), torch.randn(rows, 2))


def test_an_auxiliary_variable_of_a_normal_latent_is_no_implicit_guide():
    """Row 10: what depends on noise through a density has one (auxiliary deep generative models)."""

    def guide(x, point=False):
        slope = pyro.param("slope", torch.ones(2))
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 1.0).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(slope * a, 1.0).to_event(1))
            if point:
                pyro.sample("y", dist.Delta(pyro.param("loc", torch.zeros(2)).expand(len(x), 2), event_dim=1))

    def with_another(x, point):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.Normal(z, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(y, 1.0).to_event(1), obs=x)

    x = torch.randn(5, 2)
    assert not may_be_implicit(run(one_latent, guide, (x,), {}))
    assert may_be_implicit(run(with_another, guide, (x, True), {}))
    check(with_another, guide, x, True)


# Row 12: particles of networks that know one batch dimension


def test_a_convolutional_decoder_takes_particles_in_turn_and_says_no_side_by_side():
    """Row 12: a user's own network gets 5-D input where particles stand side by side; in turn it works."""
    decoder = nn.Sequential(nn.ConvTranspose2d(2, 1, 4), nn.Flatten(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z[..., None, None])).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1))

    x = torch.ones(3, 16)
    with pytest.raises(RuntimeError, match="4D"):
        IWAE(5).loss_and_grads(model, guide, x)
    IWAE(5, vectorize_particles=False).loss_and_grads(model, guide, x)
    assert pyro.get_param_store()._params["loc"].grad.isfinite().all()


# Row 13: annealing the latents


def test_scaled_latents_give_a_discrete_guide_the_annealed_gradient(assert_mean):
    """Row 13: beta = 0.3 on z in model and guide, enumerated; 100 steps of 2000 copies, 5 standard errors.

    The loss is then the annealed one, as with stock.
    """
    program, x, beta = Switch(), torch.tensor([0.5]).double(), 0.3

    class Annealed(nn.Module):
        logit = program.logit

        def model(self, x):
            data = pyro.plate("data", len(x))
            with poutine.scale(scale=beta), data:
                z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3).double()))
            with data:
                pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

        def guide(self, x):
            with poutine.scale(scale=beta):
                program.guide(x)

        def zero_grad(self):
            program.zero_grad()

    q = program.logit.sigmoid()
    masses = torch.stack([1 - q, q])
    prior = torch.tensor([0.7, 0.3]).double()
    log_likelihood = dist.Normal(torch.tensor([0.0, 2.0]).double(), 1.0).log_prob(x)
    annealed = (masses * (log_likelihood - beta * (masses / prior).log())).sum()
    truth = -torch.autograd.grad(annealed, program.logit)[0]
    found = gradients_of(ELBO(2), Annealed(), x.repeat(2000), 100) / 2000
    assert_mean(found, truth)
    losses = torch.stack([ELBO(2).loss(Annealed().model, Annealed().guide, x.repeat(2000)) for _ in range(100)]) / 2000
    assert_mean(losses, -annealed.detach())


# REFERENCES, section 1: identities between the objectives


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Renyi(1.0, 5), ELBO(5)),
        (Renyi(0.0, 5), IWAE(5)),
        (MIWAE(6, 1), IWAE(6)),
        (MIWAE(6, 6), ELBO(6)),
        (CIWAE(5, 1.0), ELBO(5)),
        (CIWAE(5, 0.0), IWAE(5)),
    ],
)
def test_objectives_that_are_one_another_agree_in_loss_and_gradient(first, second, exact):
    """Renyi at 1 is the ELBO and at 0 the IWAE; MIWAE and CIWAE at their ends; the same draws."""
    loc = torch.zeros(7, 2).double().requires_grad_()

    def guide(x):
        with pyro.plate("data", 7):
            pyro.sample("z", dist.Normal(loc, 0.8).to_event(1))

    results = []
    for objective in (first, second):
        torch.manual_seed(0)
        loss = objective.differentiable_loss(exact.model, guide, exact.x)
        results.append((loss.detach(), *torch.autograd.grad(loss, loc)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("alpha", [0.999, 1.001])
def test_the_renyi_objective_is_continuous_at_one(alpha, exact):
    losses = []
    for objective in (Renyi(alpha, 5), ELBO(5)):
        torch.manual_seed(0)
        losses.append(objective.loss(exact.model, exact.wide_guide, exact.x))
    assert abs(losses[0] - losses[1]) < 0.01 * abs(losses[1])


@pytest.mark.parametrize(
    "objective", [IWAE(3, max_plate_nesting=1), Renyi(0.5, 3, max_plate_nesting=1), CIWAE(3, 0.4, max_plate_nesting=1)]
)
def test_minibatches_are_unbiased_for_the_gradient_of_the_whole(objective, exact):
    """The mean over all 35 batches of three of the seven data, with the noise of each datum fixed: exactly equal."""
    noise = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = torch.full((3, 2), 0.1).double().requires_grad_()

    def gradient(rows):
        def guide(x, data_size=None):
            with pyro.plate("data", 7, subsample=torch.arange(len(x))):
                loc = x @ slope
                z = loc + 0.7 * noise[:, rows]
                pyro.sample("z", Fixed(loc, 0.7, z))

        loss = objective.differentiable_loss(exact.model, guide, exact.x[rows], data_size=7)
        return torch.autograd.grad(loss, slope)[0]

    parts = [gradient(list(rows)) for rows in itertools.combinations(range(7), 3)]
    torch.testing.assert_close(torch.stack(parts).mean(0), gradient(list(range(7))))


class Fixed(dist.TorchDistribution):
    """A normal vector whose draw is decided before."""

    has_rsample = True
    arg_constraints = {}  # noqa: RUF012 (a class attribute of torch's)
    support = dist.constraints.independent(dist.constraints.real, 1)

    def __init__(self, loc, scale, value):
        self.normal, self.value = dist.Normal(loc, scale).to_event(1), value
        super().__init__(self.normal.batch_shape, self.normal.event_shape, validate_args=False)

    def rsample(self, sample_shape=()):
        return self.value

    def log_prob(self, value):
        return self.normal.log_prob(value)

    def expand(self, batch_shape, _instance=None):
        return Fixed(self.normal.expand(batch_shape).base_dist.loc, 0.7, self.value)
