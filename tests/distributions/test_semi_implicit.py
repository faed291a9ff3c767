"""The semi-implicit distribution where the mixture over noise is a known normal, and what it refuses."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from contracts import assert_every_parameter_has_a_gradient, refuses
from pyro_dgm.distributions import (
    Bernoulli,
    DiagonalNormal,
    LearnableNormal,
    LowRankNormal,
    MixtureNormal,
    SemiImplicit,
    SemiImplicitDistribution,
)
from pyro_dgm.nn import MLP, ConvEncoder

X, D, E = 4, 2, 3  # features, latents, noises


class Affine(nn.Module):
    """Mean W noise + V x and a scale: the mixture over noise is N(V x, W W' + s^2), of known entropy."""

    def __init__(self, weight: Tensor, log_scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.double())
        self.log_scale = nn.Parameter(torch.full(weight.shape[:1], log_scale, dtype=torch.float64))

    def forward(self, *given: Tensor) -> Tensor:
        loc = given[-1] @ self.weight.T
        loc = loc if len(given) == 1 else loc + given[0]
        return torch.cat([loc, self.log_scale.expand_as(loc)], dim=-1)

    def marginal(self) -> dist.MultivariateNormal:
        covariance = self.weight @ self.weight.T + torch.diag_embed((2 * self.log_scale).exp())
        return dist.MultivariateNormal(covariance.new_zeros(len(covariance)), covariance)


def affine(num_mixing: int, d: int = 2) -> tuple[SemiImplicit, Affine]:
    weight = torch.tensor([[1.2, -0.3], [0.4, 0.9]])[:d]
    net = Affine(weight, -0.3)
    return SemiImplicit(DiagonalNormal(net), 2, num_mixing), net


def semi(num_mixing: int = 4) -> SemiImplicit:
    return SemiImplicit(DiagonalNormal(MLP(X + E, 2 * D, (8,), activation=nn.Tanh)), E, num_mixing)


@pytest.mark.parametrize("d", [1, 2])
def test_the_estimate_is_on_average_above_the_density_and_converges_to_it(d):
    """Seed 0, 20,000 draws; differences at the same draws, 5 standard errors; of order 1 / M."""
    excess = []
    for num_mixing in (1, 10, 200):
        torch.manual_seed(0)
        conditional, net = affine(num_mixing, d)
        with torch.no_grad():
            q = conditional()
            z = q.rsample((20_000,))
            gap = q.log_prob(z) - net.marginal().log_prob(z)
        error = gap.std() / math.sqrt(20_000)
        assert gap.mean() > -5 * error
        excess.append(gap.mean().item())
    assert excess[0] > 0.1
    assert excess[0] > 3 * excess[1] > 10 * excess[2]
    assert excess[2] < 0.02


@pytest.mark.parametrize("num_mixing", [1, 5])
def test_importance_weights_by_the_estimate_are_unbiased(num_mixing):
    """E p(z) / q(z) = 1 for a normalised p; seed 0, 100,000 draws, 4 standard errors."""
    torch.manual_seed(0)
    conditional, _ = affine(num_mixing, 1)
    p = dist.Normal(torch.tensor([0.4]).double(), 0.6).to_event(1)
    with torch.no_grad():
        q = conditional()
        z = q.rsample((100_000,))
        weights = (p.log_prob(z) - q.log_prob(z)).exp()
    assert abs(weights.mean() - 1) < 4 * weights.std() / math.sqrt(100_000)
    assert weights.std() < 3  # so that the standard error means something


def test_draws_have_the_mean_and_covariance_of_the_mixture():
    """Seed 0, 40,000 draws, 5 standard errors."""
    torch.manual_seed(0)
    conditional, net = affine(1)
    with torch.no_grad():
        z = conditional().rsample((40_000,))
        covariance = net.marginal().covariance_matrix
    spread = covariance.diagonal()
    assert (z.mean(0).abs() < 5 * (spread / 40_000).sqrt()).all()
    error = ((covariance**2 + torch.outer(spread, spread)) / 40_000).sqrt()
    assert ((torch.cov(z.T) - covariance).abs() < 5 * error).all()


def test_the_gradient_converges_to_that_of_the_entropy():
    """Of weight and scale; seed 0, 300 batches of 20 draws with M = 100, 5 standard errors and 0.02 of bias."""
    torch.manual_seed(0)
    conditional, net = affine(100)
    parameters = list(net.parameters())
    exact = torch.autograd.grad(-net.marginal().entropy(), parameters)
    batches = []
    for _ in range(300):
        q = conditional()
        z = q.rsample((20,))
        batches.append(torch.autograd.grad(q.log_prob(z).mean(), parameters))
    for truth, found in zip(exact, zip(*batches, strict=True), strict=True):
        found = torch.stack(found)
        assert ((found.mean(0) - truth).abs() < 5 * found.std(0) / math.sqrt(300) + 0.02).all()


@pytest.mark.parametrize("shape", [(), (5,)])
@pytest.mark.parametrize("expanded", [(3,), (6, 3)])
def test_every_element_of_a_draw_has_noises_of_its_own(shape, expanded):
    """With particles on a plate to the left, too; the estimate against a loop over the noises that were drawn."""
    drawn, net, x = [], MLP(X + E, 2 * D, (8,)), torch.randn(3, X)

    def explicit(noise: Tensor) -> torch.distributions.Distribution:
        drawn.append(noise)
        return DiagonalNormal(net)(x, noise)

    q = SemiImplicitDistribution(explicit, torch.zeros(E), 4).expand(expanded)
    z = q.rsample(shape)
    noise = drawn[-1]
    assert z.shape == (*shape, *expanded, D)
    assert noise.shape == (5, *shape, *expanded, E)
    assert len(noise.unique()) == noise.numel()
    each = torch.stack([DiagonalNormal(net)(x, noise[m]).log_prob(z) for m in range(5)])
    torch.testing.assert_close(q.log_prob(z), each.exp().mean(0).log(), atol=1e-5, rtol=1e-5)


def test_nothing_is_drawn_before_a_draw_is_asked_for():
    q, x = semi(), torch.randn(3, X)
    before = torch.get_rng_state()
    q(x).expand((6, 3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("conditional", "contexts", "event"),
    [
        (lambda: DiagonalNormal(MLP(X + E, 2 * D)), [(X,)], D),
        (lambda: DiagonalNormal(MLP(X + 2 + E, 2 * D)), [(X,), (2,)], D),
        (lambda: MixtureNormal(MLP(X + E, MixtureNormal.num_parameters(D, 2)), 2), [(X,)], D),
        (lambda: LowRankNormal(MLP(X + E, LowRankNormal.num_parameters(D, 1)), 1), [(X,)], D),
        (lambda: DiagonalNormal(ConvEncoder((1, 5, 6), 2 * D, (4,), 8, context_features=E)), [(1, 5, 6)], D),
        (lambda: DiagonalNormal(MLP(E, 2 * D)), [], D),
    ],
    ids=["vector", "two-vectors", "mixture", "low-rank", "image", "prior"],
)
def test_shapes_gradients_and_dtypes_for_every_context(conditional, contexts, event):
    q = SemiImplicit(conditional(), E, num_mixing=3)
    batch = (5,) if contexts else ()
    context = [torch.randn(*batch, *shape) for shape in contexts]
    d = q(*context)
    assert (d.batch_shape, d.event_shape) == (batch, (event,))
    assert d.support is torch.distributions.constraints.real_vector or d.support.event_dim == 1
    for own in (d, d.expand((2, *batch))):
        z = own.rsample()
        log_prob = own.log_prob(z)
        assert z.shape == (*own.batch_shape, event)
        assert log_prob.shape == own.batch_shape
        assert z.dtype is torch.float32
    (log_prob.sum() + z.sum()).backward()
    assert_every_parameter_has_a_gradient(q)
    double = q.double()(*[c.double() for c in context])
    z = double.rsample()
    assert z.dtype is double.log_prob(z).dtype is torch.float64


def test_a_draw_without_a_path_can_be_scored_too():
    d = semi()(torch.randn(5, X))
    z = d.sample((2,))
    assert not z.requires_grad
    assert d.log_prob(z).shape == (2, 5)
    assert d.log_prob(z).requires_grad


def test_the_density_has_gradients_also_of_a_draw_made_without():
    """The same as of a draw made with them, to the last bit."""
    torch.manual_seed(0)
    q, x = semi(), torch.randn(5, X)
    gradients = []
    for enabled in (True, False):
        torch.manual_seed(1)
        d = q(x)
        with torch.set_grad_enabled(enabled):
            z = d.sample((2,))
        assert not z.requires_grad
        log_prob = d.log_prob(z)
        gradients.append(torch.autograd.grad(log_prob.sum(), list(q.parameters())))
    torch.testing.assert_close(*gradients, atol=0.0, rtol=0.0)
    with torch.no_grad():
        assert not d.log_prob(z).requires_grad


class Restless(nn.Module):
    """Batch normalisation, dropout, and noise in every mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(X + E), nn.Dropout(0.5), nn.Linear(X + E, 2 * D)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(x.shape[:-1], noise.shape[:-1])
        joined = torch.cat([x.expand(*batch, -1), noise.expand(*batch, -1)], dim=-1)
        normed = self.norm(joined.reshape(-1, X + E)).reshape(joined.shape)
        return self.last(self.drop(normed) + torch.randn_like(normed))


def test_finding_the_shape_leaves_no_trace():
    """No running statistic moves, no random number is used, and every part keeps its own mode."""
    net = Restless()
    net.drop.eval()
    q = SemiImplicit(DiagonalNormal(net), E, 3)
    modes = [part.training for part in q.modules()]
    state, before = copy.deepcopy(q.state_dict()), torch.get_rng_state()
    d = q(torch.ones(2, X))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(dict(q.state_dict()), dict(state), atol=0.0, rtol=0.0)
    assert [part.training for part in q.modules()] == modes
    d.rsample((7,))
    assert q.conditional.net.norm.num_batches_tracked == 1


def test_after_a_draw_the_module_can_be_copied_and_saved():
    q, x = semi(), torch.randn(5, X)
    d = q(x)
    z = d.rsample()
    d.log_prob(z).sum().backward()
    copied, fresh = copy.deepcopy(q), semi()
    fresh.load_state_dict(q.state_dict())
    assert set(q.state_dict()) == {name for name, _ in q.named_parameters()}
    draws = []
    for own in (q, copied, fresh):
        torch.manual_seed(1)
        d = own(x)
        draws.append((z := d.rsample(), d.log_prob(z)))
    for draw in draws[1:]:
        torch.testing.assert_close(draw, draws[0], atol=0.0, rtol=0.0)


# What it refuses


def test_the_density_of_any_other_value_is_not_known():
    assert not semi().scores_any_point
    d = semi()(torch.randn(5, X))
    with refuses(NotImplementedError, "draw that it made last", "MixtureNormal"):
        d.log_prob(torch.zeros(5, D))
    z = d.rsample()
    for other in (z.clone(), z.detach()):
        with refuses(NotImplementedError, "draw that it made last"):
            d.log_prob(other)
    with refuses(NotImplementedError, "draw that it made last"):
        d.expand((5,)).log_prob(z)
    d.rsample()
    with refuses(NotImplementedError, "draw that it made last"):
        d.log_prob(z)


@pytest.mark.parametrize("number", [0, -1, 2.0, True])
def test_noises_are_counted(number):
    conditional = DiagonalNormal(MLP(X + E, 2 * D))
    with refuses(ValueError, "noise_features", repr(number)):
        SemiImplicit(conditional, number)
    with refuses(ValueError, "num_mixing", repr(number)):
        SemiImplicit(conditional, E, number)


def test_the_conditional_is_explicit():
    with refuses(TypeError, "conditional of SemiImplicit", "MLP"):
        SemiImplicit(MLP(X + E, 2 * D), E)
    with refuses(ValueError, "SemiImplicit that scores its own last draw", "DiagonalNormal"):
        SemiImplicit(semi(), E)


def test_the_conditional_has_a_path():
    with refuses(ValueError, "reparameterised", "DiagonalNormal"):
        SemiImplicit(Bernoulli(MLP(X + E, D)), E)(torch.randn(5, X))


def test_the_conditional_looks_at_its_noise():
    d = SemiImplicit(LearnableNormal(D), E, 3)(torch.randn(5, X))
    with refuses(ValueError, "each noise", "()", "(4,)", "broadcasting"):
        d.rsample()


def test_data_are_checked_as_the_conditional_checks_them():
    with refuses(ValueError, "1 NaN"):
        semi().check_data(torch.tensor([[math.nan, 0.0]]))
