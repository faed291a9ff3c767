"""The latent-variable model under richer posteriors and priors: contracts, objectives, and the evidence by a grid."""

import copy
import functools
import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from contracts import assert_every_parameter_has_a_gradient, check_guide, check_model, refuses
from pyro_dgm import infer
from pyro_dgm.distributions import (
    Bernoulli,
    ConditionalDistribution,
    DiagonalNormal,
    Dirichlet,
    DirichletPrior,
    FlowPrior,
    FullNormal,
    LowRankNormal,
    MixtureNormal,
    MixturePrior,
    PowerSpherical,
    SemiImplicit,
    SphericalUniform,
    StandardNormal,
    StickBreakingKumaraswamy,
    StickBreakingPrior,
    VampPrior,
)
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO, IWAE, log_weights
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

B, D, X = 6, 2, 8  # rows, latents, features


def tanh_mlp(in_features: int, out_features: int) -> MLP:
    return MLP(in_features, out_features, (16,), activation=nn.Tanh)


def bits() -> Tensor:
    return torch.bernoulli(torch.full((B, X), 0.5), generator=torch.Generator().manual_seed(0))


def pair(prior: ConditionalDistribution, posterior: ConditionalDistribution, features: int = D):
    return LatentVariableModel(prior, Bernoulli(tanh_mlp(features, X))), AmortizedGuide(z=posterior)


def diagonal() -> DiagonalNormal:
    return DiagonalNormal(tanh_mlp(X, 2 * D))


def mixture() -> MixtureNormal:
    return MixtureNormal(tanh_mlp(X, MixtureNormal.num_parameters(D, 3)), 3)


def low_rank() -> LowRankNormal:
    return LowRankNormal(tanh_mlp(X, LowRankNormal.num_parameters(D, 1)), 1)


def sticks() -> StickBreakingKumaraswamy:
    return StickBreakingKumaraswamy(tanh_mlp(X, StickBreakingKumaraswamy.num_parameters(4)))


def semi_implicit(num_mixing: int = 3) -> SemiImplicit:
    return SemiImplicit(DiagonalNormal(tanh_mlp(X + 3, 2 * D)), 3, num_mixing)


def vamp(posterior: ConditionalDistribution):
    """Model and guide share the posterior."""
    return pair(VampPrior(posterior, bits()[:3], bounds=(0.0, 1.0)), posterior)


PAIRS = {
    "low-rank": lambda: pair(StandardNormal(D), low_rank()),
    "mixture": lambda: pair(StandardNormal(D), mixture()),
    "mixture-prior": lambda: pair(MixturePrior(D, 3), diagonal()),
    "mixture-both": lambda: pair(MixturePrior(D, 3, learned_weights=False), mixture()),
    "vamp": lambda: vamp(diagonal()),
    "vamp-full": lambda: vamp(FullNormal(tanh_mlp(X, FullNormal.num_parameters(D)))),
    "vamp-mixture": lambda: vamp(mixture()),
    "sticks": lambda: pair(StickBreakingPrior(4, 2.0), sticks(), 4),
    "sticks-dirichlet": lambda: pair(DirichletPrior(4, 0.7), sticks(), 4),
    "dirichlet": lambda: pair(DirichletPrior(4, 0.7), Dirichlet(tanh_mlp(X, 4)), 4),
    "sphere": lambda: pair(SphericalUniform(3), PowerSpherical(tanh_mlp(X, 4)), 3),
    "semi-implicit": lambda: pair(StandardNormal(D), semi_implicit()),
    "semi-implicit-mixture-prior": lambda: pair(MixturePrior(D, 3), semi_implicit()),
}

every_pair = pytest.mark.parametrize("build", [pytest.param(build, id=name) for name, build in PAIRS.items()])


@every_pair
def test_model_contract(build):
    check_model(build, bits())


@every_pair
def test_guide_contract(build):
    check_guide(lambda: build()[1], bits())


# Every way of training

OBJECTIVES = {
    "elbo": lambda: ELBO(),
    "elbo-particles": lambda: ELBO(3, vectorize_particles=False),
    "analytic-kl": lambda: ELBO(2, analytic_kl=True),
    "free-bits": lambda: ELBO(analytic_kl=True, free_bits=0.1, free_bits_per="dimension"),
    "iwae": lambda: IWAE(5),
    "elbo-stl": lambda: ELBO(gradient="stl"),
    "iwae-dreg": lambda: IWAE(5, gradient="dreg"),
    "guide-alone": lambda: IWAE(5, moves="guide"),
    "model-alone": lambda: IWAE(5, moves="model"),
}


@every_pair
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_it_or_says_why_not(build, name):
    """Five steps of our trainer; seeded losses before and after, ten draws."""
    model, guide = build()
    x = bits()
    objective = OBJECTIVES[name]()
    svi = infer.SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.01), objective)
    if name in ("elbo-stl", "iwae-dreg") and not guide.sites.z.scores_any_point:
        with refuses(ValueError, "points that they did not draw", "'z' (SemiImplicitDistribution)", "reparam"):
            svi.step(x)
        return
    before = {key: tensor.clone() for key, tensor in [*model.named_parameters(), *guide.named_parameters()]}
    for _ in range(5):
        assert math.isfinite(svi.step(x))
    after = dict([*model.named_parameters(), *guide.named_parameters()])
    moved = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    if name == "guide-alone":
        assert not any(key.startswith("likelihood") for key in moved)
    elif name == "model-alone":
        assert any(key.startswith("likelihood") for key in moved)
    else:
        assert moved == set(after)


@pytest.mark.parametrize("name", ["mixture", "vamp", "sticks", "sphere", "semi-implicit"])
def test_training_raises_the_bound_by_far(name):
    """300 steps on six rows of bits from a bound below -5 nats per row; seed 0."""
    torch.manual_seed(0)
    model, guide = PAIRS[name]()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    first = sum(svi.evaluate_loss(bits()) for _ in range(20)) / 20
    for _ in range(300):
        svi.step(bits())
    last = sum(svi.evaluate_loss(bits()) for _ in range(20)) / 20
    assert last < first - 6


@pytest.mark.parametrize("objective", [ELBO, lambda: IWAE(5)], ids=["elbo", "iwae"])
def test_training_cannot_raise_the_bound_on_bits_above_zero(objective):
    """Where most of the 50 sticks are too short for float32; 300 steps on 100 rows, the bound of each; seed 0."""
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((100, X), 0.5))
    posterior = StickBreakingKumaraswamy(tanh_mlp(X, StickBreakingKumaraswamy.num_parameters(50)))
    model, guide = pair(StickBreakingPrior(50, 0.5), posterior, 50)
    svi = infer.SVI(model, guide, functools.partial(torch.optim.Adam, lr=1e-3), objective())
    assert min(svi.step(x) for _ in range(300)) > 0


@pytest.mark.parametrize("name", ["sticks", "dirichlet", "sphere"])
def test_the_closed_form_of_the_kl_is_used_and_has_the_bound_of_draws(name):
    """Seed 0, 200 losses, 5 standard errors; the closed form has the smaller variance at a guide far from p(z | x)."""
    torch.manual_seed(0)
    model, guide = PAIRS[name]()
    with torch.no_grad():
        losses = [
            torch.stack([ELBO(analytic_kl=analytic).loss(model, guide, bits()) for _ in range(200)])
            for analytic in (False, True)
        ]
    difference = losses[0].mean() - losses[1].mean()
    assert abs(difference) < 5 * math.sqrt((losses[0].var() + losses[1].var()) / 200)
    assert losses[1].std() < losses[0].std()


def test_a_shared_posterior_is_trained_once_by_our_trainer_as_by_stock_svi():
    """The same parameters after three steps of Adam with the same noise."""
    found = []
    for trainer in ("ours", "stock"):
        torch.manual_seed(0)
        model, guide = PAIRS["vamp"]()
        if trainer == "ours":
            svi = infer.SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.01), Trace_ELBO())
            held = [id(p) for group in svi.optimizer.param_groups for p in group["params"]]
            assert len(held) == len(set(held)) == len(list(model.parameters()))
        else:
            svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        torch.manual_seed(1)
        for _ in range(3):
            svi.step(bits())
        found.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*found)


def test_model_and_guide_share_the_posterior_before_and_after_a_copy():
    model, guide = PAIRS["vamp"]()
    assert model.prior.posterior is guide.sites.z
    model, guide = copy.deepcopy((model, guide))
    assert model.prior.posterior is guide.sites.z
    trainer = infer.SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.01), ELBO())
    state = copy.deepcopy(trainer.state_dict())
    trainer.step(bits())
    trainer.load_state_dict(state)
    assert trainer.num_steps == 0


@pytest.mark.parametrize("gradient", ["reparam", "stl", "dreg"])
def test_the_gradient_of_a_shared_posterior_is_the_bounds(gradient):
    """One latent dimension, where the ELBO is an integral; seed 0, 40 batches of 500 particles, 5 standard errors.

    The posterior's parameters count in the guide and in the prior, the pseudo-inputs in the prior alone.
    """
    torch.manual_seed(0)
    posterior = DiagonalNormal(MLP(X, 2, (4,), activation=nn.Tanh))
    model, guide = pair(VampPrior(posterior, torch.rand(3, X)), posterior, 1)
    x, parameters = bits()[:2].double(), [*model.double().parameters()]
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64).unsqueeze(-1)  # (4001, 1)
    log_q = posterior(x).log_prob(z.unsqueeze(1))  # (4001, 2)
    log_p = model.prior().log_prob(z).unsqueeze(-1) + model.likelihood(z.unsqueeze(1)).log_prob(x)
    bound = (log_q.exp() * (log_p - log_q)).sum() * (z[1] - z[0])
    exact = torch.autograd.grad(-bound, parameters)
    objective, batches = ELBO(500, gradient=gradient, max_plate_nesting=1), []
    for _ in range(40):
        loss = objective.differentiable_loss(model, guide, x)
        batches.append(torch.autograd.grad(loss, parameters))
    for truth, found in zip(exact, zip(*batches, strict=True), strict=True):
        found = torch.stack(found)
        assert ((found.mean(0) - truth).abs() < 5 * found.std(0) / math.sqrt(40) + 1e-9).all()


def test_a_flow_prior_goes_with_every_posterior_over_vectors():
    for posterior in (low_rank(), mixture(), semi_implicit()):
        model, guide = pair(FlowPrior(D), posterior)
        objective = IWAE(4)
        objective(model, guide)(bits()).backward()
        assert_every_parameter_has_a_gradient(model, guide)


# The evidence by integration over the plane, the simplex and the circle


def plane() -> tuple[Tensor, Tensor]:
    """Points, and the log of the volume that each stands for."""
    ticks = torch.linspace(-9, 9, 601, dtype=torch.float64)
    points = torch.cartesian_prod(ticks, ticks)
    return points, torch.full((len(points),), 2 * math.log(18 / 600)).double()


def triangle() -> tuple[Tensor, Tensor]:
    """Three weights by the fractions of a broken stick."""
    ticks = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    v, w = torch.cartesian_prod(ticks, ticks).unbind(-1)
    return torch.stack([v, (1 - v) * w, (1 - v) * (1 - w)], dim=-1), (1 - v).log() - 2 * math.log(400)


def circle() -> tuple[Tensor, Tensor]:
    """Points of the circle, equally spaced."""
    angle = 2 * math.pi * torch.arange(4000, dtype=torch.float64) / 4000
    return torch.stack([angle.cos(), angle.sin()], dim=-1), torch.full((4000,), math.log(2 * math.pi / 4000)).double()


def wide() -> DiagonalNormal:
    """A posterior of standard deviations about 1.5, so that weights have a small variance."""
    posterior = diagonal()
    posterior.net.layers[-1].bias.data[D:] += 0.4
    return posterior


def three_sticks() -> StickBreakingKumaraswamy:
    return StickBreakingKumaraswamy(tanh_mlp(X, StickBreakingKumaraswamy.num_parameters(3)))


EVIDENCE = {
    "low-rank": (PAIRS["low-rank"], plane),
    "mixture": (PAIRS["mixture"], plane),
    "mixture-prior": (lambda: pair(MixturePrior(D, 3), wide()), plane),
    "vamp": (lambda: vamp(wide()), plane),
    "vamp-mixture": (PAIRS["vamp-mixture"], plane),
    "semi-implicit": (PAIRS["semi-implicit"], plane),
    "sticks": (lambda: pair(StickBreakingPrior(3, 2.0), three_sticks(), 3), triangle),
    "circle": (lambda: pair(SphericalUniform(2), PowerSpherical(tanh_mlp(X, 3)), 2), circle),
}


def weights_over_evidence(name: str, num_particles: int) -> Tensor:
    """The weights of a new model and guide in float64, (K, B), over p(x) by integration: of mean 1."""
    build, grid = EVIDENCE[name]
    model, guide = (program.double() for program in build())
    x = bits().double()
    with torch.no_grad():
        points, log_volume = grid()
        log_joint = model.prior().log_prob(points).unsqueeze(-1) + model.likelihood(points.unsqueeze(1)).log_prob(x)
        log_evidence = (log_joint + log_volume.unsqueeze(-1)).logsumexp(0)  # (B,)
        return (log_weights(model, guide, x, num_particles=num_particles).local - log_evidence).exp()


@pytest.mark.parametrize("name", [name for name in EVIDENCE if name != "circle"])
def test_importance_weights_are_the_evidence_by_integration(name):
    """The mean weight, unbiased also for an estimated density; seed 0, 4,000 particles, 5 standard errors.

    The importance-weighted bound with as many particles is the logarithm of that mean.
    """
    torch.manual_seed(0)
    ratio = weights_over_evidence(name, 4000)
    error = ratio.std(0) / math.sqrt(4000)
    assert (error < 0.1).all()
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all()


def test_on_the_circle_the_bound_tightens_to_the_evidence_by_integration():
    """A power spherical guide vanishes opposite its direction, so that weights have a mean and no variance there.

    Their logarithms have one: seed 0, 40 bounds of 10 and of 1,000 particles each, 5 standard errors, and 0.05 nats.
    """
    torch.manual_seed(0)
    ratio = weights_over_evidence("circle", 40_000)
    gaps = []
    for num_particles in (1, 10, 1000):
        bounds = ratio[: 40 * num_particles].unflatten(0, (40, num_particles)).mean(1).log()  # less log p(x)
        error = bounds.std(0) / math.sqrt(40)
        assert (bounds.mean(0) < 5 * error).all()
        gaps.append(-bounds.mean())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.05
