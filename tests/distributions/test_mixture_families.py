"""Low-rank normals, mixtures of normals with pathwise gradients, and the VampPrior, against what they must equal."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import kl_divergence

from contracts import check_normalised, refuses
from pyro_dgm.distributions import (
    DiagonalNormal,
    Encoded,
    Flow,
    FullNormal,
    LearnableNormal,
    LowRankNormal,
    LowRankNormalDistribution,
    MixtureNormal,
    MixtureNormalDistribution,
    MixturePrior,
    SemiImplicit,
    VampPrior,
    VampPriorDistribution,
    transforms,
)
from pyro_dgm.nn import MLP

# Low-rank normal


def low_rank(d: int, rank: int, *batch: int, sd: float = 1.0) -> tuple[LowRankNormalDistribution, Tensor, Tensor]:
    """A random one in float64, its mean and its covariance."""
    loc, factor = torch.randn(*batch, d).double(), torch.randn(*batch, d, rank).double()
    diagonal = sd**2 * torch.rand(*batch, d).double().add(0.5)
    covariance = factor @ factor.mT + torch.diag_embed(diagonal)
    return LowRankNormalDistribution(loc, factor, diagonal), loc, covariance


@pytest.mark.parametrize(("d", "rank"), [(1, 1), (4, 1), (5, 3), (2, 4)])
def test_a_low_rank_normal_is_the_normal_of_its_covariance(d, rank):
    parameters = torch.randn(7, 3, LowRankNormal.num_parameters(d, rank), dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 7, 3, d, dtype=torch.float64)
    ours = LowRankNormal(nn.Identity(), rank)(parameters)
    factor = parameters[..., 2 * d :].reshape(7, 3, d, rank)
    covariance = factor @ factor.mT + torch.diag_embed((2 * parameters[..., d : 2 * d]).exp())
    theirs = dist.MultivariateNormal(parameters[..., :d], covariance)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    gradients = [torch.autograd.grad(d.log_prob(x).sum(), parameters, retain_graph=True)[0] for d in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_a_low_rank_normal_without_factor_is_the_diagonal_normal():
    parameters, x = torch.randn(6, 4 * 2), torch.randn(5, 6, 4)
    low = LowRankNormal(nn.Identity(), 3)(torch.cat([parameters, torch.zeros(6, 12)], dim=-1))
    torch.testing.assert_close(low.log_prob(x), DiagonalNormal(nn.Identity())(parameters).log_prob(x))


def test_low_rank_draws_have_the_mean_and_covariance_asked_for():
    """Seed 0, 40,000 draws, 5 standard errors."""
    torch.manual_seed(0)
    d, loc, covariance = low_rank(3, 2)
    num = 40_000
    x = d.expand((num,)).rsample()
    spread = covariance.diagonal()
    assert ((x.mean(0) - loc).abs() < 5 * (spread / num).sqrt()).all()
    error = ((covariance**2 + torch.outer(spread, spread)) / num).sqrt()
    assert ((torch.cov(x.T) - covariance).abs() < 5 * error).all()


def test_a_low_rank_density_is_right_in_float32_where_the_diagonal_is_small():
    """With standard deviations of 0.001 torch's own formula is off by tens of nats."""
    d, loc, covariance = low_rank(10, 3, 50, sd=1e-3)
    single = LowRankNormalDistribution(*(t.float() for t in (d.loc, d.cov_factor, d.cov_diag)))
    x = single.sample()
    truth = dist.MultivariateNormal(loc, covariance).log_prob(x.double()).float()
    torch.testing.assert_close(single.log_prob(x), truth, atol=0.02, rtol=0.0)
    torchs = dist.LowRankMultivariateNormal(single.loc, single.cov_factor, single.cov_diag)
    assert (torchs.log_prob(x) - truth).abs().max() > 1


def test_the_kl_of_a_low_rank_normal_to_a_full_one_is_known():
    d, _, _ = low_rank(3, 2, 4)
    full = dist.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double()).expand((4,))
    expected = kl_divergence(dist.MultivariateNormal(d.loc, d.covariance_matrix), full)
    torch.testing.assert_close(kl_divergence(d, full), expected)


# Mixture of normals


def random_mixture(*batch: int, k: int = 3, d: int = 2) -> MixtureNormalDistribution:
    loc, log_scale = torch.randn(2, *batch, k, d, dtype=torch.float64).unbind()
    return MixtureNormalDistribution(loc, log_scale.exp(), torch.randn(*batch, k, dtype=torch.float64))


def torchs(d: MixtureNormalDistribution) -> torch.distributions.Distribution:
    return dist.MixtureSameFamily(dist.Categorical(logits=d.logits), dist.Normal(d.loc, d.scale).to_event(1))


@pytest.mark.parametrize("batch", [(), (4,), (4, 1, 3)])
def test_density_and_moments_of_a_mixture_are_those_of_torchs(batch):
    d = random_mixture(*batch)
    x = torch.randn(5, *batch, 2, dtype=torch.float64)
    torch.testing.assert_close(d.log_prob(x), torchs(d).log_prob(x))
    torch.testing.assert_close(d.mean, torchs(d).mean)
    torch.testing.assert_close(d.variance, torchs(d).variance)
    torch.testing.assert_close(d.expand((5, *batch)).log_prob(x), torchs(d).log_prob(x))


def test_the_network_gives_logits_means_and_log_scales_in_this_order():
    parameters = torch.randn(5, MixtureNormal.num_parameters(3, 2))
    d = MixtureNormal(nn.Identity(), 2)(parameters)
    assert torch.equal(d.logits, parameters[:, :2])
    assert torch.equal(d.loc, parameters[:, 2:8].reshape(5, 2, 3))
    assert torch.equal(d.scale, parameters[:, 8:].reshape(5, 2, 3).exp())


def test_draws_have_a_sample_shape_a_batch_shape_and_rows_of_their_own():
    loc = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[100.0, 100.0], [101.0, 101.0]]])  # (2 rows, K = 2, d = 2)
    d = MixtureNormalDistribution(loc, torch.full_like(loc, 0.01), torch.zeros(2))
    for x in (d.rsample((5, 3)), d.expand((5, 3, 2)).rsample(), d.sample((5, 3))):
        assert x.shape == (5, 3, 2, 2)
        assert ((x[..., 1, :] - x[..., 0, :]).round().abs() >= 99).all()
        assert len(x.unique()) == x.numel()


def test_draws_of_a_mixture_have_its_mean_and_variance():
    """Seed 0, 100,000 draws of each of 3 mixtures, 5 standard errors."""
    torch.manual_seed(0)
    d, num = random_mixture(3), 100_000
    x = d.sample((num,))
    assert ((x.mean(0) - d.mean).abs() < 5 * (d.variance / num).sqrt()).all()
    fourth = ((x - d.mean) ** 4).mean(0)
    assert ((x.var(0) - d.variance).abs() < 5 * ((fourth - d.variance**2) / num).sqrt()).all()


GRADIENTS = {
    "one feature": ([[0.0], [1.5], [-1.0]], [[0.5], [0.9], [1.3]], [0.3, -0.2, 0.7]),
    "two features": ([[0.0, 0.0], [1.0, 0.7], [-1.0, 1.0]], [[0.5, 1.2], [0.8, 0.6], [1.0, 1.0]], [0.3, -0.2, 0.0]),
    "narrow": ([[0.0, 0.0], [1.0, 0.7]], [[0.2, 0.3], [0.3, 0.4]], [0.3, -0.2]),
    "at one place": ([[0.2, 0.0], [0.2, 0.0]], [[1.0, 0.7], [1.0, 0.7]], [0.3, -0.2]),
}


def curved(z: Tensor) -> Tensor:
    """A function of which no component's gradient is simple."""
    return (1.3 * z.sum(-1)).sin() + 0.3 * z.square().sum(-1) + 0.2 * z[..., 0] ** 3 + (z[..., 0] * z[..., -1]).cos()


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_through_draws_of_a_mixture_is_that_of_the_expectation(name):
    """Means, scales and logits against quadrature; seed 0, 200,000 draws in 50 batches, 5 standard errors."""
    torch.manual_seed(0)
    leaves = [torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in GRADIENTS[name]]
    d = leaves[0].shape[-1]
    ticks = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    points = torch.cartesian_prod(*[ticks] * d).reshape(-1, d)
    mass = MixtureNormalDistribution(*leaves).log_prob(points).exp() * (ticks[1] - ticks[0]) ** d
    exact = torch.autograd.grad((mass * curved(points)).sum(), leaves)
    batches = []
    for _ in range(50):
        z = MixtureNormalDistribution(*leaves).rsample((4000,))
        batches.append(torch.autograd.grad(curved(z).mean(), leaves))
    for truth, found in zip(exact, zip(*batches, strict=True), strict=True):
        found = torch.stack(found)
        assert ((found.mean(0) - truth).abs() < 5 * found.std(0) / math.sqrt(50) + 1e-9).all()


def test_a_mixture_of_one_has_the_gradient_of_a_normal():
    loc, scale = torch.randn(4, 1, 3, requires_grad=True), torch.rand(4, 1, 3).add(0.5).requires_grad_()
    z = MixtureNormalDistribution(loc, scale, torch.zeros(1)).rsample((5,))
    weight = torch.randn_like(z)
    found = torch.autograd.grad((weight * z).sum(), (loc, scale))
    noise = (z - loc.squeeze(1)) / scale.squeeze(1)
    torch.testing.assert_close(found[0].squeeze(1), weight.sum(0))
    torch.testing.assert_close(found[1].squeeze(1), (weight * noise).sum(0))


def test_the_gradient_of_a_draw_keeps_the_conditional_quantiles():
    """The path by its definition: the distribution functions, one after the other, do not move; d = 3."""
    d = random_mixture(k=2, d=3)
    leaves = [t.clone().requires_grad_() for t in (d.loc, d.scale, d.logits)]
    z = MixtureNormalDistribution(*leaves).rsample()
    rows = [torch.autograd.grad(z[i], leaves, retain_graph=True) for i in range(3)]
    step = [1e-6 * torch.randn_like(t) for t in leaves]
    moved = torch.stack([sum((g * s).sum() for g, s in zip(row, step, strict=True)) for row in rows])
    with torch.no_grad():
        before = quantiles(z, *leaves)
        after = quantiles(z + moved, *[leaf + s for leaf, s in zip(leaves, step, strict=True)])
    torch.testing.assert_close(after, before, atol=1e-9, rtol=0.0)
    assert (quantiles(z + moved, *leaves) - before).abs().min() > 1e-8


def quantiles(z: Tensor, loc: Tensor, scale: Tensor, logits: Tensor) -> Tensor:
    weights, found = logits.softmax(-1), []
    for i in range(z.shape[-1]):
        normal = torch.distributions.Normal(loc[:, i], scale[:, i])
        found.append((weights * normal.cdf(z[i])).sum())
        weights = weights * normal.log_prob(z[i]).exp()
        weights = weights / weights.sum()
    return torch.stack(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_and_gradients_of_a_mixture_are_finite_in_many_dimensions_and_far_apart(dtype):
    far = ([[-50.0, 0.0], [50.0, 0.0]], [[1e-3, 1e2], [1e2, 1e-3]], [50.0, -50.0])
    wide = (30 * torch.randn(3, 4, 200), torch.randn(3, 4, 200).exp(), 10 * torch.randn(3, 4))
    for values in (far, wide):
        leaves = [torch.as_tensor(value).to(dtype).requires_grad_() for value in values]
        d = MixtureNormalDistribution(*leaves)
        z = d.rsample((100,))
        log_prob = d.log_prob(z)
        assert z.isfinite().all()
        assert log_prob.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(z.sum() + log_prob.sum(), leaves))


def test_a_second_derivative_of_a_draw_is_refused_rather_than_wrong():
    loc = torch.randn(2, 1, requires_grad=True)
    z = MixtureNormalDistribution(loc, torch.ones(2, 1), torch.zeros(2)).rsample()
    (gradient,) = torch.autograd.grad(z.square().sum(), loc, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_the_components_of_a_mixture_prior_start_apart_and_from_torchs_generator():
    torch.manual_seed(3)
    prior = MixturePrior(2, 500, spread=4.0)
    torch.manual_seed(3)
    again = MixturePrior(2, 500, spread=4.0)
    assert torch.equal(prior.loc, again.loc)
    assert not torch.equal(prior.loc, MixturePrior(2, 500, spread=4.0).loc)
    assert len(prior.loc.unique()) == prior.loc.numel()
    assert 3.5 < prior.loc.std() < 4.5
    assert prior(torch.zeros(7, 3)).batch_shape == ()
    assert torch.equal(prior().logits.softmax(-1), torch.full((500,), 1 / 500))


def test_weights_that_are_not_learned_are_part_of_the_state():
    prior = MixturePrior(2, 3, learned_weights=False)
    assert set(dict(prior.named_parameters())) == {"loc", "log_scale"}
    assert set(prior.state_dict()) == {"loc", "log_scale", "logits"}


@pytest.mark.parametrize(
    "conditional",
    [
        MixtureNormal(MLP(4, MixtureNormal.num_parameters(1, 3), (8,)), 3),
        LowRankNormal(MLP(4, LowRankNormal.num_parameters(1, 2), (8,)), 2),
        MixturePrior(1, 4),
        VampPrior(MixtureNormal(MLP(4, MixtureNormal.num_parameters(1, 3), (8,)), 3), torch.randn(5, 4)),
        VampPrior(FullNormal(MLP(4, 2, (8,))), torch.randn(5, 4)),
    ],
    ids=lambda conditional: type(conditional).__name__,
)
def test_density_is_normalised(conditional):
    cell = 60 / 20_001
    points = -30 + cell * (torch.arange(20_001, dtype=torch.float64) + 0.5)
    context = [] if "Prior" in type(conditional).__name__ else [torch.randn(6, 4, dtype=torch.float64)]
    check_normalised(conditional.double()(*context), points, cell)


# VampPrior

X, D, K = 6, 2, 5


def net(out_features: int) -> MLP:
    return MLP(X, out_features, (8,), activation=nn.Tanh)


POSTERIORS = {
    "diagonal": lambda: DiagonalNormal(net(2 * D)),
    "full": lambda: FullNormal(net(FullNormal.num_parameters(D))),
    "low-rank": lambda: LowRankNormal(net(LowRankNormal.num_parameters(D, 1)), 1),
    "mixture": lambda: MixtureNormal(net(MixtureNormal.num_parameters(D, 3)), 3),
    "flow": lambda: Encoded(
        net(4), Flow(DiagonalNormal(nn.Linear(4, 2 * D)), transforms.stack("maf", 2, D, context_features=4))
    ),
    "encoded": lambda: Encoded(net(4), DiagonalNormal(nn.Linear(4, 2 * D))),
}


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("batch", [(), (3,), (4, 3)])
def test_a_vamp_prior_is_the_mean_of_its_posteriors_with_their_gradients(name, batch):
    """Also with particles on a plate to the left, (4, 3); against a loop over the pseudo-inputs."""
    prior = VampPrior(POSTERIORS[name](), torch.randn(K, X)).double()
    z = torch.randn(*batch, D, dtype=torch.float64, requires_grad=True)
    d = prior().expand(batch)
    each = torch.stack([prior.posterior(prior.pseudo_inputs[k]).log_prob(z) for k in range(K)])
    slow = each.logsumexp(0) - math.log(K)
    log_prob = d.log_prob(z)
    assert log_prob.shape == batch
    torch.testing.assert_close(log_prob, slow)
    leaves = [z, *prior.parameters()]
    assert any(leaf is prior.pseudo_inputs for leaf in leaves)
    found, truth = (torch.autograd.grad(value.sum(), leaves, retain_graph=True) for value in (log_prob, slow))
    torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("name", ["diagonal", "mixture", "flow"])
def test_draws_of_a_vamp_prior_are_of_all_its_posteriors(name):
    """Seed 0, 20,000 draws on the left of a batch of 2, mean and mean square against the components', 5 SE."""
    torch.manual_seed(0)
    prior = VampPrior(POSTERIORS[name](), 2 * torch.randn(K, X))
    d = prior().expand((2,))
    z = d.sample((20_000,))
    assert z.shape == (20_000, 2, D)
    assert not z.requires_grad
    each = prior().components.sample((20_000,))  # (20000, K, D), of equal numbers
    for one, other in ((z, each), (z.square(), each.square())):
        error = (one.var((0, 1)) / 40_000 + other.var(0).mean(0) / (20_000 * K)).sqrt()
        assert ((one.mean((0, 1)) - other.mean((0, 1))).abs() < 5 * error).all()


def test_moments_of_a_vamp_prior_are_those_of_the_mixture():
    prior = VampPrior(POSTERIORS["diagonal"](), torch.randn(K, X))
    normal = prior().components.base_dist
    mixture = MixtureNormalDistribution(normal.loc, normal.scale, torch.zeros(K))
    torch.testing.assert_close(prior().expand((3,)).mean, mixture.mean.expand(3, -1))
    torch.testing.assert_close(prior().expand((3,)).variance, mixture.variance.expand(3, -1))


def test_nothing_of_the_pseudo_inputs_is_a_sample_site():
    prior = VampPrior(POSTERIORS["diagonal"](), torch.rand(K, X))

    def model():
        with pyro.plate("data", 3):
            return pyro.sample("z", prior())

    trace = poutine.trace(model).get_trace()
    assert [name for name, site in trace.nodes.items() if site["type"] == "sample"] == ["data", "z"]
    met = [site["value"].unconstrained() for site in trace.nodes.values() if site["type"] == "param"]
    assert {id(p) for p in prior.parameters()} <= {id(p) for p in met}


def test_bounds_cut_pseudo_inputs_off_and_stop_their_gradient():
    inputs = torch.rand(K, X)
    prior = VampPrior(POSTERIORS["diagonal"](), inputs, bounds=(0.0, 1.0))
    prior.pseudo_inputs.data[0] = 1.5
    prior.pseudo_inputs.data[1] = -0.5
    cut = VampPrior(prior.posterior, prior.pseudo_inputs.detach().clamp(0, 1))
    z = torch.randn(4, D)
    torch.testing.assert_close(prior().log_prob(z), cut().log_prob(z))
    prior().log_prob(z).sum().backward()
    assert not prior.pseudo_inputs.grad[:2].any()
    assert prior.pseudo_inputs.grad[2:].all()


def test_pseudo_inputs_are_copied_and_may_stay_fixed():
    data = torch.rand(20, X)
    posterior = POSTERIORS["diagonal"]()
    prior = VampPrior(posterior, data[:K])
    prior.pseudo_inputs.data.zero_()
    assert data[:K].all()
    fixed = VampPrior(posterior, data[:K], learned=False)
    assert {id(p) for p in fixed.parameters()} == {id(p) for p in posterior.parameters()}
    assert torch.equal(fixed.state_dict()["pseudo_inputs"], data[:K])
    assert "pseudo_inputs" in dict(prior.named_parameters())


def test_a_copy_of_prior_and_posterior_still_shares_its_parameters():
    posterior = POSTERIORS["diagonal"]()
    prior, copied = copy.deepcopy((VampPrior(posterior, torch.rand(K, X)), posterior))
    assert prior.posterior is copied
    assert copied is not posterior


# Bad input


@pytest.mark.parametrize("number", [0, -1, 2.0, True])
def test_ranks_and_components_are_counted(number):
    with refuses(ValueError, "rank", repr(number), "DiagonalNormal"):
        LowRankNormal(nn.Identity(), number)
    with refuses(ValueError, "components of MixtureNormal", repr(number)):
        MixtureNormal(nn.Identity(), number)
    with refuses(ValueError, "components of MixturePrior", repr(number)):
        MixturePrior(2, number)
    with refuses(ValueError, "features", repr(number)):
        MixturePrior(number, 2)


@pytest.mark.parametrize("family", [LowRankNormal, MixtureNormal])
def test_a_network_is_a_module(family):
    with refuses(TypeError, family.__name__, "torch.nn.Module"):
        family(784, 2)


@pytest.mark.parametrize(
    ("conditional", "length"),
    [
        (LowRankNormal(nn.Identity(), 2), 7),
        (MixtureNormal(nn.Identity(), 3), 10),
        (MixtureNormal(nn.Identity(), 3), 3),
        (MixtureNormal(nn.Identity(), 3), 2),
    ],
)
def test_a_network_output_that_fits_no_features_is_refused(conditional, length):
    with refuses(ValueError, type(conditional).__name__, f"(4, {length})"):
        conditional(torch.randn(4, length))


@pytest.mark.parametrize("spread", [0, -1.0, math.inf, math.nan, True, "wide"])
def test_the_spread_of_a_mixture_prior_is_positive(spread):
    with refuses(ValueError, "spread", repr(spread)):
        MixturePrior(2, 3, spread=spread)


def test_a_vamp_prior_takes_no_posterior_that_scores_its_own_draws_alone():
    semi = SemiImplicit(DiagonalNormal(MLP(X + 2, 2 * D)), 2)
    for posterior in (semi, Encoded(nn.Linear(X, X), semi)):
        with refuses(ValueError, type(posterior).__name__, "scores_any_point", "DiagonalNormal"):
            VampPrior(posterior, torch.rand(K, X))
    with refuses(TypeError, "posterior of a VampPrior", "Linear"):
        VampPrior(nn.Linear(X, 2 * D), torch.rand(K, X))


@pytest.mark.parametrize(
    ("inputs", "error", "part"),
    [
        ([[0.0] * X], TypeError, "list"),
        (torch.zeros(K, X, dtype=torch.uint8), TypeError, "torch.uint8"),
        (torch.zeros(X), ValueError, "(K, *event)"),
        (torch.zeros(0, X), ValueError, "(0, 6)"),
        (torch.full((K, X), math.nan), ValueError, "30 NaN"),
        (torch.full((K, X), 1.5), ValueError, "1.5"),
    ],
)
def test_pseudo_inputs_are_rows_like_the_data(inputs, error, part):
    with refuses(error, "pseudo_inputs", part):
        VampPrior(DiagonalNormal(net(2 * D)), inputs, bounds=(0.0, 1.0))


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.0,), 1.0, ("low", "high"), (0.0, math.nan)])
def test_the_bounds_of_pseudo_inputs_are_two_numbers_in_order(bounds):
    with refuses(ValueError, "bounds", repr(bounds)):
        VampPrior(DiagonalNormal(net(2 * D)), torch.zeros(K, X), bounds=bounds)


def test_a_posterior_that_does_not_tell_pseudo_inputs_apart_is_refused():
    with refuses(ValueError, "each pseudo-input", "(5, 6)", "()"):
        VampPrior(LearnableNormal(D), torch.zeros(K, X))()
    with refuses(ValueError, "each pseudo-input", "(5, 1, 6)", "(5, 1)"):
        VampPrior(DiagonalNormal(net(2 * D)), torch.zeros(K, 1, X))()


def test_a_vamp_prior_distribution_keeps_the_support_of_its_components():
    components = dist.Dirichlet(torch.ones(K, 3))
    d = VampPriorDistribution(components)
    assert d.support is components.support
    assert d.log_prob(torch.tensor([0.2, 0.3, 0.5])).exp() == pytest.approx(2.0)
