"""Stick-breaking and Dirichlet weights against fractions by hand, closed forms and quadrature."""

import itertools
import math

import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.special
import torch
from torch import Tensor, nn
from torch.distributions import biject_to, kl_divergence

from contracts import refuses
from pyro_dgm.distributions import (
    Dirichlet,
    DirichletPrior,
    StickBreakingDistribution,
    StickBreakingKumaraswamy,
    StickBreakingPrior,
)

EXTREMES = [1e-3, 1e-2, 1.0, 1e2, 1e4]
DTYPES = [torch.float32, torch.float64]


def weights_of(fractions: Tensor) -> Tensor:
    """The broken stick, piece by piece."""
    rest, pieces = torch.ones_like(fractions[..., 0]), []
    for v in fractions.unbind(-1):
        pieces.append(rest * v)
        rest = rest * (1 - v)
    return torch.stack([*pieces, rest], dim=-1)


def random_sticks(*batch: int, features: int = 4, least: float = 0.5) -> StickBreakingDistribution:
    a, b = least + 2.5 * torch.rand(2, *batch, features - 1, dtype=torch.float64)
    return StickBreakingDistribution(a, b)


def log_density_of_fractions(d: StickBreakingDistribution, v: Tensor) -> Tensor:
    a, b = d.concentration1, d.concentration0
    return (a.log() + b.log() + (a - 1) * v.log() + (b - 1) * torch.log1p(-(v**a))).sum(-1)


def test_the_density_is_that_of_the_fractions_over_the_jacobian_of_the_stick():
    d = random_sticks(3, features=5)
    v = torch.rand(6, 3, 4, dtype=torch.float64)
    log_prob = d.log_prob(weights_of(v))
    for i in range(6):
        for j in range(3):
            jacobian = torch.autograd.functional.jacobian(lambda u: weights_of(u)[:-1], v[i, j])
            row = StickBreakingDistribution(d.concentration1[j], d.concentration0[j])
            expected = log_density_of_fractions(row, v[i, j]) - torch.linalg.slogdet(jacobian)[1]
            torch.testing.assert_close(log_prob[i, j], expected)


@pytest.mark.parametrize("features", [2, 3])
def test_the_density_is_normalised(features):
    """Midpoints of the fractions, whose volume the Jacobian turns into the simplex's."""
    d = random_sticks(5, features=features, least=1.0)
    ticks = (torch.arange(800, dtype=torch.float64) + 0.5) / 800
    v = torch.cartesian_prod(*[ticks] * (features - 1)).reshape(-1, 1, features - 1)
    volume = 1.0 if features == 2 else 1 - v[..., 0]
    total = (d.log_prob(weights_of(v)).exp() * volume).sum(0) / 800 ** (features - 1)
    torch.testing.assert_close(total, torch.ones(5, dtype=torch.float64), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_the_prior_breaks_the_stick_by_beta_fractions(alpha):
    prior = StickBreakingPrior(4, alpha).double()
    v = torch.rand(7, 3, dtype=torch.float64)
    beta = dist.Beta(torch.ones(()).double(), alpha).log_prob(v).sum(-1)
    log_rest = torch.log1p(-v).cumsum(-1)[:, :-1].sum(-1)
    torch.testing.assert_close(prior().log_prob(weights_of(v)), beta - log_rest)


def test_two_weights_of_the_prior_are_a_dirichlet():
    x = dist.Dirichlet(torch.ones(2)).sample((9,)).double()
    x = x / x.sum(-1, keepdim=True)
    two = StickBreakingPrior(2, 3.0).double()()
    torch.testing.assert_close(two.log_prob(x), dist.Dirichlet(torch.tensor([1.0, 3.0]).double()).log_prob(x))


def test_the_network_gives_a_and_then_b():
    parameters = torch.randn(5, 6)
    d = StickBreakingKumaraswamy(nn.Identity())(parameters)
    positive = torch.nn.functional.softplus(parameters) + 1e-3
    assert torch.equal(d.concentration1, positive[:, :3])
    assert torch.equal(d.concentration0, positive[:, 3:])
    torch.testing.assert_close(Dirichlet(nn.Identity())(parameters).concentration, positive)


def test_draws_have_the_exact_means_and_variances():
    """Seed 0, 100,000 draws of each of 3, 5 standard errors."""
    torch.manual_seed(0)
    d, num = random_sticks(3), 100_000
    x = d.expand((2, 3)).sample((num // 2,)).reshape(num, 3, 4)
    assert ((x.mean(0) - d.mean).abs() < 5 * (d.variance / num).sqrt()).all()
    fourth = ((x - d.mean) ** 4).mean(0)
    assert ((x.var(0) - d.variance).abs() < 5 * ((fourth - d.variance**2) / num).sqrt()).all()
    torch.testing.assert_close(d.mean.sum(-1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["mean", "variance"])
def test_the_gradient_through_draws_is_that_of_the_moments(name):
    """Both concentrations; seed 0, 100,000 draws in 50 batches, 5 standard errors."""
    torch.manual_seed(0)
    d = random_sticks()
    leaves = [d.concentration1.requires_grad_(), d.concentration0.requires_grad_()]
    weight = torch.tensor([0.3, -1.0, 0.7, 0.5], dtype=torch.float64)
    mean = d.mean.detach()
    exact = torch.autograd.grad((weight * getattr(d, name)).sum(), leaves)
    batches = []
    for _ in range(50):
        x = StickBreakingDistribution(*leaves).rsample((2000,))
        value = x if name == "mean" else (x - mean).square()
        batches.append(torch.autograd.grad((weight * value).sum(-1).mean(), leaves))
    for truth, found in zip(exact, zip(*batches, strict=True), strict=True):
        found = torch.stack(found)
        assert ((found.mean(0) - truth).abs() < 5 * found.std(0) / math.sqrt(50)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("a", EXTREMES)
def test_draws_densities_and_gradients_are_finite_however_extreme_the_fractions(dtype, a):
    """Where most fractions round to 0 or 1; validation of the simplex is on."""
    for b in EXTREMES:
        leaves = [torch.full((500, 9), value, dtype=dtype, requires_grad=True) for value in (a, b)]
        d = StickBreakingDistribution(*leaves)
        prior = StickBreakingDistribution(torch.ones(9, dtype=dtype), torch.full((9,), 100.0, dtype=dtype))
        x = d.rsample()
        assert (x > 0).all()
        assert ((x.sum(-1) - 1).abs() < 1e-6).all()
        value = torch.stack([d.log_prob(x), prior.log_prob(x), kl_divergence(d, prior)])
        assert value.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(value.sum() + x[:, 0].sum(), leaves))


def test_hundreds_of_weights_still_sum_to_one_in_float32():
    d = StickBreakingDistribution(torch.ones(50, 499), torch.full((50, 499), 100.0))
    assert d.support.check(d.sample((20,))).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_point_of_the_simplex_can_be_scored(dtype):
    """Corners and edges included, where the density may be 0 or without bound: it is finite there."""
    points = torch.cat([torch.eye(4), torch.full((1, 4), 0.25), torch.tensor([[0.5, 0.0, 0.5, 0.0]])]).to(dtype)
    points.requires_grad_()
    for d in (random_sticks(), StickBreakingPrior(4, 0.3)(), StickBreakingPrior(4, 30.0)()):
        same = StickBreakingDistribution(d.concentration1.to(dtype), d.concentration0.to(dtype))
        log_prob = same.log_prob(points)
        assert log_prob.isfinite().all()
        assert torch.autograd.grad(log_prob.sum(), points)[0].isfinite().all()


def importance_weights(features: int, alpha: float, a: float, b: float) -> Tensor:
    """Of the prior over Kumaraswamy fractions, at 20,000 float32 draws; seed 0."""
    torch.manual_seed(0)
    q = StickBreakingDistribution(torch.full((features - 1,), a), torch.full((features - 1,), b))
    z = q.sample((20_000,))
    return (StickBreakingPrior(features, alpha)().log_prob(z) - q.log_prob(z)).double().exp()


@pytest.mark.parametrize(("features", "alpha", "b"), [(200, 1.0, 0.9), (200, 1.0, 1.2), (50, 0.5, 0.7), (50, 0.5, 0.4)])
def test_importance_weights_have_mean_one_where_most_of_the_sticks_are_below_any_float(features, alpha, b):
    """Seed 0, 20,000 draws, 4 standard errors, each below 0.1."""
    weights = importance_weights(features, alpha, 1.0, b)
    error = weights.std() / math.sqrt(20_000)
    assert error < 0.1
    assert abs(weights.mean() - 1) < 4 * error


@pytest.mark.parametrize(
    ("alpha", "a", "b"),
    [(5.0, 5.0, 1.0), (5.0, 2.0, 0.3), (0.5, 3.0, 0.2), (0.5, 0.1, 0.05), (0.5, 1.0, 1e-3), (0.5, 1e-3, 1e-3)],
)
def test_importance_weights_are_small_on_average_where_the_sticks_are_nothing_like_the_prior(alpha, a, b):
    """Seed 0, 20,000 draws; by Markov's inequality their mean is above 100 once in 100 seeds, if its mean is one."""
    assert importance_weights(50, alpha, a, b).mean() < 100


@pytest.mark.parametrize(("c", "a", "b"), [(0.7, 1.0, 0.5), (0.1, 1.0, 0.5), (0.1, 1e-3, 1e-3), (0.02, 0.1, 0.02)])
def test_importance_weights_of_a_dirichlet_are_small_on_average_too(c, a, b):
    """50 weights, seed 0, 20,000 draws, as above."""
    torch.manual_seed(0)
    q = StickBreakingDistribution(torch.full((49,), a), torch.full((49,), b))
    z = q.sample((20_000,))
    assert (DirichletPrior(50, c)().log_prob(z) - q.log_prob(z)).double().exp().mean() < 100


def test_draws_are_even_where_the_stick_is_too_short_to_tell():
    """Of what is left below the cut each of three pieces has a third: seed 0, 20,000 draws, 4 standard errors."""
    torch.manual_seed(0)
    b = torch.tensor([0.02, 5.0, 5.0], dtype=torch.float64)
    x = StickBreakingDistribution(torch.ones(3), b.float()).sample((20_000,)).double()
    rest = x[:, 1:].sum(-1, keepdim=True)
    shares = (x[:, 1:] / rest)[(rest[:, 0] < 1e-19) & (rest[:, 0] > 1e-25)]
    assert len(shares) > 500
    assert ((shares.mean(0) - 1 / 3).abs() < 4 * shares.std(0) / math.sqrt(len(shares))).all()


def test_float32_agrees_with_float64():
    d = random_sticks(6, features=20)
    single = StickBreakingDistribution(d.concentration1.float(), d.concentration0.float())
    x = single.sample((10,))
    torch.testing.assert_close(single.log_prob(x).double(), d.log_prob(x.double()), atol=1e-4, rtol=1e-4)


def test_the_simplex_has_coordinates_without_constraints():
    z = torch.randn(5, 3, dtype=torch.float64)
    assert random_sticks(5).log_prob(biject_to(StickBreakingDistribution.support)(z)).isfinite().all()


# Divergences


def test_the_divergence_from_itself_is_zero():
    d = random_sticks(6)
    torch.testing.assert_close(kl_divergence(d, d), torch.zeros(6, dtype=torch.float64), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 7.0])
def test_the_divergence_is_that_of_betas_where_the_fractions_are(alpha):
    """Kumaraswamy(1, b) is Beta(1, b), Kumaraswamy(a, 1) is Beta(a, 1)."""
    one, other = torch.ones(4, 3, dtype=torch.float64), 0.1 + 5 * torch.rand(4, 3, dtype=torch.float64)
    prior = StickBreakingPrior(4, alpha).double()()
    for a, b in ((one, other), (other, one)):
        betas = kl_divergence(dist.Beta(a, b), dist.Beta(one, alpha)).sum(-1)
        torch.testing.assert_close(kl_divergence(StickBreakingDistribution(a, b), prior), betas, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("a", [0.05, 0.7, 20.0])
@pytest.mark.parametrize("b", [0.1, 3.0, 50.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_divergence_is_an_adaptive_quadratures(a, b, dtype):
    """The expectation that has no closed form, over the quantiles of v, to 1e-5."""
    alpha = 4.0

    def integrand(e: float) -> float:
        if e == 0:
            return 0.0
        log_power = math.log1p(-math.exp(-e / b)) if e > b else math.log(-math.expm1(-e / b))  # of v^a
        return math.exp(-e) * math.log(-math.expm1(log_power / a))

    ends = itertools.pairwise([0.0, 1e-8, 1e-4, 0.01, 0.1, 1.0, 5.0, 40.0])
    parts = [scipy.integrate.quad(integrand, *pair, epsabs=1e-10, limit=200)[0] for pair in ends]
    log_v = -(scipy.special.digamma(b + 1) + 0.5772156649015329) / a
    log_q = math.log(a * b) + (a - 1) * log_v - (b - 1) / b
    expected = log_q - math.log(alpha) - (alpha - 1) * sum(parts)
    q = StickBreakingDistribution(torch.tensor([a], dtype=dtype), torch.tensor([b], dtype=dtype))
    p = StickBreakingDistribution(torch.ones(1, dtype=dtype), torch.full((1,), alpha, dtype=dtype))
    assert kl_divergence(q, p).item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("prior", [StickBreakingPrior(4, 3.0), DirichletPrior(4, 0.6)])
def test_divergences_are_those_of_draws(prior):
    """Sticks or Dirichlet against the prior of their kind; seed 0, 100,000 draws of each of 3, 5 standard errors."""
    torch.manual_seed(0)
    p = prior.double()()
    q = random_sticks(3) if isinstance(prior, StickBreakingPrior) else dist.Dirichlet(torch.rand(3, 4).double() + 0.5)
    x = q.sample((100_000,))
    ratio = q.log_prob(x) - p.log_prob(x)
    assert ((ratio.mean(0) - kl_divergence(q, p)).abs() < 5 * ratio.std(0) / math.sqrt(100_000)).all()


def test_the_divergence_between_sticks_and_a_dirichlet_is_left_to_draws():
    with pytest.raises(NotImplementedError):
        kl_divergence(random_sticks(), DirichletPrior(4, 1.0)())


# Dirichlet


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("raw", [-1e4, -5.0, 0.0, 1e4])
def test_a_dirichlet_is_finite_however_extreme_its_network(dtype, raw):
    parameters = torch.full((200, 5), raw, dtype=dtype, requires_grad=True)
    d = Dirichlet(nn.Identity())(parameters)
    x = d.rsample()
    log_prob = d.log_prob(x)
    assert log_prob.isfinite().all()
    assert torch.autograd.grad(log_prob.sum(), parameters)[0].isfinite().all()


def test_priors_do_not_look_at_the_context_and_have_no_state():
    for prior in (StickBreakingPrior(4, 2.0), DirichletPrior(4, 2.0)):
        assert prior(torch.zeros(5, 3)).batch_shape == ()
        assert not prior.state_dict()
        assert prior.double()().sample().dtype is torch.float64


# Bad input


@pytest.mark.parametrize("family", [StickBreakingKumaraswamy, Dirichlet])
def test_a_network_is_a_module(family):
    with refuses(TypeError, family.__name__, "torch.nn.Module"):
        family(784)


@pytest.mark.parametrize("prior", [StickBreakingPrior, DirichletPrior])
def test_priors_take_two_weights_and_a_positive_concentration(prior):
    for features in (1, 0, 3.0, True):
        with refuses(ValueError, "features", "at least 2", repr(features)):
            prior(features, 1.0)
    for concentration in (0, -1.0, math.inf, math.nan, "1", True):
        with refuses(ValueError, "concentration", prior.__name__, repr(concentration)):
            prior(3, concentration)


def test_a_network_output_of_the_wrong_length_is_refused():
    with refuses(ValueError, "StickBreakingKumaraswamy", "(4, 5)"):
        StickBreakingKumaraswamy(nn.Identity())(torch.zeros(4, 5))
    with refuses(ValueError, "at least two", "(4, 1)"):
        Dirichlet(nn.Identity())(torch.zeros(4, 1))


@pytest.mark.parametrize("x", [torch.tensor([[2.0, 3.0]]), torch.tensor([[-0.5, 1.5]])])
def test_weights_sum_to_one(x):
    for conditional in (StickBreakingPrior(2, 1.0), Dirichlet(nn.Identity())):
        with refuses(ValueError, type(conditional).__name__, "x.sum(-1, keepdim=True)"):
            conditional.check_data(x)
