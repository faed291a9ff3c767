"""What a latent reaches, and what masks, scales and bent divergences make of its gradient: exact answers, or a refusal.

Monte Carlo gradients are tested at 5 standard errors, seed 0, with the sample size stated.
"""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from contracts import refuses
from exact_programs import Chain, X, estimates
from pyro_dgm.infer import (
    CUBO,
    ELBO,
    IWAE,
    MIWAE,
    SVI,
    TVO,
    Baseline,
    Constant,
    ForwardKL,
    KLAnnealing,
    Linear,
    Relaxation,
    Renyi,
)


def rows(objective, model, guide, parameters, args, repeats):
    """Gradients of the bound of many independent steps, (repeats, elements)."""
    torch.manual_seed(0)
    found = []
    for _ in range(repeats):
        for parameter in parameters:
            parameter.grad = None
        objective.differentiable_loss(model, guide, *args).backward()
        found.append(-torch.cat([parameter.grad.flatten() for parameter in parameters]))
    return torch.stack(found)


def relaxation():
    return Relaxation().double()


# Plates


@pytest.mark.parametrize("num_data", [3, 7])
@pytest.mark.parametrize("estimator", ["score", "nvil", "loo"])
def test_another_plate_on_the_same_dimension_is_another_plate(num_data, estimator, assert_mean):
    """Three components, all of which every datum sees: 100 steps of 200 particles."""
    x = torch.linspace(-1.0, 2.0, num_data, dtype=torch.float64)
    loc = (torch.arange(3.0, dtype=torch.float64) * 0.5).requires_grad_()

    def model(x):
        with pyro.plate("components", 3):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0), obs=x)

    def guide(x):
        with pyro.plate("components", 3):
            pyro.sample("z", dist.Normal(loc, 0.5))

    truth = ((x - loc.sum()).sum() - loc).detach()
    assert_mean(rows(ELBO(200, gradient=estimator), model, guide, [loc], (x,), 100), truth)


def counted():
    """Bits of the data, and an observation of how many there are, outside of their plate."""
    logits = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64, requires_grad=True)
    x, y = torch.tensor([0.2, -0.4, 1.5], dtype=torch.float64), torch.tensor(2.5, dtype=torch.float64)

    def model(x, y):
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Bernoulli(torch.full((), 0.4).double()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.sample("y", dist.Normal(z.sum(-1, keepdim=True), 0.5), obs=y)

    def guide(x, y):
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    bound = torch.zeros((), dtype=torch.float64)
    for z in itertools.product((0.0, 1.0), repeat=3):
        z = torch.tensor(z, dtype=torch.float64)
        log_q = dist.Bernoulli(logits=logits).log_prob(z).sum()
        log_p = (dist.Bernoulli(torch.full((), 0.4).double()).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)).sum()
        log_p = log_p + dist.Normal(z.sum(), 0.5).log_prob(y)
        bound = bound + log_q.exp() * (log_p - log_q)
    (truth,) = torch.autograd.grad(bound, logits)
    return model, guide, logits, (x, y), truth


@pytest.mark.parametrize("objective", [ELBO(gradient="score"), ELBO(4, gradient="loo"), ELBO(gradient="nvil"), ELBO(3)])
def test_what_comes_after_the_data_plate_counts(objective, assert_mean):
    """3000 single steps."""
    model, guide, logits, args, truth = counted()
    assert_mean(rows(objective, model, guide, [logits], args, 3000), truth)


@pytest.mark.parametrize("estimator", ["rebar", "disarm", "enumerate"])
def test_estimators_that_cannot_see_it_are_refused(estimator):
    model, guide, _, args, _ = counted()
    with refuses(ValueError, "outside of it", "'y'", "'loo'"):
        ELBO(gradient=estimator).loss_and_grads(model, guide, *args)


# Exact sums


def test_sums_are_for_latents_of_the_data_plate_alone():
    logit = torch.tensor(0.3, requires_grad=True)

    def nested(x):
        with pyro.plate("pixels", 3, dim=-2), pyro.plate("data", 4, dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=logit))

    def model(x):
        with pyro.plate("pixels", 3, dim=-2), pyro.plate("data", 4, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.4)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with refuses(ValueError, "of the data plate", "pixels"):
        ELBO(gradient="enumerate").loss(model, nested, torch.randn(3, 4))


def test_a_global_latent_is_not_summed_even_without_gradients():
    def model(x):
        p = pyro.sample("p", dist.Bernoulli(torch.tensor(0.4)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(p, 1.0), obs=x)

    def guide(x):
        pyro.sample("p", dist.Bernoulli(torch.tensor(0.6)))

    for method in ("loss", "loss_and_grads"):
        with refuses(ValueError, "outside the data plate"):
            getattr(ELBO(gradient="enumerate"), method)(model, guide, torch.randn(3))


def test_values_that_become_more_are_refused():
    def program(num):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Categorical(torch.ones(num) / num))
                pyro.sample("x", dist.Normal(z.float(), 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Categorical(torch.ones(num) / num))

        return model, guide

    objective = ELBO(gradient="enumerate")
    objective.loss(*program(3), torch.randn(2))
    for num in (5, 2):
        with refuses(ValueError, "same values", f"{num} values"):
            objective.loss(*program(num), torch.randn(2))


# Masks


def masked():
    """A bit that is masked in both programs, above data that are not."""
    logits = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    x, keep = torch.tensor([1.4, -0.8], dtype=torch.float64), torch.tensor([False, True])

    def model(x):
        with pyro.plate("data", 2):
            with poutine.mask(mask=keep):
                z = pyro.sample("z", dist.Bernoulli(torch.full((), 0.4).double()))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 2), poutine.mask(mask=keep):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    bound = torch.zeros((), dtype=torch.float64)
    for z in torch.tensor([0.0, 1.0], dtype=torch.float64):
        log_q = dist.Bernoulli(logits=logits).log_prob(z)
        prior = dist.Bernoulli(torch.full((), 0.4).double()).log_prob(z)
        value = dist.Normal(2 * z, 1.0).log_prob(x) + torch.where(keep, prior - log_q, 0.0)
        bound = bound + (log_q.exp() * value).sum()
    (truth,) = torch.autograd.grad(bound, logits)
    return model, guide, logits, (x,), truth, bound.detach()


@pytest.mark.parametrize("estimator", ["score", "nvil", "loo", "disarm", "rebar", "enumerate"])
def test_a_mask_does_not_change_how_a_latent_was_drawn(estimator, assert_mean):
    """2000 single steps; the sum is exact."""
    model, guide, logits, args, truth, bound = masked()
    objective = ELBO(2 if estimator == "loo" else 1, gradient=estimator, relaxation=relaxation())
    if estimator == "enumerate":
        torch.testing.assert_close(rows(objective, model, guide, [logits], args, 1)[0], truth)
        torch.testing.assert_close(-objective.loss(model, guide, *args), bound)
    else:
        assert_mean(rows(objective, model, guide, [logits], args, 2000), truth)


# Doubly reparameterised gradients of latents that count otherwise


@pytest.mark.parametrize("weight", [0.3, 2.0])
@pytest.mark.parametrize(
    "make",
    [
        lambda gradient: IWAE(4, gradient=gradient),
        lambda gradient: MIWAE(4, 2, gradient=gradient),
        lambda gradient: Renyi(0.5, 4, gradient=gradient),
        lambda gradient: CUBO(4, gradient=gradient),
        lambda gradient: TVO(4, (0.0, 0.2), gradient=gradient),
    ],
)
def test_dreg_of_annealed_latents_has_the_mean_of_reparam(make, weight):
    """100 steps of 1000 copies of the data each."""
    annealing, found = KLAnnealing(Constant(weight)), {}
    for gradient in ("reparam", "dreg"):
        torch.manual_seed(0)
        program = Chain()
        program.model, program.guide = annealing(program.model), annealing(program.guide)
        found[gradient] = estimates(program, make(gradient), 100, 1000)
    error = sum(row.var(0) / 100 for row in found.values()).sqrt()
    z = (found["dreg"].mean(0) - found["reparam"].mean(0)) / error.clamp(min=1e-9)
    assert z.abs().max() < 5, z


def single(keep=None):
    loc = torch.tensor([0.2, -0.3], dtype=torch.float64, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=True if keep is None else keep.repeat(len(x) // 2)):
                z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=True if keep is None else keep.repeat(len(x) // 2)):
            pyro.sample("z", dist.Normal(loc.repeat(len(x) // 2), 0.8))

    return model, guide, loc


def test_dreg_of_data_whose_latents_are_masked_has_the_mean_of_reparam():
    """100 steps of 1000 copies of two data, the latent of the first masked."""
    x = torch.tensor([1.3, -0.4], dtype=torch.float64).repeat(1000)
    found = {}
    for gradient in ("reparam", "dreg"):
        model, guide, loc = single(torch.tensor([False, True]))
        found[gradient] = rows(IWAE(4, gradient=gradient), model, guide, [loc], (x,), 100)
    error = sum(row.var(0) / 100 for row in found.values()).sqrt()
    assert ((found["dreg"].mean(0) - found["reparam"].mean(0)) / error).abs().max() < 5


def test_dreg_refuses_latents_of_one_datum_that_count_differently():
    program = Chain()
    annealing = KLAnnealing(Constant(0.3), sites=["w"])
    with refuses(ValueError, "count alike", "'reparam'"):
        IWAE(3, gradient="dreg").loss_and_grads(annealing(program.model), annealing(program.guide), X)
    ELBO(3, gradient="dreg").loss_and_grads(annealing(program.model), annealing(program.guide), X)


def test_the_forward_divergence_by_dreg_refuses_annealed_latents():
    program = Chain()
    annealing = KLAnnealing(Constant(0.3))
    with refuses(ValueError, "neither masked nor scaled", "'score'"):
        ForwardKL(3, gradient="dreg").loss_and_grads(annealing(program.model), annealing(program.guide), X)


# Guides that are random given their draws


class TwoLatents(nn.Module):
    """A guide of two latents; its encoder drops inputs by a module, or by a function."""

    def __init__(self, is_functional):
        super().__init__()
        self.encoder, self.is_functional = nn.Linear(2, 2), is_functional

    def forward(self, x):
        pyro.module("guide", self)
        dropped = nn.functional.dropout(x, 0.5) if self.is_functional else x
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.encoder(dropped), 1.0).to_event(1))
            pyro.sample("w", dist.Normal(z, 1.0).to_event(1))


def two_latents(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        w = pyro.sample("w", dist.Normal(z, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(w, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("objective", [ELBO(gradient="stl"), IWAE(3, gradient="stl"), IWAE(3, gradient="dreg")])
def test_dropout_is_found_wherever_it_is(objective):
    dropping = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))

    def by_a_function(x):
        pyro.module("encoder", dropping)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(dropping(x), 1.0).to_event(1))
            pyro.sample("w", dist.Normal(z, 1.0).to_event(1))

    for guide in (by_a_function, TwoLatents(is_functional=True)):
        with refuses(ValueError, "random given its draws", "'reparam'"):
            objective.loss_and_grads(two_latents, guide, torch.randn(4, 2))


# Divergences that are bent


@pytest.mark.parametrize("options", [{"analytic_kl": True}, {"free_bits": 0.5}, {"capacity": 0.5}])
def test_bent_divergences_refuse_latents_without_a_path(options):
    logit = torch.tensor(0.2, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logit))

    x = torch.full((5,), 1.3)
    with refuses(ValueError, "have a path", "'nvil'", "gumbel"):
        ELBO(**options).loss_and_grads(model, guide, x)
    assert math.isfinite(ELBO(**options).loss(model, guide, x))
    ELBO(gradient="gumbel", **options).loss_and_grads(model, guide, x)
    program = Chain("score")
    with refuses(ValueError, "have a path", "'score'"):
        ELBO(**options).loss_and_grads(program.model, program.guide, X)


@pytest.mark.parametrize("options", [{"free_bits": 0.6}, {"capacity": 0.5}])
def test_particles_in_turn_are_averaged_before_the_divergence_is_bent(options):
    """K = 50, 40 evaluations each way; the floor or the modulus of each particle's own would be far off."""
    program, found = Chain(), {}
    for is_vectorized in (True, False):
        torch.manual_seed(0)
        objective = ELBO(50, vectorize_particles=is_vectorized, **options)
        found[is_vectorized] = torch.stack([objective.loss(program.model, program.guide, X) for _ in range(40)])
    error = sum(row.var() / 40 for row in found.values()).sqrt()
    assert (found[True].mean() - found[False].mean()).abs() < 5 * error


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"capacity": Linear(1.0, -1.0, over=2)}, ("capacity", "-1")),
        ({"beta": "1"}, ("beta", "'1'")),
        ({"beta": Linear(0.0, 1.0, over=2)}, ("beta", "KLAnnealing")),
        ({"beta": None}, ("beta", "None")),
        ({"free_bits": None}, ("free_bits", "None")),
    ],
)
def test_numbers_of_the_elbo_are_checked_at_once(options, parts):
    with refuses(ValueError, *parts):
        ELBO(**options)


# A step that is not taken leaves no trace


def test_a_bad_batch_does_not_reach_the_baseline():
    baseline = Baseline()
    encoder = nn.Linear(1, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=encoder(x.nan_to_num().unsqueeze(-1)).squeeze(-1)))

    pyro.clear_param_store()
    svi = SVI(model, guide, lambda p: torch.optim.Adam(p), ELBO(gradient="nvil", baseline=baseline), nonfinite="skip")
    x = torch.full((5,), 1.3)
    svi.step(x)
    center = baseline.local.center.clone()
    with pyro.validation_enabled(False):
        assert math.isnan(svi.step(torch.full((5,), math.nan)))
    torch.testing.assert_close(baseline.local.center, center, rtol=0, atol=0)
    assert math.isfinite(svi.step(x))
    assert svi.num_skipped == 1
