"""Every bound with every estimator on every kind of latent, against the exact gradient of the bound's expectation.

The discrete model is enumerated: a latent of three bits, so the expectation of a K-particle bound is a sum over
8^K draws. The continuous one is linear-Gaussian with quadrature noise fixed: its exact gradient is that of the
reparameterised bound averaged over a large common sample, whose own error enters the test. Each Monte Carlo gradient is
tested per parameter at 5 standard errors, seed 0, with the sample size stated.
"""

import itertools
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from contracts import refuses
from pyro_dgm.infer import CIWAE, ELBO, IWAE, MIWAE, SVI, Baseline, Renyi, gradients, log_weights
from pyro_dgm.infer import bounds as b

X = torch.tensor([0.7, -1.2], dtype=torch.float64)
PARAMETERS = ("prior", "weight", "encoder")
OBJECTIVES = {
    "elbo": (partial(ELBO, 2), b.elbo),
    "iwae": (partial(IWAE, 2), b.iwae),
    "miwae": (partial(MIWAE, 2, 2), partial(b.miwae, num_groups=2)),
    "ciwae": (partial(CIWAE, 2, 0.3), partial(b.ciwae, beta=0.3)),
    "renyi 0.5": (partial(Renyi, 0.5, 2), partial(b.renyi, alpha=0.5)),
    "renyi -1": (partial(Renyi, -1.0, 2), partial(b.renyi, alpha=-1.0)),
    "renyi 2": (partial(Renyi, 2.0, 2), partial(b.renyi, alpha=2.0)),
}


class Bits(pyro.nn.PyroModule):
    """Three bits per datum, the last two drawn after the first, and a normal observation of them."""

    def __init__(self, gradient=None):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        self.prior = torch.nn.Parameter(draw(3))
        self.weight = torch.nn.Parameter(draw(3))
        self.encoder = torch.nn.Parameter(0.5 * draw(3, 3))
        self.infer = {} if gradient is None else {"pyro_dgm": {"gradient": gradient}}

    def model(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=self.prior[0]))
            rest = pyro.sample("rest", dist.Bernoulli(logits=self.prior[1:] + a.unsqueeze(-1)).to_event(1))
            loc = self.weight[0] * a + rest @ self.weight[1:]
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=self.encoder[0, 0] + self.encoder[1, 0] * x), infer=self.infer)
            seen = x.unsqueeze(-1) * self.encoder[1, 1:] + a.unsqueeze(-1) * self.encoder[2, 1:]
            pyro.sample("rest", dist.Bernoulli(logits=self.encoder[0, 1:] + seen).to_event(1), infer=self.infer)


def exact_bound_of_bits(program, bound, num_particles=2):
    """The expectation of a bound, summed over the data, by enumeration of all draws of all particles."""
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)  # (8, 3)
    a, rest, x = states[:, 0], states[:, 1:], X.unsqueeze(-1)  # x against states: (B, 8)
    log_p = dist.Bernoulli(logits=program.prior[0]).log_prob(a)
    log_p = log_p + dist.Bernoulli(logits=program.prior[1:] + a.unsqueeze(-1)).log_prob(rest).sum(-1)
    log_p = log_p + dist.Normal(program.weight[0] * a + rest @ program.weight[1:], 1.0).log_prob(x)
    log_q = dist.Bernoulli(logits=program.encoder[0, 0] + program.encoder[1, 0] * x).log_prob(a)
    seen = x.unsqueeze(-1) * program.encoder[1, 1:] + a.unsqueeze(-1) * program.encoder[2, 1:]
    log_q = log_q + dist.Bernoulli(logits=program.encoder[0, 1:] + seen).log_prob(rest).sum(-1)  # (B, 8)
    total = torch.zeros((), dtype=torch.float64)
    for draws in itertools.product(range(8), repeat=num_particles):
        chosen = list(draws)
        probability = log_q[:, chosen].sum(-1).exp()
        total = total + (probability * bound((log_p - log_q)[:, chosen].T)).sum()
    return total


class Chain(pyro.nn.PyroModule):
    """Two normal latents per datum, the second drawn given the first in model and guide, both of two features."""

    def __init__(self, gradient=None):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        self.prior = torch.nn.Parameter(0.3 * draw(2))
        self.weight = torch.nn.Parameter(0.5 * draw(2))
        self.encoder = torch.nn.Parameter(0.3 * draw(3, 2))
        self.infer = {} if gradient is None else {"pyro_dgm": {"gradient": gradient}}

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.prior, 1.0).to_event(1))
            w = pyro.sample("w", dist.Normal(z, 0.8).to_event(1))
            pyro.sample("x", dist.Normal(w @ self.weight, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc = x.unsqueeze(-1) * self.encoder[0]
            z = pyro.sample("z", dist.Normal(loc, self.encoder[1].exp()).to_event(1), infer=self.infer)
            pyro.sample("w", dist.Normal(z * self.encoder[2] + loc, 0.9).to_event(1), infer=self.infer)


def estimates(program, objective, repeats, copies=1):
    """Gradients of many independent steps, (repeats, parameters); ``copies`` of the data make a step cheap."""
    x = X.repeat(copies)
    rows = []
    for _ in range(repeats):
        program.zero_grad()
        objective.loss_and_grads(program.model, program.guide, x)
        rows.append(torch.cat([-getattr(program, name).grad.flatten() / copies for name in PARAMETERS]))
    return torch.stack(rows)


def exact_gradient(value, program):
    grads = torch.autograd.grad(value, [getattr(program, name) for name in PARAMETERS])
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("estimator", ["score", "nvil", "loo", "auto"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_discrete_latents_get_the_exact_gradient_of_every_bound(name, estimator, assert_mean):
    """200 steps of 500 copies of the data each; the exact gradient is enumerated."""
    make, bound = OBJECTIVES[name]
    program = Bits()
    truth = exact_gradient(exact_bound_of_bits(program, bound), program)
    assert_mean(estimates(program, make(gradient=estimator), 200, copies=500), truth)


@pytest.mark.parametrize("estimator", ["score", "nvil", "auto"])
def test_a_single_particle_gets_the_exact_gradient_of_the_elbo(estimator, assert_mean):
    program = Bits()
    truth = exact_gradient(exact_bound_of_bits(program, b.elbo, 1), program)
    assert_mean(estimates(program, ELBO(gradient=estimator), 200, copies=500), truth)


def test_particles_in_turn_get_the_same_gradient(assert_mean):
    program = Bits()
    truth = exact_gradient(exact_bound_of_bits(program, b.iwae), program)
    objective = IWAE(2, gradient="loo", vectorize_particles=False)
    assert_mean(estimates(program, objective, 200, copies=500), truth)


def bound_of_chain(program, bound, copies, num_particles=2):
    """The reparameterised bound written by hand, on noise of its own and averaged over copies of the data."""
    x = X.repeat(copies)
    noise = torch.randn(2, num_particles, len(x), 2, dtype=torch.float64)  # latent, particle, datum, feature
    loc = x.unsqueeze(-1) * program.encoder[0]
    z = loc + program.encoder[1].exp() * noise[0]
    w_loc = z * program.encoder[2] + loc
    w = w_loc + 0.9 * noise[1]
    log_p = dist.Normal(program.prior, 1.0).log_prob(z).sum(-1) + dist.Normal(z, 0.8).log_prob(w).sum(-1)
    log_p = log_p + dist.Normal(w @ program.weight, 1.0).log_prob(x)
    log_q = dist.Normal(loc, program.encoder[1].exp()).log_prob(z).sum(-1) + dist.Normal(w_loc, 0.9).log_prob(w).sum(-1)
    return bound(log_p - log_q).sum() / copies


@pytest.mark.parametrize(
    ("name", "estimator"),
    [(name, estimator) for name in OBJECTIVES for estimator in ("reparam", "dreg", "score", "nvil", "loo")]
    + [("elbo", "stl")],
)
def test_continuous_latents_get_the_same_gradient_by_every_unbiased_estimator(name, estimator):
    """100 steps of 2000 copies against 100 of the hand-written bound on its own noise: the errors of both count."""
    make, bound = OBJECTIVES[name]
    program = Chain()
    found = estimates(program, make(gradient=estimator), 100, copies=2000)
    truth = torch.stack([exact_gradient(bound_of_chain(program, bound, 2000), program) for _ in range(100)])
    error = ((found.var(0) + truth.var(0)) / 100).sqrt()
    z = (found.mean(0) - truth.mean(0)) / error.clamp(min=1e-12)
    assert z.abs().max() < 5, z


def test_sticking_the_landing_is_biased_for_iwae():
    """The label in the documentation is not a guess: more than 5 standard errors, same sizes as above."""
    program = Chain()
    found = estimates(program, IWAE(8, gradient="stl"), 100, copies=2000)
    truth = torch.stack([exact_gradient(bound_of_chain(program, b.iwae, 2000, 8), program) for _ in range(100)])
    z = (found.mean(0) - truth.mean(0)) / ((found.var(0) + truth.var(0)) / 100).sqrt()
    assert z.abs().max() > 5


@pytest.mark.parametrize("objective", [ELBO(gradient="stl"), ELBO(3, gradient="stl"), IWAE(4, gradient="dreg")])
def test_the_guide_has_no_gradient_where_it_is_exact(objective, exact):
    """Not on average but for every draw (pitfall 9); the plain estimator is noisy there."""
    loc, covariance = exact.posterior(exact.x)
    scale_tril = torch.linalg.cholesky(covariance).requires_grad_()
    loc = loc.clone().requires_grad_()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False))

    objective.differentiable_loss(exact.model, guide, exact.x).backward()
    assert loc.grad.abs().max() < 1e-9
    assert scale_tril.grad.abs().max() < 1e-9
    loc.grad = None
    ELBO().differentiable_loss(exact.model, guide, exact.x).backward()
    assert loc.grad.abs().max() > 0.1


def test_the_two_latents_of_a_chain_stick_to_the_landing():
    """Model and guide are the same chain, and what is observed is a constant: no draw gives the guide a gradient."""
    loc = torch.tensor([0.4, -0.3], dtype=torch.float64, requires_grad=True)

    def chain(x, drift, observe=False):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(drift[0], 1.3))
            pyro.sample("w", dist.Normal(z * drift[1], 0.6))
            if observe:
                pyro.sample("x", dist.Normal(torch.zeros(()).double(), 1.0), obs=x)

    def model(x):
        chain(x, loc.detach(), observe=True)

    for objective in (ELBO(gradient="stl"), IWAE(3, gradient="dreg"), Renyi(0.5, 3, gradient="dreg")):
        loc.grad = None
        objective.differentiable_loss(model, lambda x: chain(x, loc), X).backward()
        assert loc.grad.abs().max() < 1e-12


def test_a_site_may_choose_for_itself(assert_mean):
    """The discrete latents score by leaving one out though the objective's default is score."""
    program = Bits(gradient="loo")
    truth = exact_gradient(exact_bound_of_bits(program, b.iwae), program)
    own, default = IWAE(2, gradient="score"), IWAE(2, gradient="loo")
    torch.manual_seed(3)
    chosen = estimates(program, own, 50, copies=500)
    torch.manual_seed(3)
    torch.testing.assert_close(chosen, estimates(Bits(), default, 50, copies=500))
    assert_mean(chosen, truth)


def test_a_plate_of_many_data_scales_the_gradient_of_a_minibatch():
    """N = 10 from a minibatch of 2: five times the gradient of the minibatch alone, for every estimator."""

    def gradient(data_size, estimator):
        slope = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

        def plate():
            return pyro.plate("data", data_size, subsample=torch.arange(2))

        def model(x):
            with plate():
                z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            with plate():
                pyro.sample("z", dist.Normal(slope * x, 1.0))

        torch.manual_seed(0)
        IWAE(3, gradient=estimator).differentiable_loss(model, guide, X).backward()
        return slope.grad

    for estimator in ("reparam", "stl", "dreg", "score", "loo", "nvil"):
        torch.testing.assert_close(gradient(10, estimator), 5 * gradient(2, estimator))


@pytest.mark.parametrize("num_particles", [2, 5])
def test_leaving_one_out_has_less_variance_than_scoring(num_particles):
    program = Bits()
    spreads = [
        estimates(program, IWAE(num_particles, gradient=estimator), 100, copies=20).var(0)[-9:].sum()
        for estimator in ("score", "loo")
    ]
    assert spreads[1] < spreads[0]


def test_a_network_baseline_is_trained_by_svi_and_lowers_the_error():
    program = Bits()
    net = torch.nn.Sequential(torch.nn.Unflatten(-1, (-1, 1)), torch.nn.Linear(1, 8), torch.nn.Tanh()).double()
    net.append(torch.nn.Linear(8, 1).double())
    baseline = Baseline(net)
    x = X.repeat(50)
    svi = SVI(program.model, program.guide, partial(torch.optim.Adam, lr=0.02), ELBO(baseline=baseline))
    before = net[1].weight.detach().clone()
    svi.step(x)
    assert not torch.equal(net[1].weight, before)
    for _ in range(200):
        svi.step(x)
    weights = log_weights(program.model, program.guide, x).local[0].detach()
    centred, error = baseline(weights, (x,))
    assert error < 0.9 * (weights - weights.mean()).square().sum()
    assert "baseline" in svi.state_dict()["modules"]
    assert centred.shape == x.shape


def test_a_baseline_takes_batches_of_any_size():
    """Pitfall 6: the last, partial batch."""
    baseline = Baseline()
    for size in (5, 3, 1):
        centred, _ = baseline(torch.randn(size), ())
        assert centred.shape == (size,)


def test_a_baseline_is_the_average_of_the_past_and_not_of_the_present():
    baseline = Baseline(decay=0.5)
    centred, _ = baseline(torch.tensor([2.0, 4.0]), ())
    torch.testing.assert_close(centred, torch.tensor([2.0, 4.0]))
    centred, _ = baseline(torch.tensor([5.0]), ())
    torch.testing.assert_close(centred, torch.tensor([2.0]))
    centred, _ = baseline(torch.tensor([0.0]), ())
    torch.testing.assert_close(centred, torch.tensor([-4.0]))


def test_vimco_is_the_formula_of_its_paper():
    log_w = torch.randn(4, 3, dtype=torch.float64)
    for k in range(4):
        others = log_w[[i for i in range(4) if i != k]]
        replaced = torch.cat([others, others.mean(0, keepdim=True)])
        signal = b.iwae(log_w) - (replaced.logsumexp(0) - math.log(4))
        torch.testing.assert_close(gradients.leave_one_out(b.iwae, log_w)[k], signal)


def test_coefficients_are_those_of_the_papers():
    log_w = torch.randn(4, 3, dtype=torch.float64)
    w = log_w.softmax(0)
    torch.testing.assert_close(gradients.coefficients(b.iwae, log_w), w)
    torch.testing.assert_close(gradients.double_coefficients(b.iwae, log_w), w**2)
    torch.testing.assert_close(gradients.double_coefficients(b.elbo, log_w), torch.full_like(w, 0.25))
    tilted = (0.7 * log_w).softmax(0)
    expected = 0.3 * tilted + 0.7 * tilted**2
    torch.testing.assert_close(gradients.double_coefficients(partial(b.renyi, alpha=0.3), log_w), expected)


def test_a_weight_of_zero_does_not_spoil_the_signals_of_the_others():
    log_w = torch.tensor([[0.0], [-torch.inf], [1.0]])
    assert gradients.leave_one_out(b.iwae, log_w)[1].isfinite().all()


@pytest.mark.parametrize(
    ("objective", "program", "parts"),
    [
        (lambda: ELBO(gradient="reinforce"), None, ("'auto'", "'reinforce'")),
        (lambda: ELBO(gradient="stl", analytic_kl=True), None, ("analytic_kl", "'stl'")),
        (lambda: ELBO(gradient="stl"), Bits, ("reparameterised", "'a'", "Bernoulli")),
        (lambda: IWAE(2, gradient="dreg"), Bits, ("reparameterised", "'a'", "Bernoulli")),
        (lambda: ELBO(gradient="loo"), Bits, ("num_particles must be at least 2", "got 1", "nvil")),
        (lambda: ELBO(), partial(Bits, "nonsense"), ("latent 'a'", "'nonsense'")),
        (lambda: MIWAE(4, 3), None, ("num_groups", "got 3")),
        (lambda: CIWAE(4, 3.0), None, ("beta", "got 3.0")),
        (lambda: Renyi(math.nan, 2), None, ("alpha", "got nan")),
        (lambda: Baseline(decay=1.0), None, ("decay", "got 1.0")),
    ],
)
def test_what_cannot_be_is_refused_with_the_cure(objective, program, parts):
    with refuses(ValueError, *parts):
        made = objective()
        own = program()
        made.loss_and_grads(own.model, own.guide, X)


def test_double_reparameterisation_is_for_all_latents_or_none():
    program = Chain()

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(program.encoder[0], 1.0).to_event(1))
            pyro.sample("w", dist.Normal(z, 0.9).to_event(1), infer={"pyro_dgm": {"gradient": "reparam"}})

    with refuses(ValueError, "every latent's", "'dreg'", "'reparam'"):
        IWAE(2, gradient="dreg").loss_and_grads(program.model, guide, X)


def test_a_global_latent_has_no_score():
    def model(x):
        p = pyro.sample("p", dist.Bernoulli(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(p, 1.0), obs=x)

    def guide(x):
        pyro.sample("p", dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.1))))

    with refuses(ValueError, "data plate", "'p'"):
        ELBO().loss_and_grads(model, guide, X)


@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_a_guide_of_several_latents_with_dropout_is_not_scored_twice(estimator):
    program = Chain()
    program.dropout = torch.nn.Dropout(0.5)
    with refuses(ValueError, "dropout in training mode", "'reparam'"):
        ELBO(gradient=estimator).loss_and_grads(program.model, program.guide, X)
    program.eval()
    ELBO(gradient=estimator).loss_and_grads(program.model, program.guide, X)
    assert program.encoder.grad.isfinite().all()
