"""Every task builds, and what it says of the truth is so: against closed forms, filters, quadrature and slow sums."""

import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import Bernoulli, MultivariateNormal, Normal

from benchmarks.comparison.registry import load
from benchmarks.comparison.task import Facts, Problem
from benchmarks.comparison.tasks.discrete import enumerated_evidence
from benchmarks.comparison.tasks.in_the_plane import moments
from benchmarks.comparison.tasks.normal import condition
from benchmarks.comparison.tasks.stored import EightSchools, read_reference
from contracts import refuses
from pyro_dgm.datasets import DatasetError
from pyro_dgm.models import SigmoidBeliefNet

TASKS = load().tasks


def built(name, seed=0):
    """A task's problem; skips where the data are not at hand."""
    pyro.set_rng_seed(seed)
    try:
        return TASKS[name].build(seed)
    except DatasetError:
        pytest.skip(f"the data of {name} are not here")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_gives_programs_that_fit_together_and_data_with_a_digest(name):
    problem = built(name)
    batch = next(problem.batches())
    assert [part.shape[1:] for part in batch] == [part.shape[1:] for part in problem.test]
    assert problem.facts.num_data == len(problem.test[0])
    assert problem.facts.data_sha256 is None or len(problem.facts.data_sha256) == 64
    if problem.make_guide is None:
        assert problem.model(num=3).shape == (3, *problem.test[0].shape[1:])
        return
    guide = problem.make_guide()
    drawn = poutine.trace(guide).get_trace(*batch)
    trace = poutine.trace(poutine.replay(problem.model, trace=drawn)).get_trace(*batch)
    assert trace.log_prob_sum().isfinite()
    if problem.posterior is not None:
        assert problem.posterior.mean.shape == problem.posterior.sd.shape
        assert len(problem.posterior.mean) == len(problem.test[0])
        assert set(problem.posterior.sites) <= set(trace.nodes)
    if problem.log_evidence is not None:
        assert problem.log_evidence().shape == (len(problem.test[0]),)


@pytest.mark.parametrize("name", ["ppca", "hierarchy", "sbn", "potential-2", "ring"])
def test_data_are_the_same_for_every_seed_and_batches_are_not(name):
    first, second = built(name, 0), built(name, 1)
    assert first.facts == second.facts
    assert all(torch.equal(a, b) for a, b in zip(first.test, second.test, strict=True))
    if not first.is_whole:
        assert not torch.equal(next(first.batches())[0], next(second.batches())[0])


def test_conditioning_agrees_with_the_joint_density():
    generator = torch.Generator().manual_seed(0)
    mixing, loc = torch.randn(4, 2, generator=generator).double(), torch.tensor([0.3, -0.2]).double()
    x, h = torch.randn(1, 4, generator=generator).double(), torch.randn(2, generator=generator).double()
    covariance = torch.tensor([[1.0, 0.4], [0.4, 2.0]]).double()
    mean, spread, evidence = condition(covariance, mixing, 0.7, x, loc)
    joint = MultivariateNormal(loc, covariance).log_prob(h) + Normal(mixing @ h, 0.7).log_prob(x[0]).sum()
    assert float(evidence[0] + MultivariateNormal(mean[0], spread).log_prob(h)) == pytest.approx(float(joint))


def test_the_evidence_of_sequences_is_the_kalman_filters():
    task, problem = TASKS["state-space"], built("state-space")
    for x, found in zip(problem.test[0][:5].double(), problem.log_evidence()[:5], strict=True):
        total, mean, variance = 0.0, 0.0, 1.0
        for step, value in enumerate(x.tolist()):
            if step:
                mean, variance = task.pull * mean, task.pull**2 * variance + task.walk_sd**2
            whole = variance + task.noise_sd**2
            total += -0.5 * (math.log(2 * math.pi * whole) + (value - mean) ** 2 / whole)
            mean, variance = mean + variance / whole * (value - mean), variance * task.noise_sd**2 / whole
        assert float(found) == pytest.approx(total, abs=1e-6)
    last = problem.posterior.mean[4, -1], problem.posterior.sd[4, -1]
    assert [float(value) for value in last] == pytest.approx([mean, math.sqrt(variance)], abs=1e-6)


def test_the_hierarchys_posterior_has_no_slope_where_its_mean_is():
    """The mean of a normal posterior is where the joint density is flat, and the inverse curvature its covariance."""
    problem = built("hierarchy")
    posterior = problem.posterior

    def log_joint(flat):
        values = {"mu": flat[:1].float(), "theta": flat[1:].unsqueeze(0).float()}
        return poutine.trace(poutine.condition(problem.model, values)).get_trace(*problem.test).log_prob_sum().double()

    slope = torch.autograd.functional.jacobian(log_joint, posterior.mean[0])
    curvature = torch.autograd.functional.hessian(log_joint, posterior.mean[0])
    assert slope.abs().max() < 1e-3
    torch.testing.assert_close(-curvature @ posterior.covariance[0], torch.eye(9).double(), atol=1e-4, rtol=0)
    top = float(log_joint(posterior.mean[0]))
    laplace = top + 4.5 * math.log(2 * math.pi) + 0.5 * float(torch.logdet(posterior.covariance[0]))
    assert float(problem.log_evidence()) == pytest.approx(laplace, abs=1e-3)


def test_the_evidence_of_counts_is_the_integral_over_the_rate():
    task, problem = TASKS["gamma-poisson"], built("gamma-poisson")
    rates = torch.linspace(1e-4, 60, 400_001).double()
    prior = torch.distributions.Gamma(torch.tensor(task.shape).double(), torch.tensor(task.rate).double())
    for row in (0, 1):
        x = problem.test[0][row].double()
        log_joint = prior.log_prob(rates) + torch.distributions.Poisson(rates.unsqueeze(1)).log_prob(x).sum(1)
        step = float(rates[1] - rates[0])
        assert float(problem.log_evidence()[row]) == pytest.approx(
            float(log_joint.logsumexp(0)) + math.log(step), abs=1e-4
        )
        weights = log_joint.softmax(0)
        assert float(problem.posterior.mean[row]) == pytest.approx(float(weights @ rates), rel=1e-4)


def test_the_evidence_of_a_belief_net_is_the_slow_sum_over_its_bits():
    torch.manual_seed(0)
    net = SigmoidBeliefNet(3, (2,)).requires_grad_(False)
    x = torch.tensor([[1.0, 0.0, 1.0]])
    total = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=2):
        z = torch.tensor(bits)
        log_p = net.prior().log_prob(z) + net.likelihood(z).log_prob(x[0])
        total += math.exp(float(log_p))
    assert float(enumerated_evidence(net, x)) == pytest.approx(math.log(total), rel=1e-5)


def test_the_evidence_of_what_is_learned_follows_the_model():
    problem = built("mixture")
    before = problem.log_evidence().mean()
    problem.model.em_step(TASKS["mixture"].data()[:1000])
    assert problem.log_evidence().mean() > before


@pytest.mark.parametrize("number", ["1", "2", "3", "4"])
def test_the_draws_of_a_potential_have_its_moments(number):
    """A thousand draws with a fixed seed, within 4 standard errors in either coordinate."""
    mean, sd, draws = moments(number)
    assert ((draws.mean(0) - mean).abs() < 4 * sd / math.sqrt(1000)).all()
    assert (draws.std(0) / sd - 1).abs().max() < 0.12


def exact_eight_schools():
    """Evidence, and means and standard deviations of mu and tau, by quadrature over tau, with mu integrated out."""
    y, variances = EightSchools().data()[0].double(), EightSchools.scales.double().square()
    shares = (torch.arange(200_000).double() + 0.5) / 200_000  # of the prior's mass: tau = 5 tan(pi / 2 share)
    tau = 5 * (math.pi / 2 * shares).tan()
    whole = tau.square().unsqueeze(1) + variances  # (points, 8)
    precision = 1 / 25 + (1 / whole).sum(1)
    mean = (y / whole).sum(1) / precision
    quadratic = (y.square() / whole).sum(1) - precision * mean.square()
    constant = -4 * math.log(2 * math.pi) - 0.5 * math.log(25)
    log_likelihood = constant - 0.5 * (whole.log().sum(1) + precision.log() + quadratic)
    weights = log_likelihood.softmax(0)
    evidence = float(log_likelihood.logsumexp(0)) - math.log(200_000)
    of_mu, of_tau = float(weights @ mean), float(weights @ tau)
    sd_mu = math.sqrt(float(weights @ (1 / precision + mean.square())) - of_mu**2)
    return evidence, (of_mu, of_tau), (sd_mu, math.sqrt(float(weights @ tau.square()) - of_tau**2))


def test_the_stored_posterior_of_eight_schools_is_right_within_its_errors():
    """Four standard errors of the stored chains, and of the importance sampling, against quadrature."""
    evidence, means, sds = exact_eight_schools()
    stored = read_reference("eight-schools")
    own = stored["log_evidence"]
    assert abs(own["value"] - evidence) < 4 * own["standard_error"] + 1e-3
    for place, (mean, sd) in enumerate(zip(means, sds, strict=True)):
        assert abs(stored["mean"][place] - mean) < 4 * stored["mean_error"][place]
        assert abs(stored["sd"][place] - sd) < 4 * stored["sd_error"][place]


@pytest.mark.parametrize("name", ["eight-schools", "logistic"])
def test_stored_chains_have_mixed_and_are_of_these_data(name):
    stored, problem = read_reference(name), built(name)
    assert max(stored["r_hat"]) < 1.01
    assert min(stored["ess"]) > 1000
    assert stored["protocol"]["data_sha256"] == problem.facts.data_sha256
    assert torch.tensor(stored["draws"]).shape == (1000, len(stored["mean"]))


def test_the_stored_mean_of_the_weights_is_near_the_mode():
    """The posterior of eleven weights by 569 labels is nearly normal: mean and mode agree within half a sd."""
    problem, task = built("logistic"), TASKS["logistic"]
    features, labels = task.table()
    w = torch.zeros(features.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=200)

    def loss():
        optimizer.zero_grad()
        found = -Bernoulli(logits=features @ w).log_prob(labels).sum() + 0.5 * w.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    off = (problem.posterior.mean[0] - w.detach()) / problem.posterior.sd[0]
    assert off.abs().max() < 0.5


def test_a_missing_reference_says_how_to_make_it():
    with refuses(ValueError, "nothing.json", "benchmarks.comparison.references"):
        read_reference("nothing")


def test_a_problem_refuses_what_it_cannot_be():
    facts, x = Facts("x", 1), torch.zeros(1, 1)
    with refuses(ValueError, "'normal'", "continuous"):
        Problem(model=None, batches=lambda: iter(()), test=(x,), facts=facts, latents="normal")
    with refuses(TypeError, "Tensor", "(x,)"):
        Problem(model=None, batches=lambda: iter(()), test=x, facts=facts, latents="continuous")
