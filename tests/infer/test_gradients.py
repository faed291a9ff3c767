"""What gradient estimators do beyond the matrix of ``test_matrix.py``: sites, plates, baselines, errors.

Monte Carlo gradients are tested per parameter at 5 standard errors, seed 0, with the sample size stated.
"""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI as PyroSVI

from contracts import refuses
from exact_programs import Bits, Chain, X, estimates, exact_bound, exact_gradient, relaxation
from pyro_dgm.infer import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    MIWAE,
    SVI,
    TVO,
    Baseline,
    Relaxation,
    Renyi,
    gradients,
    log_weights,
)
from pyro_dgm.infer import bounds as b


@pytest.mark.parametrize("estimator", ["score", "nvil", "auto", "disarm", "rebar", "relax"])
def test_a_single_particle_gets_the_exact_gradient_of_the_elbo(estimator, assert_mean):
    program = Bits()
    truth = exact_gradient(exact_bound(program, b.elbo, 1), program)
    assert_mean(estimates(program, ELBO(gradient=estimator, relaxation=relaxation()), 200, copies=500), truth)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_an_exact_sum_over_values_has_no_noise(num_particles):
    program = Bits()
    truth = exact_gradient(exact_bound(program, b.elbo, 1), program)
    found = estimates(program, ELBO(num_particles, gradient="enumerate"), 2)
    torch.testing.assert_close(found, truth.expand(2, -1))
    loss = ELBO(gradient="enumerate").loss(program.model, program.guide, X)
    torch.testing.assert_close(-loss, exact_bound(program, b.elbo, 1).detach())


def test_a_normal_latent_beside_a_discrete_one_takes_its_path(assert_mean):
    """Of ``rebar`` and the exact sum the continuous latent gets ``reparam``: two estimators, one mean."""
    shift = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    logit = torch.tensor(-0.2, dtype=torch.float64, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            k = pyro.sample("k", dist.Bernoulli(torch.full((), 0.3).double()))
            pyro.sample("x", dist.Normal(z * (1 + k), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(shift * x, 0.8))
            pyro.sample("k", dist.Bernoulli(logits=logit + z))

    def rows(objective, repeats):
        found = []
        for _ in range(repeats):
            shift.grad = logit.grad = None
            objective.differentiable_loss(model, guide, X.repeat(500)).backward()
            found.append(torch.stack([shift.grad, logit.grad]) / 500)
        return torch.stack(found)

    reference = rows(ELBO(gradient="enumerate"), 400)
    for objective in (
        ELBO(2, gradient="rebar", relaxation=relaxation()),
        ELBO(2, gradient="loo"),
        ELBO(gradient="disarm"),
    ):
        found = rows(objective, 200)
        z = (found.mean(0) - reference.mean(0)) / (found.var(0) / 200 + reference.var(0) / 400).sqrt()
        assert z.abs().max() < 5, (objective.gradient, z)


@pytest.mark.parametrize("estimator", ["reparam", "stl", "dreg", "score", "loo"])
def test_a_gradient_may_be_for_one_program_only(estimator):
    """The parts for model and guide add up to the whole, draw by draw, for every estimator."""
    program = Chain()
    rows = {}
    for moves in ("both", "model", "guide"):
        torch.manual_seed(0)
        rows[moves] = estimates(program, IWAE(3, gradient=estimator, moves=moves), 1)[0]
    assert not rows["model"][-6:].any()
    assert not rows["guide"][:-6].any()
    torch.testing.assert_close(rows["model"] + rows["guide"], rows["both"])


def test_tuning_lowers_the_variance_of_rebar_and_relax():
    """300 steps of Adam on the relaxation alone, programs fixed; variances over 200 steps of 50 copies, seed 0."""
    for estimator in ("rebar", "relax"):
        program, own = Bits(), relaxation()
        objective = ELBO(gradient=estimator, relaxation=own)
        with torch.no_grad():
            own.weight.fill_(3.0)
        before = estimates(program, objective, 200, copies=50).var(0).sum()
        optimizer = torch.optim.Adam(own.parameters(), lr=0.02)
        for _ in range(300):
            optimizer.zero_grad()
            objective.loss_and_grads(program.model, program.guide, X.repeat(50))
            optimizer.step()
        after = estimates(program, objective, 200, copies=50).var(0).sum()
        assert after < 0.8 * before
        assert estimates(program, ELBO(gradient="score"), 200, copies=50).var(0).sum() > after


def test_the_control_variates_are_trained_by_stock_svi_too():
    pyro.clear_param_store()
    program, own = Bits(), relaxation()
    svi = PyroSVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}), ELBO(gradient="relax", relaxation=own))
    before = [parameter.detach().clone() for parameter in own.parameters()]
    for _ in range(3):
        svi.step(X)
    assert all(not torch.equal(old, new) for old, new in zip(before, own.parameters(), strict=True))


def test_a_nested_latent_is_scored_by_its_own_elements_costs(assert_mean):
    """Three bits in a plate inside the datum: unbiased, and with much less variance than by the datum's whole cost."""
    logits = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64, requires_grad=True)
    data = torch.tensor([[1.0, -2.0, 6.0], [0.5, 3.0, -4.0]], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("units", 3, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(torch.full((), 0.4).double()))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("units", 3, dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    def rows(objective, repeats=400, copies=50):
        found = []
        for _ in range(repeats):
            logits.grad = None
            objective.differentiable_loss(model, guide, data.repeat(copies, 1)).backward()
            found.append(-logits.grad / copies)
        return torch.stack(found)

    q = logits.sigmoid()
    gain = dist.Normal(2.0, 1.0).log_prob(data) - dist.Normal(0.0, 1.0).log_prob(data) + math.log(0.4 / 0.6)
    elbo = (q * gain).sum() - len(data) * (q * q.log() + (1 - q) * (1 - q).log()).sum()
    (truth,) = torch.autograd.grad(elbo, logits)
    found = rows(ELBO(2, gradient="score"))
    assert_mean(found, truth)
    assert_mean(rows(ELBO(2, gradient="loo")), truth)
    whole = rows(IWAE(1, gradient="score"))  # K = 1: the ELBO, scored by the whole datum
    assert_mean(whole, truth)
    assert found.var(0).sum() * 2 < 0.7 * whole.var(0).sum()


@pytest.mark.parametrize("estimator", ["score", "loo", "nvil", "auto"])
def test_a_global_discrete_latent_gets_the_exact_gradient(estimator, assert_mean):
    """One bit for all data, and one per datum given it; the global's cost is everybody's. 2000 single steps."""
    logit = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    local = torch.tensor([0.2, -0.3], dtype=torch.float64, requires_grad=True)

    def densities(p, z, x):
        log_p = dist.Bernoulli(torch.full((), 0.3).double()).log_prob(p)
        each = dist.Bernoulli(logits=2 * p - 1).log_prob(z) + dist.Normal(p + z, 1.0).log_prob(x)
        return log_p, each

    def model(x):
        p = pyro.sample("p", dist.Bernoulli(torch.full((), 0.3).double()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=2 * p - 1))
            pyro.sample("x", dist.Normal(p + z, 1.0), obs=x)

    def guide(x):
        p = pyro.sample("p", dist.Bernoulli(logits=logit))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=local[0] * x + local[1] * p))

    total = torch.zeros((), dtype=torch.float64)
    for p in torch.tensor([0.0, 1.0], dtype=torch.float64):
        q_p = dist.Bernoulli(logits=logit).log_prob(p)
        inner = torch.zeros((), dtype=torch.float64)
        for z in torch.tensor([0.0, 1.0], dtype=torch.float64):
            q_z = dist.Bernoulli(logits=local[0] * X + local[1] * p).log_prob(z)
            inner = inner + (q_z.exp() * (densities(p, z, X)[1] - q_z)).sum()
        total = total + q_p.exp() * (densities(p, torch.zeros(()), X)[0] - q_p + inner)
    truth = torch.cat([g.flatten() for g in torch.autograd.grad(total, [logit, local])])
    objective = ELBO(3 if estimator == "loo" else 1, gradient=estimator)
    found = []
    for _ in range(2000):
        logit.grad = local.grad = None
        objective.differentiable_loss(model, guide, X).backward()
        found.append(-torch.cat([logit.grad.flatten(), local.grad]))
    assert_mean(torch.stack(found), truth)


def test_particles_in_turn_get_the_same_gradient(assert_mean):
    program = Bits()
    truth = exact_gradient(exact_bound(program, b.iwae), program)
    objective = IWAE(2, gradient="loo", vectorize_particles=False)
    assert_mean(estimates(program, objective, 200, copies=500), truth)


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
    truth = exact_gradient(exact_bound(program, b.iwae), program)
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
        (lambda: Relaxation(0.0), None, ("temperature", "got 0.0")),
        (lambda: CUBO(2, order=0.5), None, ("order", "got 0.5")),
        (lambda: TVO(2, (0.1,)), None, ("betas", "[0.1]")),
        (lambda: IWAE(2, moves="prior"), None, ("moves", "'prior'")),
        (lambda: IWAE(2, gradient="enumerate"), None, ("K-tuples", "num_particles=2", "IWAE")),
        (lambda: ELBO(gradient="relax"), Bits, ("network", "'a'", "relaxation=")),
        (lambda: ELBO(gradient="rebar"), Chain, ("discrete", "'z'", "reparam")),
        (lambda: ELBO(gradient="enumerate"), Chain, ("discrete", "'z'", "reparam")),
        (lambda: ELBO(gradient="score"), partial(Bits, "rebar"), ("relaxation", "'a'")),
        (lambda: ELBO(gradient="enumerate", beta=-1.0), None, ("beta", "got -1.0")),
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


@pytest.mark.parametrize("estimator", ["stl", "rebar", "disarm", "enumerate", "gumbel"])
def test_a_global_latent_takes_scores_only(estimator):
    is_discrete = estimator != "stl"
    prior = dist.Bernoulli(0.5) if is_discrete else dist.Normal(0.0, 1.0)

    def model(x):
        p = pyro.sample("p", prior)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(p, 1.0), obs=x)

    def guide(x):
        logit = pyro.param("logit", torch.tensor(0.1))
        pyro.sample("p", dist.Bernoulli(logits=logit) if is_discrete else dist.Normal(logit, 1.0))

    with refuses(ValueError, "data plate", "'p'", estimator):
        ELBO(gradient=estimator).loss_and_grads(model, guide, X)


@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_a_guide_of_several_latents_with_dropout_is_not_scored_twice(estimator):
    program = Chain()
    program.dropout = torch.nn.Dropout(0.5)
    with refuses(ValueError, "dropout in training mode", "'reparam'"):
        ELBO(gradient=estimator).loss_and_grads(program.model, program.guide, X)
    program.eval()
    ELBO(gradient=estimator).loss_and_grads(program.model, program.guide, X)
    assert program.encoder.grad.isfinite().all()
