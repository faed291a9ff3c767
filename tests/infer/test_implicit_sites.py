"""Sites without a density: refused by bounds, at home in terms that compare draws or score explicit sites."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO
from torch import nn

from contracts import refuses
from pyro_dgm.distributions import Implicit
from pyro_dgm.infer import (
    DATA,
    ELBO,
    IWAE,
    KL,
    MMD,
    NLL,
    Energy,
    P,
    Q,
    RatioLikelihood,
    ReweightedWakeSleep,
    SlicedWasserstein,
    WakeSleep,
    log_weights,
)
from pyro_dgm.infer.divergences import energy_distance

B = 5


class Linear(nn.Module):
    """z ~ N(0, 1), x = slope z + shift, implicit or with noise; and its guide, likewise."""

    def __init__(self, scorer=None, explicit=()):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.rate = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.scorer, self.explicit = scorer, explicit

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=x.dtype), 1.0))
            return pyro.sample("x", self._site("model", self.slope * z), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self._site("guide", self.rate * x))

    def _site(self, program, value):
        if program in self.explicit:
            return dist.Normal(value, 1.0)
        return Implicit(value, 0, None if self.scorer is None else self.scorer(value))


def laplace(value):
    return dist.Laplace(value, 1.0)


@pytest.fixture
def x():
    return torch.linspace(-1, 2, B, dtype=torch.float64)


def test_an_implicit_draw_is_the_value_itself():
    value = torch.randn(4, 3, requires_grad=True)
    d = Implicit(value, event_dim=1)
    assert d.rsample() is not None
    assert d.rsample().requires_grad
    assert not d.sample().requires_grad
    torch.testing.assert_close(d.sample(), value.detach())
    assert d.sample((2,)).shape == (2, 4, 3)
    assert d.expand((5, 4)).sample().shape == (5, 4, 3)
    assert d.to_event(1).event_dim == 2
    with pyro.plate("data", 4):
        torch.testing.assert_close(pyro.sample("x", d), value)


def test_a_density_is_not_made_up():
    with pytest.raises(NotImplementedError, match="Contrast"):
        Implicit(torch.zeros(2), 0).log_prob(torch.zeros(2))
    scored = Implicit(torch.zeros(2), 0, dist.Laplace(0.0, 1.0))
    torch.testing.assert_close(scored.log_prob(torch.ones(2)), dist.Laplace(0.0, 1.0).log_prob(torch.ones(2)))


@pytest.mark.parametrize(
    ("error", "make", "parts"),
    [
        (TypeError, lambda: Implicit([1.0], 0), ("tensor", "list")),
        (TypeError, lambda: Implicit(torch.zeros(2), True), ("whole number", "True")),
        (ValueError, lambda: Implicit(torch.zeros(2), 2), ("between 0", "got 2")),
        (TypeError, lambda: Implicit(torch.zeros(2), 1, torch.zeros(2)), ("scorer", "Tensor")),
        (ValueError, lambda: Implicit(torch.zeros(2), 1, dist.Normal(0.0, 1.0)), ("event shape (2,)", "()")),
    ],
)
def test_bad_implicit_sites_are_refused(error, make, parts):
    with refuses(error, *parts):
        make()


@pytest.mark.parametrize(
    "objective", [ELBO(), IWAE(3), WakeSleep(), ReweightedWakeSleep(2)], ids=lambda o: type(o).__name__
)
@pytest.mark.parametrize(("explicit", "name"), [(("guide",), "'x' in the model"), (("model",), "'z' in the guide")])
def test_a_bound_refuses_an_implicit_site_by_name(objective, explicit, name, x):
    programs = Linear(explicit=explicit)
    with refuses(ValueError, name, "AdversarialTrainer"):
        objective.differentiable_loss(programs.model, programs.guide, x)


def test_a_scorer_makes_no_density_of_an_implicit_guide(x):
    programs = Linear(scorer=laplace, explicit=("model",))
    with refuses(ValueError, "'z' in the guide"):
        ELBO().loss(programs.model, programs.guide, x)


def test_a_scorer_is_a_likelihood_for_data(x):
    programs = Linear(scorer=laplace, explicit=("guide",))
    torch.manual_seed(0)
    value = -ELBO().loss(programs.model, programs.guide, x)
    torch.manual_seed(0)
    z = dist.Normal(programs.rate * x, 1.0).sample()
    parts = dist.Normal(0.0, 1.0), dist.Laplace(programs.slope * z, 1.0), dist.Normal(programs.rate * x, 1.0)
    torch.testing.assert_close(
        value, (parts[0].log_prob(z) + parts[1].log_prob(x) - parts[2].log_prob(z)).sum().detach()
    )


def test_weights_and_stock_pyro_refuse_it_too(x):
    programs = Linear()
    with refuses(ValueError, "Implicit"):
        log_weights(programs.model, programs.guide, x)
    with pytest.raises(NotImplementedError, match="Contrast"):
        Trace_ELBO().loss(programs.model, programs.guide, x)


def test_an_implicit_model_simulates_under_stock_predictive(x):
    programs = Linear()
    drawn = Predictive(pyro.poutine.uncondition(programs.model), {}, num_samples=3)(x)
    torch.testing.assert_close(drawn["x"], 2 * drawn["z"])


def test_a_reconstruction_error_trains_an_implicit_guide(x):
    programs = Linear(explicit=("model",))
    NLL("x", of="model", at=Q, through_draws=True).differentiable_loss(programs.model, programs.guide, x).backward()
    residual = (1 - 2 * 0.5) * x  # x - slope rate x
    torch.testing.assert_close(programs.rate.grad, -(residual * 2 * x).sum())
    torch.testing.assert_close(programs.slope.grad, -(residual * 0.5 * x).sum())


def test_information_about_a_latent_reaches_the_generator(x):
    """-log q(z | slope z) with q = N(rate x, 1): the gradient for the slope goes through what is generated."""
    programs = Linear(explicit=("guide",))
    term = NLL("z", of="guide", at=P, through_draws=True)
    torch.manual_seed(0)
    term.differentiable_loss(programs.model, programs.guide, x).backward()
    torch.manual_seed(0)
    z = dist.Normal(torch.zeros(B, dtype=torch.float64), 1.0).sample()
    residual = (1 - 0.5 * 2) * z
    torch.testing.assert_close(programs.slope.grad, -(residual * 0.5 * z).sum())
    torch.testing.assert_close(programs.rate.grad, -(residual * 2 * z).sum())
    programs.zero_grad()
    NLL("z", of="guide", at=P).differentiable_loss(programs.model, programs.guide, x).backward()
    assert programs.slope.grad is None
    assert programs.rate.grad is not None


def test_cycles_are_scored_on_both_sides(x):
    """X -> z -> x by the guide and the model, and z -> x -> z by the model and the guide, both implicit."""
    programs = Linear(scorer=laplace)
    forward = NLL("x", of="model", at=Q, through_draws=True).loss(programs.model, programs.guide, x)
    torch.testing.assert_close(forward, B * torch.tensor(math.log(2.0), dtype=torch.float64))  # 2 * 0.5 = 1: no error
    programs.rate.data.fill_(1.0)
    forward = NLL("x", of="model", at=Q, through_draws=True).loss(programs.model, programs.guide, x)
    torch.testing.assert_close(forward, (math.log(2.0) + x.abs()).sum())


def test_a_classifier_learns_from_the_data_and_from_what_is_generated():
    logits = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)

    def model(x, y):
        with pyro.plate("data", len(x)):
            label = pyro.sample("y", dist.Bernoulli(torch.full((len(x),), 0.5, dtype=x.dtype)), obs=y)
            pyro.sample("x", Implicit(logits[1] * label, 0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=logits[0] + logits[1] * x))

    x = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    value = NLL("y", of="guide", at=DATA).loss(model, guide, x, y)
    torch.testing.assert_close(value, -dist.Bernoulli(logits=x).log_prob(y).sum())
    torch.manual_seed(0)
    dreamt = NLL("y", of="guide", at=P).loss(model, guide, x, y)
    torch.manual_seed(0)
    label = dist.Bernoulli(torch.full((3,), 0.5, dtype=x.dtype)).sample()
    torch.testing.assert_close(dreamt, -dist.Bernoulli(logits=label).log_prob(label).sum())


def test_paired_data_are_scored_at_latents_from_the_prior(x):
    programs = Linear(scorer=laplace)
    torch.manual_seed(0)
    value = NLL("x", of="model", at=P.observed()).differentiable_loss(programs.model, programs.guide, x)
    torch.manual_seed(0)
    z = dist.Normal(torch.zeros(B, dtype=torch.float64), 1.0).sample()
    torch.testing.assert_close(value, (math.log(2.0) + (x - 2 * z).abs()).sum())
    value.backward()
    torch.testing.assert_close(programs.slope.grad, -((x - 2 * z).sign() * z).sum())


def test_the_divergence_and_the_reconstruction_make_an_elbo(x):
    programs = Linear(explicit=("model", "guide"))
    torch.manual_seed(0)
    elbo = ELBO(analytic_kl=True).loss(programs.model, programs.guide, x)
    torch.manual_seed(0)
    both = (NLL("x", of="model", at=Q, through_draws=True) + KL("z")).loss(programs.model, programs.guide, x)
    torch.testing.assert_close(both, elbo)
    exact = 0.5 * (0.5 * x).square().sum()  # KL(N(x/2, 1) || N(0, 1))
    torch.testing.assert_close(KL("z").loss(programs.model, programs.guide, x), exact)


def test_a_sampled_divergence_agrees_with_the_closed_form(x):
    """Seed 0, 4000 batches of 5; 5 standard errors."""
    programs = Linear(explicit=("model", "guide"))
    torch.manual_seed(0)
    draws = torch.stack([KL(analytic=False).loss(programs.model, programs.guide, x.repeat(50)) for _ in range(80)]) / 50
    error = draws.std() / len(draws) ** 0.5
    assert (draws.mean() - 0.5 * (0.5 * x).square().sum()).abs() < 5 * error


@pytest.mark.parametrize("site", ["y", "x"])
def test_a_divergence_needs_a_latent_of_both_programs(site, x):
    programs = Linear(explicit=("model", "guide"))
    with refuses(ValueError, f"'{site}'"):
        KL(site).loss(programs.model, programs.guide, x)


def test_a_divergence_refuses_implicit_latents(x):
    programs = Linear(explicit=("model",))
    with refuses(ValueError, "'z'", "Implicit"):
        KL("z").loss(programs.model, programs.guide, x)


@pytest.mark.parametrize(
    "term", [MMD("x", num=DATA, den=P), SlicedWasserstein("x", num=DATA, den=P), Energy("x", num=DATA, den=P)]
)
def test_data_and_simulations_are_matched_without_a_critic(term, x):
    """The slope of x = slope z comes to the sd of the data, 1.5; 200 steps of Adam at 0.05, B = 100, seed 0."""
    torch.manual_seed(0)
    programs = Linear()
    optimizer = torch.optim.Adam([programs.slope], lr=0.05)
    for _ in range(200):
        data = 1.5 * torch.randn(100, dtype=torch.float64)
        optimizer.zero_grad()
        (term.differentiable_loss(programs.model, lambda x: None, data) / 100).backward()
        optimizer.step()
    assert abs(programs.slope.item() - 1.5) < 0.2


def test_the_energy_distance_of_two_normals():
    """N(0, 1) against N(1, 1): 2 E|N(-1, 2)| - 4 / sqrt(pi); seed 0, 20 batches of 1000, 5 standard errors."""
    torch.manual_seed(0)
    far = (
        2 / math.sqrt(math.pi) * math.exp(-0.25)
        + 1
        - 2 * float(torch.distributions.Normal(0, 1).cdf(torch.tensor(-1 / 2**0.5)))
    )
    exact = 2 * far - 4 / math.sqrt(math.pi)
    found = torch.stack([energy_distance(torch.randn(1000, 1), torch.randn(1000, 1) + 1) for _ in range(20)])
    assert (found.mean() - exact).abs() < 5 * found.std() / 20**0.5


def test_the_energy_distance_is_that_of_a_slow_loop():
    torch.manual_seed(0)
    x, y = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randn(5, 3, dtype=torch.float64)
    across = sum((a - b).norm() for a in x for b in y) / 20
    within = [
        sum((a - b).norm() for i, a in enumerate(v) for j, b in enumerate(v) if i != j) / (len(v) * (len(v) - 1))
        for v in (x, y)
    ]
    torch.testing.assert_close(energy_distance(x, y), 2 * across - within[0] - within[1])
    assert torch.autograd.gradcheck(energy_distance, (x, y))
    energy_distance(x, x).backward()  # equal points
    assert x.grad.isfinite().all()


def test_matching_needs_two_sources_and_a_path(x):
    with refuses(ValueError, "two sources", "P twice"):
        MMD("x", num=P, den=P)
    with refuses(TypeError, "a source of Energy", "'data'"):
        Energy("x", num="data")
    programs = Linear().requires_grad_(False)
    with refuses(ValueError, "gradient", "['x']"):
        MMD("x", num=DATA, den=P).differentiable_loss(programs.model, programs.guide, x)


# A log-ratio as a likelihood: z ~ N(0, 1), x | z ~ N(z, 1), so p(x) = N(0, 2) and p(z | x) = N(x / 2, 1 / 2)


def simulator(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", Implicit(z + torch.randn(len(x)), 0), obs=x)


def exact_ratio(x, z):
    return dist.Normal(z, 1.0).log_prob(x) - dist.Normal(0.0, math.sqrt(2)).log_prob(x)


def posterior(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))


def test_an_exact_ratio_gives_the_exact_posterior():
    model = RatioLikelihood(simulator, exact_ratio, ["x", "z"])
    x = torch.linspace(-2, 2, 4)
    weights = log_weights(model, posterior, x, num_particles=7)
    torch.testing.assert_close(weights.local, torch.zeros(7, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(Trace_ELBO().loss(model, posterior, x), 0.0, atol=1e-4, rtol=0)


def test_nuts_runs_on_an_implicit_model():
    """Of 4 data, z by z; 300 draws after 100, seed 0; means within 0.25, about 5 standard errors of 200 draws."""
    pyro.set_rng_seed(0)
    x = torch.linspace(-2, 2, 4)
    mcmc = MCMC(NUTS(RatioLikelihood(simulator, exact_ratio, ["x", "z"])), 300, 100, disable_progbar=True)
    mcmc.run(x)
    z = mcmc.get_samples()["z"]
    torch.testing.assert_close(z.mean(0), x / 2, atol=0.25, rtol=0)
    torch.testing.assert_close(z.var(0), torch.full((4,), 0.5), atol=0.25, rtol=0)


def test_a_ratio_says_what_it_misses():
    with refuses(ValueError, "'y'", "['x', 'z']"):
        RatioLikelihood(simulator, exact_ratio, ["x", "z"], observed="y")
    with refuses(ValueError, "without ['w']"):
        RatioLikelihood(simulator, exact_ratio, ["x", "w"])(torch.zeros(2))
    with refuses(ValueError, "observed site 'x'"):
        pyro.poutine.uncondition(RatioLikelihood(lambda x: None, exact_ratio, ["x", "z"]))(torch.zeros(2))


@pytest.mark.parametrize("how", ["distribution", "handler"])
def test_masked_data_are_not_scored_by_a_ratio(how):
    mask = torch.tensor([True, False, True])

    def masked(x):
        with pyro.plate("data", 3), pyro.poutine.mask(mask=mask if how == "handler" else True):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            site = Implicit(z, 0)
            pyro.sample("x", site.mask(mask) if how == "distribution" else site, obs=x)

    trace = pyro.poutine.trace(RatioLikelihood(masked, lambda x, z: 0 * x + 1, ["x", "z"])).get_trace(torch.zeros(3))
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob_sum"] == 2


def test_a_ratio_of_vectors():
    def vectors(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = torch.randn(3, 2)
    trace = pyro.poutine.trace(RatioLikelihood(vectors, lambda x, z: (x * z).sum(-1), ["x", "z"])).get_trace(x)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], (x * trace.nodes["z"]["value"]).sum(-1))
