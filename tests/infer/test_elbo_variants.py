"""beta, free bits and capacity against the divergence in closed form."""

import itertools
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI as PyroSVI

from contracts import refuses
from exact_programs import Bits, X, estimates, exact_gradient
from pyro_dgm.infer import ELBO, Baseline, Linear, Relaxation, bounds

N = 40
LOC = torch.tensor([[0.5, 0.1, -2.0], [1.5, -0.1, 0.0]], dtype=torch.float64)
SCALE = torch.tensor([0.5, 1.0, 0.8], dtype=torch.float64)


def model(x):
    with pyro.plate("data", N, subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        w = pyro.sample("w", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("x", dist.Normal(z.sum(-1) + w, 1.0), obs=x)


def make_guide(loc=LOC, w_loc=0.7):
    def guide(x):
        with pyro.plate("data", N, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(loc, SCALE).to_event(1))
            pyro.sample("w", dist.Normal(w_loc * torch.ones(len(x)).double(), 0.9))

    return guide


def kl(loc, scale):
    return 0.5 * (loc**2 + scale**2 - 1) - torch.as_tensor(scale).log()


def reconstruction(loc=LOC, w_loc=0.7):
    """E_q log p(x | z, w) of each datum."""
    spread = SCALE.square().sum() + 0.81
    residual = X - loc.sum(-1) - w_loc
    return -0.5 * (residual.square() + spread) - 0.5 * math.log(2 * math.pi)


def mean_loss(objective, repeats=3000):
    return torch.stack([objective.loss(model, make_guide(), X) for _ in range(repeats)]).unsqueeze(1)


DIVERGENCES = kl(LOC, SCALE), kl(torch.tensor(0.7).double(), 0.9).expand(2)  # of z (B, 3), of w (B,)


@pytest.mark.parametrize("analytic", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.3, 4.0])
def test_beta_multiplies_the_divergence_of_all_latents(beta, analytic, assert_mean):
    """3000 losses, seed 0; N / B = 20."""
    truth = -20 * (reconstruction() - beta * (DIVERGENCES[0].sum(-1) + DIVERGENCES[1])).sum()
    assert_mean(mean_loss(ELBO(beta=beta, analytic_kl=analytic)), truth)


@pytest.mark.parametrize(("per", "floor"), [("site", 1.5), ("dimension", 0.3)])
def test_free_bits_are_a_floor_under_each_groups_mean_over_the_batch(per, floor, assert_mean):
    """In closed form: the sampled divergence is not under the floor on average, but its floor is biased."""
    z, w = DIVERGENCES
    if per == "site":
        cost = z.sum(-1).mean().clamp(min=floor) + w.mean().clamp(min=floor)
        assert w.mean() < floor < z.sum(-1).mean()
    else:
        cost = z.mean(0).clamp(min=floor).sum() + w.mean().clamp(min=floor)
        assert (z.mean(0) < floor).any()
        assert (z.mean(0) > floor).any()
    truth = -20 * (reconstruction().sum() - 2 * cost)
    assert_mean(mean_loss(ELBO(analytic_kl=True, free_bits=floor, free_bits_per=per)), truth)


def test_a_group_below_the_floor_has_no_gradient():
    loc = LOC.clone().requires_grad_()
    objective = ELBO(analytic_kl=True, free_bits=0.3, free_bits_per="dimension", beta=2.0)

    def prior_only(x):
        with pyro.plate("data", N, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            pyro.sample("w", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(torch.zeros(()).double(), 1.0), obs=x)

    objective.differentiable_loss(prior_only, make_guide(loc, 0.7 + 0 * loc.sum()), X).backward()
    below = DIVERGENCES[0].mean(0) < 0.3
    assert not loc.grad[:, below].any()
    torch.testing.assert_close(loc.grad[:, ~below], 2.0 * 20 * LOC[:, ~below])


def test_free_bits_of_sampled_divergences_are_the_sums_over_groups():
    """With an empty floor the terms by dimension add up to the plain sampled bound, draw by draw."""
    for per in ("site", "dimension"):
        for analytic in (True, False):
            pyro.set_rng_seed(1)
            guide = make_guide(2 * torch.ones(2, 3).double(), 2.0)  # far from the prior: no group's mean is negative
            plain = ELBO(100, analytic_kl=analytic).loss(model, guide, X)
            pyro.set_rng_seed(1)
            objective = ELBO(100, analytic_kl=analytic, free_bits=1e-9, free_bits_per=per)
            floored = objective.loss(model, guide, X)
            torch.testing.assert_close(floored, plain)


@pytest.mark.parametrize("capacity", [0.5, 20.0])
def test_capacity_is_what_the_divergence_is_drawn_to(capacity, assert_mean):
    divergence = (DIVERGENCES[0].sum(-1) + DIVERGENCES[1]).mean()
    truth = -20 * reconstruction().sum() + N * 3.0 * (divergence - capacity).abs()
    assert_mean(mean_loss(ELBO(analytic_kl=True, beta=3.0, capacity=capacity)), truth)


def test_a_capacity_may_follow_a_schedule():
    schedule = Linear(0.0, 4.0, over=2)
    objective = ELBO(analytic_kl=True, beta=1e6, capacity=schedule)
    assert list(objective.schedules()) == [schedule]
    losses = []
    for _ in range(3):
        losses.append(float(objective.loss(model, make_guide(), X)))
        schedule.step()
    divergence = float((DIVERGENCES[0].sum(-1) + DIVERGENCES[1]).mean())
    for loss, value in zip(losses, (0.0, 2.0, 4.0), strict=True):
        assert loss == pytest.approx(N * 1e6 * abs(divergence - value), rel=1e-3)


@pytest.mark.parametrize("estimator", ["score", "loo", "nvil", "rebar", "disarm", "enumerate"])
def test_a_weighted_bound_has_the_exact_gradient_for_discrete_latents(estimator, assert_mean):
    """Beta acts on the bound and not on how the latents are drawn. 200 steps of 500 copies, seed 0."""
    program, beta = Bits(), 0.3
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    a, rest, x = states[:, 0], states[:, 1:], X.unsqueeze(-1)
    log_prior = dist.Bernoulli(logits=program.prior[0]).log_prob(a)
    log_prior = log_prior + dist.Bernoulli(logits=program.prior[1:] + a.unsqueeze(-1)).log_prob(rest).sum(-1)
    likelihood = dist.Normal(program.weight[0] * a + rest @ program.weight[1:], 1.0).log_prob(x)
    log_q = dist.Bernoulli(logits=program.encoder[0, 0] + program.encoder[1, 0] * x).log_prob(a)
    seen = x.unsqueeze(-1) * program.encoder[1, 1:] + a.unsqueeze(-1) * program.encoder[2, 1:]
    log_q = log_q + dist.Bernoulli(logits=program.encoder[0, 1:] + seen).log_prob(rest).sum(-1)
    truth = exact_gradient((log_q.exp() * (likelihood + beta * (log_prior - log_q))).sum(), program)
    own = Relaxation(0.7).double() if estimator == "rebar" else None
    objective = ELBO(2, beta=beta, gradient=estimator, relaxation=own, baseline=Baseline())
    if estimator == "enumerate":
        torch.testing.assert_close(estimates(program, objective, 1)[0], truth)
    else:
        assert_mean(estimates(program, objective, 200, copies=500), truth)


def test_sticking_the_landing_of_a_weighted_bound_is_unbiased(assert_mean):
    """The guide's gradient in closed form: 2000 steps, seed 0."""
    loc = LOC.clone().requires_grad_()
    value = -20 * (reconstruction(loc) - 0.3 * (kl(loc, SCALE).sum(-1) + DIVERGENCES[1])).sum()
    (truth,) = torch.autograd.grad(value, loc)
    rows = []
    for _ in range(2000):
        leaf = LOC.clone().requires_grad_()
        guide = make_guide(leaf, 0.7 + 0 * leaf.sum())
        ELBO(beta=0.3, gradient="stl").differentiable_loss(model, guide, X).backward()
        rows.append(leaf.grad.flatten())
    assert_mean(torch.stack(rows), truth.flatten())


def test_beta_of_one_is_the_elbo():
    for options in ({"beta": 1.0}, {}):
        pyro.set_rng_seed(0)
        loss = ELBO(2, **options).loss(model, make_guide(), X)
    pyro.set_rng_seed(0)
    torch.testing.assert_close(loss, ELBO(2).loss(model, make_guide(), X))
    assert torch.equal(bounds.elbo(torch.zeros(2, 3)), torch.zeros(3))


def test_the_variants_train_in_stock_svi():
    """From a guide far off; sums of five losses."""
    for objective in (ELBO(beta=4.0), ELBO(free_bits=0.5), ELBO(analytic_kl=True, beta=9.0, capacity=0.1)):
        pyro.clear_param_store()

        def guide(x):
            loc = pyro.param("loc", 3 * torch.ones(3).double())
            make_guide(loc + 0 * LOC, pyro.param("w_loc", torch.tensor(0.5).double()))(x)

        svi = PyroSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), objective)
        before = sum(svi.step(X) for _ in range(5))
        for _ in range(40):
            svi.step(X)
        assert sum(svi.step(X) for _ in range(5)) < before


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (partial(ELBO, beta=-1.0), ("beta", "got -1.0")),
        (partial(ELBO, beta=math.nan), ("beta", "got nan")),
        (partial(ELBO, free_bits=-0.1), ("free_bits", "got -0.1")),
        (partial(ELBO, free_bits=1.0, free_bits_per="layer"), ("free_bits_per", "'layer'")),
        (partial(ELBO, capacity=math.inf), ("capacity", "got inf")),
        (partial(ELBO, capacity=1.0, free_bits=1.0), ("free_bits and capacity", "Choose one")),
        (partial(ELBO, free_bits=1.0, gradient="loo"), ("free_bits", "'loo'")),
        (partial(ELBO, capacity=1.0, gradient="stl"), ("capacity", "'stl'")),
        (partial(ELBO, analytic_kl=True, moves="guide"), ("analytic_kl", "'guide'")),
    ],
)
def test_bad_input_is_refused(make, parts):
    with refuses(ValueError, *parts):
        make()
