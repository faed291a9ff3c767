"""Methods in NumPyro minimise the losses of the same programs, and what is measured of them is what they have."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

from benchmarks.comparison.method import TrainedPrograms
from benchmarks.comparison.methods import METHODS
from benchmarks.comparison.methods.in_numpyro.posteriors import TWINS
from benchmarks.comparison.metrics import final_metrics, weights_of
from benchmarks.comparison.task import Facts, Problem
from benchmarks.comparison.tasks import TASKS
from benchmarks.comparison.tasks.minibatches import endless
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, FullNormal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

OWN = {method.name: method for method in METHODS if method.family == "numpyro"}
OBJECTIVES = ("numpyro-trace-elbo", "numpyro-meanfield", "numpyro-renyi")
NUM = 400  # losses of each side


@pytest.fixture
def jax():
    """JAX, where it is installed with NumPyro."""
    pytest.importorskip("numpyro", reason="NumPyro is not installed")
    return pytest.importorskip("jax")


def conditional(activation=nn.Tanh, normal=DiagonalNormal):
    """A small problem with a context."""
    torch.manual_seed(1)
    x, c = torch.rand(20, 6).round(), torch.randn(20, 4)
    return Problem(
        model=LatentVariableModel(StandardNormal(3), Bernoulli(MLP(3 + 4, 6, (8,), activation))),
        make_guide=lambda: AmortizedGuide(z=normal(MLP(6 + 4, normal.num_parameters(3), (8,)))),
        batches=endless(x, c, size=10, seed=0),
        test=(x, c),
        facts=Facts("noise", 20),
        latents="continuous",
    )


def build(name):
    """A problem of its own, with the same first parameters every time."""
    pyro.set_rng_seed(0)
    if name == "conditional":
        return conditional()
    return next(task for task in TASKS if task.name == name).build(0)


def begun(name, method):
    """A learner on a problem of its own, with the same first parameters every time."""
    problem = build(name)
    with torch.random.fork_rng(devices=[]):
        assert OWN[method].supports(problem) is None
    return problem, OWN[method].start(problem, 0)


def bounds(jax, learner, problem):
    """What NumPyro's own loss says of the test data, in nats per datum, by seed 3: (NUM,)."""
    params, args = learner.svi.get_params(learner.state), [own.numpy() for own in problem.test]
    one = jax.jit(lambda key: learner.svi.loss.loss(key, params, learner.svi.model, learner.svi.guide, *args))
    losses = torch.tensor([float(one(key)) for key in jax.random.split(jax.random.PRNGKey(3), NUM)])
    return -losses.double() / len(problem.test[0])


def agree(first, second):
    """Whether two means are within 4 standard errors of their difference."""
    error = math.sqrt(float(first.var() / len(first) + second.var() / len(second)))
    return abs(float(first.mean() - second.mean())) < 4 * error


@pytest.mark.parametrize("method", OBJECTIVES)
@pytest.mark.parametrize("task", ["digits", "conditional"])
def test_the_first_bound_is_that_of_torchs_programs(jax, task, method):
    """400 of each, seed 3 there and 0 here; torch's programs are built by themselves."""
    problem = build(task)
    ours = TrainedPrograms(None, problem, problem.model, problem.make_guide())
    particles = 5 if method == "numpyro-renyi" else 1
    torch.manual_seed(0)
    log_w = weights_of(ours, problem, NUM * particles).unflatten(0, (NUM, particles))  # (NUM, K, B)
    expected = (log_w.logsumexp(1) - math.log(particles)).mean(1)
    own_problem, learner = begun(task, method)
    assert agree(bounds(jax, learner, own_problem), expected)


@pytest.mark.parametrize("task", ["digits", "conditional"])
def test_it_begins_with_the_parameters_that_everyone_begins_with(jax, task):
    problem = build(task)
    ours = [*problem.model.parameters(), *problem.make_guide().parameters()]
    _, learner = begun(task, "numpyro-trace-elbo")
    model, guide = learner.programs
    assert all(torch.equal(a, b) for a, b in zip(ours, [*model.parameters(), *guide.parameters()], strict=True))


@pytest.mark.parametrize("method", OBJECTIVES[:2])
@pytest.mark.parametrize("task", ["digits", "conditional"])
def test_what_it_has_learned_is_what_is_evaluated(jax, task, method):
    """The bound of the programs after 50 steps is NumPyro's own; 400 of each, seed 3 there and 0 here."""
    problem, learner = begun(task, method)
    before = [own.clone() for program in learner.programs for own in program.parameters()]
    for _ in range(50):
        learner.step()
    after = [own for program in learner.programs for own in program.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    torch.manual_seed(0)
    assert agree(bounds(jax, learner, problem), weights_of(learner, problem, NUM).mean(1))


def test_one_step_of_adam_is_torchs(jax):
    """A step whose loss has no noise: the decoder does not look at z, and the KL is in closed form."""
    problem = build("conditional")
    with torch.no_grad():
        problem.model.likelihood.net.layers[0].weight[:, :3] = 0
    learner = OWN["numpyro-meanfield"].start(problem, 0)
    assert float(bounds(jax, learner, problem).std()) < 1e-6
    model, guide = learner.programs
    own = [*model.parameters(), *guide.parameters()]
    adam = torch.optim.Adam(own, lr=problem.learning_rate)
    x, c = next(problem.batches())
    loc, log_scale = guide.sites.z.net(x, c).chunk(2, -1)
    kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
    (kl - model.likelihood(loc, c).log_prob(x).sum()).backward()
    adam.step()
    expected = [parameter.detach().clone() for parameter in own]
    learner.step()
    assert learner.programs == (model, guide)
    looks_at_z = model.likelihood.net.layers[0].weight  # whose gradient is noise
    for parameter, value in zip(own, expected, strict=True):
        here = slice(3, None) if parameter is looks_at_z else slice(None)
        torch.testing.assert_close(parameter[..., here], value[..., here])


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_has_the_density_of_the_tasks_model(jax, name):
    """At ten draws of the prior, seed 0."""
    from numpyro.infer.util import log_density

    problem = build(name)
    args = (jax.numpy.asarray(problem.test[0].numpy()),)
    for _ in range(10):
        trace = poutine.trace(problem.model).get_trace(*problem.test)
        drawn = {site: trace.nodes[site]["value"] for site in problem.posterior.sites}
        found, _ = log_density(TWINS[name](), args, {}, {site: value.numpy() for site, value in drawn.items()})
        assert float(found) == pytest.approx(float(trace.log_prob_sum()), rel=1e-4, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hierarchy", "eight-schools"])
def test_the_chains_draws_are_those_of_the_posterior(jax, name):
    """1200 draws, of which 600 are kept: an error as many independent ones would have, times 2, as they are few."""
    problem, learner = begun(name, "numpyro-nuts")
    for _ in range(1200):
        learner.step()
    found = final_metrics(learner, problem)
    size = found["ess"].value * 600
    assert size > 100
    assert found["mean_error"].value < 2 / math.sqrt(size) + problem.posterior.error
    assert found["sd_error"].value < 2 / math.sqrt(size) + problem.posterior.error
    assert all(len(own) == 600 for own in learner.draws(4000).values())


def test_a_chain_that_has_not_begun_has_no_draws_and_those_of_others_are_in_the_supports(jax):
    """Of a chain that still adapts the last two."""
    _, learner = begun("eight-schools", "numpyro-nuts")
    assert learner.draws(10) is None
    for _ in range(20):
        learner.step()
    found = learner.draws(10)
    assert {name: tuple(own.shape) for name, own in found.items()} == {"mu": (2, 1), "tau": (2, 1), "eta": (2, 1, 8)}
    assert (found["tau"] > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["numpyro-automvn", "numpyro-autoiaf"])
def test_an_automatic_guides_weights_have_the_evidence_for_their_mean(jax, method):
    """By importance sampling with what 1000 steps have found; 5 standard errors."""
    problem, learner = begun("hierarchy", method)
    for _ in range(1000):
        learner.step()
    found = final_metrics(learner, problem)
    assert found["ess"].value > 0.1
    assert abs(found["log_evidence"].value) < 5 * found["log_evidence"].standard_error
    assert found["kl"].value > 0


def test_what_is_not_written_in_numpyro_is_refused():
    """Also where NumPyro is not installed."""
    vae, nuts = OWN["numpyro-trace-elbo"], OWN["numpyro-nuts"]
    assert "VAE of bits" in vae.supports(build("ppca"))
    assert "diagonal" in vae.supports(conditional(normal=FullNormal))
    assert "networks of its own" in vae.supports(conditional(activation=nn.ELU))
    assert "no guide" in vae.supports(build("ring"))
    assert vae.supports(conditional()) is None
    assert "no such model" in nuts.supports(build("digits"))
    assert [name for name, method in OWN.items() if method.supports(build("potential-2")) is None] == [
        "numpyro-autonormal",
        "numpyro-automvn",
        "numpyro-autoiaf",
        "numpyro-nuts",
    ]
