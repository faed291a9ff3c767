"""Models with flows as guides, priors and likelihoods: contracts, estimators, and the truth where it is known."""

import functools
import math

import pyro
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from contracts import assert_every_parameter_has_a_gradient, check_conditional, check_model, refuses
from pyro_dgm.distributions import (
    Bernoulli,
    DiagonalNormal,
    Encoded,
    Flow,
    FlowPrior,
    LearnableNormal,
    Normal,
    StandardNormal,
)
from pyro_dgm.distributions.transforms import Householder, Planar, stack
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO, IWAE, SVI, WakeSleep, log_weights
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

B, D, X, H = 6, 2, 8, 5  # rows, latents, features, features of the encoder

STACKS = {
    "planar": {},
    "radial": {},
    "householder": {},
    "sylvester": {},
    "iaf": {"hidden_features": (8,)},
    "maf": {"hidden_features": (8,)},
    "affine-coupling": {"hidden_features": (8,)},
    "spline-coupling": {"hidden_features": (8,), "num_bins": 4},
    "spline-autoregressive": {"hidden_features": (8,), "num_bins": 4},
    "bnaf": {"hidden_factors": (4,)},
}
one_of_each = pytest.mark.parametrize("kind", STACKS)


def posterior(kind: str, in_features: int = X) -> Encoded:
    transforms = stack(kind, 2, D, H, **STACKS[kind])
    return Encoded(MLP(in_features, H, (8,), nn.Tanh), Flow(DiagonalNormal(nn.Linear(H, 2 * D)), transforms))


def vae(kind: str) -> tuple[LatentVariableModel, AmortizedGuide]:
    torch.manual_seed(2)
    likelihood = Bernoulli(MLP(D, X, (8,), nn.Tanh))
    return LatentVariableModel(StandardNormal(D), likelihood), AmortizedGuide(z=posterior(kind))


def data() -> Tensor:
    return (torch.rand(B, X, generator=torch.Generator().manual_seed(0)) < 0.5).float()


@one_of_each
def test_a_flow_is_a_conditional_distribution(kind):
    if kind != "bnaf":  # whose copies cannot score another's draws
        check_conditional(posterior(kind, 4), (4,), event_shape=(D,))
        check_conditional(Flow(LearnableNormal(D), stack(kind, 2, D, **STACKS[kind])), event_shape=(D,))


@one_of_each
def test_model_contract(kind):
    check_model(lambda: vae(kind), data())


@one_of_each
@pytest.mark.parametrize(
    "objective",
    [
        lambda: ELBO(),
        lambda: ELBO(analytic_kl=True),
        lambda: ELBO(3, gradient="stl"),
        lambda: IWAE(3),
        lambda: IWAE(3, gradient="dreg"),
        lambda: WakeSleep(),
    ],
    ids=["elbo", "analytic-kl", "stl", "iwae", "dreg", "wake-sleep"],
)
def test_every_objective_trains_a_flow_guide(kind, objective):
    model, guide = vae(kind)
    loss = objective()
    is_drawn_alone = not guide.sites.z.scores_any_point
    if is_drawn_alone and (isinstance(loss, WakeSleep) or loss.gradient in ("stl", "dreg")):
        with refuses(ValueError, "'z'"):
            loss.differentiable_loss(model, guide, data()).backward()
        return
    loss.differentiable_loss(model, guide, data()).backward()
    assert_every_parameter_has_a_gradient(model)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in guide.parameters())


@one_of_each
def test_a_bound_from_draws_is_the_bound_from_scoring_them_afresh(kind):
    _, guide = vae(kind)
    z = guide.sites.z
    if not z.scores_any_point:
        return
    drawn = z(data())
    value = drawn.rsample((3,))
    torch.testing.assert_close(z(data()).log_prob(value.clone()), drawn.log_prob(value), atol=1e-4, rtol=1e-4)


def linear_gaussian() -> tuple[LatentVariableModel, Tensor, Tensor, Tensor]:
    """A linear-Gaussian model, data, their log evidence, and the precision matrix of the posterior."""
    weight = torch.tensor([[1.0, 0.8], [0.5, 0.9], [-1.0, -0.3]], dtype=torch.float64)
    net = nn.Linear(2, 3, bias=False).double()
    net.weight.data.copy_(weight)
    net.weight.requires_grad_(False)
    model = LatentVariableModel(StandardNormal(2).double(), Normal(net, scale=0.5).double())
    torch.manual_seed(3)
    x = torch.randn(4, 3, dtype=torch.float64)
    covariance = weight @ weight.T + 0.25 * torch.eye(3, dtype=torch.float64)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance).log_prob(x)
    return model, x, evidence, torch.eye(2, dtype=torch.float64) + weight.T @ weight / 0.25


def test_the_exact_posterior_as_a_flow_gives_the_evidence_and_no_gradient():
    """A diagonal normal in the posterior's own axes, turned by a reflection: stl and dreg are without noise then."""
    model, x, evidence, precision = linear_gaussian()
    variance, axes = torch.linalg.eigh(precision.inverse())
    axes = axes * axes[0].sign()  # so that the first reflection vector does not vanish
    if torch.linalg.det(axes) > 0:
        axes = axes * axes.new_tensor([1.0, -1.0])
    vector = torch.tensor([1.0, 0.0], dtype=torch.float64) - axes[:, 0]  # I - 2 v v' / |v|^2 is the matrix of axes
    encoder = nn.Linear(3, 4).double()
    mean = precision.inverse() @ model.likelihood.net.weight.T / 0.25
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([axes.T @ mean, torch.zeros(2, 3)]))
        encoder.bias.copy_(torch.cat([torch.zeros(2), variance.log() / 2]))
    turn = Householder(2).double()
    turn.parts.values.data.copy_(vector)
    guide = AmortizedGuide(z=Flow(DiagonalNormal(encoder), [turn]))
    weights = log_weights(model, guide, x, num_particles=5).local
    torch.testing.assert_close(weights, evidence.expand(5, -1), atol=1e-6, rtol=0.0)  # the scale is in float32
    for objective in (ELBO(3, gradient="stl"), IWAE(3, gradient="dreg")):
        guide.zero_grad()
        objective.differentiable_loss(model, guide, x).backward()
        assert all(p.grad.abs().max() < 1e-5 for p in guide.parameters())


@pytest.mark.parametrize("kind", ["iaf", "affine-coupling", "sylvester", "householder"])
def test_a_flow_closes_what_a_diagonal_guide_leaves_open(kind):
    """The posterior is correlated: the best diagonal guide loses a known number of nats, a flow less than a third.

    Seed 4; 600 steps of Adam on 4 data with 16 particles; the bound is the mean of 2,000 draws, whose standard error is
    below 0.01 nats.
    """
    model, x, evidence, precision = linear_gaussian()
    lost = 0.5 * (precision.diagonal().log().sum() - torch.linalg.slogdet(precision)[1])
    torch.manual_seed(4)
    options = {"gated": False, "hidden_features": (16,)} if kind == "iaf" else STACKS[kind]
    guide = AmortizedGuide(z=Flow(DiagonalNormal(nn.Linear(3, 4)), stack(kind, 4, 2, **options))).double()
    objective = ELBO(16)
    optimizer = torch.optim.Adam(guide.parameters(), lr=1e-2)
    for _ in range(600):
        optimizer.zero_grad()
        objective.differentiable_loss(model, guide, x).backward()
        optimizer.step()
    with torch.no_grad():
        bound = log_weights(model, guide, x, num_particles=2000).local.mean(0)
    gap = (evidence - bound).mean()
    assert lost > 0.3
    assert -0.05 < gap < lost / 3


@one_of_each
def test_stock_svi_and_ours_take_the_same_steps(kind):
    losses = []
    for trainer in (
        lambda m, g: PyroSVI(m, g, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()),
        lambda m, g: SVI(m, g, functools.partial(torch.optim.Adam, lr=1e-2), ELBO(), compile=False),
    ):
        model, guide = vae(kind)
        svi = trainer(model, guide)
        torch.manual_seed(5)
        losses.append([svi.step(data()) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_flow_prior_and_a_flow_of_data():
    check_conditional(FlowPrior(3, hidden_features=(8,)), event_shape=(3,))

    def build() -> tuple[LatentVariableModel, AmortizedGuide]:
        torch.manual_seed(2)
        prior = FlowPrior(D, num_transforms=2, hidden_features=(8,))
        flow = Flow(DiagonalNormal(nn.Linear(H, 2 * X)), stack("affine-coupling", 2, X, H, hidden_features=(8,)))
        likelihood = Encoded(nn.Sequential(nn.Linear(D, H), nn.Tanh()), flow)
        return LatentVariableModel(prior, likelihood), AmortizedGuide(z=DiagonalNormal(MLP(X, 2 * D, (8,))))

    check_model(build, torch.randn(B, X))


def test_a_prior_that_cannot_score_is_refused():
    with refuses(ValueError, "'bnaf'", "Use 'maf'"):
        FlowPrior(3, kind="bnaf")


def test_planar_flows_of_pyro_and_ours_are_one_function():
    transform = Planar(D)
    from pyro.distributions.transforms import Planar as PyroPlanar

    other = PyroPlanar(D)
    bias, u, w = transform.parts()
    other.bias.data, other.u.data, other.w.data = bias.detach(), u.detach(), w.detach()
    x = torch.randn(5, D)
    torch.testing.assert_close(transform()(x), other(x))
    assert math.isclose(transform()(x).sum().item(), other(x).sum().item(), rel_tol=1e-5)


COMPILED = ["planar", "iaf", "sylvester", "affine-coupling", "maf", "spline-coupling", "spline-autoregressive"]


@pytest.mark.parametrize("kind", COMPILED)
def test_a_compiled_step_is_the_step(kind):
    losses = []
    for compiler in (False, Compiler("graph", wait=True)):
        model, guide = vae(kind)
        svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=1e-2), ELBO(), compile=compiler)
        torch.manual_seed(5)
        losses.append([svi.step(data()) for _ in range(5)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
