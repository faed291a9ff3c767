"""The sigmoid belief net with its guide: contracts, and the truth by enumeration of all latents."""

import functools
import itertools
import math
from typing import TypeVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI as PyroSVI
from pyro.infer import Predictive, Trace_ELBO, TraceGraph_ELBO
from torch import Tensor
from torch.nn.functional import logsigmoid

from contracts import (
    check_conditioning,
    check_copies,
    check_isolation,
    check_observing_and_simulating,
    check_particles,
    check_scaling,
    check_training,
    refuses,
)
from pyro_dgm.distributions import AutoregressiveBernoulliDistribution
from pyro_dgm.evaluation import log_evidence
from pyro_dgm.guides import SigmoidBeliefGuide
from pyro_dgm.infer import ELBO, IWAE, SVI
from pyro_dgm.models import SigmoidBeliefNet
from pyro_dgm.nn import LocalModule

X, LAYERS = 4, (3, 2)

Program = TypeVar("Program", bound=LocalModule)

both_kinds = pytest.mark.parametrize("autoregressive", [False, True], ids=["factorised", "autoregressive"])


class WithContext(LocalModule):
    """Takes the context that the contract passes, and has no use for it."""

    def __init__(self, program: LocalModule) -> None:
        super().__init__()
        self.program = program

    def forward(self, x=None, c=None, *, num=None, data_size=None):
        return self.program(x, num=num, data_size=data_size)


def all_bits(features: int) -> Tensor:
    """Every binary vector, (2^D, D), in float64."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=features)), dtype=torch.float64)


def randomised(program: Program, seed: int = 0, scale: float = 1.0) -> Program:
    """The program with all its parameters drawn anew, in float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in program.double().parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return program


def random_pair(autoregressive: bool) -> tuple[SigmoidBeliefNet, SigmoidBeliefGuide]:
    """A model and a guide that is not far from flat, so that no importance weight is huge."""
    mean = torch.tensor([0.1, 0.4, 0.6, 0.9])
    return (
        randomised(SigmoidBeliefNet(X, LAYERS, autoregressive)),
        randomised(SigmoidBeliefGuide(X, LAYERS, autoregressive, data_mean=mean), seed=1, scale=0.3),
    )


def log_masses(layer, above: Tensor | None, features: int) -> Tensor:
    """Log-probability of every vector of a layer given every row above, (rows or 1, 2^D), from the parameters alone."""
    z = all_bits(features)
    if above is None:
        logits = (layer.logits if hasattr(layer, "logits") else layer.bias).unsqueeze(0)
    else:
        affine = layer.net.layers[-1]
        logits = above @ affine.weight.T + affine.bias
    logits = logits.unsqueeze(1).expand(-1, len(z), -1)  # (rows, 2^D, D)
    if hasattr(layer, "weight"):
        earlier = [sum(layer.weight[i, j] * z[:, j] for j in range(i)) + 0 * z[:, i] for i in range(features)]
        logits = logits + torch.stack(earlier, -1)
    return logsigmoid((2 * z - 1) * logits).sum(-1)


def exact_log_joint(model: SigmoidBeliefNet) -> Tensor:
    """Exact log p(z2, z1, x) of all vectors, (4, 8, 16), in nats."""
    z1, z2 = all_bits(LAYERS[0]), all_bits(LAYERS[1])
    top = log_masses(model.prior, None, LAYERS[1])[0]
    middle = log_masses(model.hidden.z1, z2, LAYERS[0])
    bottom = log_masses(model.likelihood, z1, X)
    return top[:, None, None] + middle[:, :, None] + bottom


def exact_log_evidence(model: SigmoidBeliefNet) -> Tensor:
    """Exact log p(x) of all x, (16,), in nats."""
    return exact_log_joint(model).logsumexp((0, 1))


def exact_log_guide(guide: SigmoidBeliefGuide) -> Tensor:
    """Exact log q(z2, z1 | x) of all vectors, (4, 8, 16), in nats."""
    lower = log_masses(guide.hidden.z1, all_bits(X) - guide.data_mean, LAYERS[0])  # (16, 8)
    upper = log_masses(guide.hidden.z2, all_bits(LAYERS[0]), LAYERS[1])  # (8, 4)
    return lower.T.unsqueeze(0) + upper.T.unsqueeze(-1)


def row_of(x: Tensor) -> Tensor:
    """The number of a vector in ``all_bits``."""
    return (x.double() @ (2.0 ** torch.arange(x.shape[-1] - 1, -1, -1)).double()).long()


def bars(num: int = 64) -> Tensor:
    """Vectors of two kinds with a little noise, in float32."""
    generator = torch.Generator().manual_seed(3)
    kinds = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    x = kinds[torch.randint(2, (num,), generator=generator)]
    flip = torch.rand(x.shape, generator=generator) < 0.05
    return torch.where(flip, 1 - x, x)


# The contract


BUILDS = [
    pytest.param((3,), False, id="one-layer"),
    pytest.param(LAYERS, False, id="two-layers"),
    pytest.param((4, 3, 3), False, id="three-layers"),
    pytest.param((3,), True, id="one-layer-autoregressive"),
    pytest.param(LAYERS, True, id="two-layers-autoregressive"),
]


@pytest.mark.parametrize(("layers", "autoregressive"), BUILDS)
def test_model_contract(layers, autoregressive):
    x = bars()

    def build():
        mean = x.mean(0)
        return (
            WithContext(SigmoidBeliefNet(X, layers, autoregressive, data_mean=mean)),
            WithContext(SigmoidBeliefGuide(X, layers, autoregressive, data_mean=mean)),
        )

    check_observing_and_simulating(build, x)
    check_conditioning(build, x)
    check_scaling(build, x)
    check_particles(build, x)
    check_copies(build, x)
    for objective in (Trace_ELBO, TraceGraph_ELBO):
        for local in (False, True):
            with pyro.settings.context(module_local_params=local):
                # Ten particles, since the gradient of a score function is noisy.
                many = objective(num_particles=10, vectorize_particles=True, max_plate_nesting=1)
                check_training(build, many, x)
                check_isolation(build, many, x)


@both_kinds
def test_predictive_draws_of_prior_and_posterior(autoregressive):
    model, guide = random_pair(autoregressive)
    x = bars(5).double()
    for parallel in (False, True):
        prior = Predictive(model, num_samples=7, parallel=parallel)(num=5)
        simulator = poutine.uncondition(model)
        sites = ("z1", "z2", "x")
        posterior = Predictive(simulator, guide=guide, num_samples=7, parallel=parallel, return_sites=sites)(x)
        for draws in (prior, posterior):
            assert draws["x"].shape == (7, 5, X)
            assert draws["z1"].shape == (7, 5, LAYERS[0])
            assert draws["z2"].shape == (7, 5, LAYERS[1])


def test_sites_are_named_from_the_data_up_and_drawn_from_the_top_down():
    trace = poutine.trace(SigmoidBeliefNet(X, (5, 3, 2))).get_trace(num=6)
    sites = {name: tuple(trace.nodes[name]["value"].shape) for name in trace.stochastic_nodes if name != "data"}
    assert list(sites.items()) == [("z3", (6, 2)), ("z2", (6, 3)), ("z1", (6, 5)), ("x", (6, 4))]


def test_one_datum_is_simulated_unless_told_otherwise():
    assert SigmoidBeliefNet(X, (3,))().shape == (1, X)


@pytest.mark.parametrize("autoregressive", [False, True])
def test_the_kind_of_every_site(autoregressive):
    trace = poutine.trace(SigmoidBeliefNet(X, (3, 3, 2), autoregressive)).get_trace(num=2)
    for name in ("z1", "z2", "z3", "x"):
        fn = trace.nodes[name]["fn"]
        assert isinstance(fn, AutoregressiveBernoulliDistribution) == autoregressive
        if not autoregressive:
            assert isinstance(fn.base_dist, dist.Bernoulli)
            assert fn.base_dist.logits.shape == trace.nodes[name]["value"].shape


# Exact answers


@both_kinds
def test_the_joint_of_all_vectors_is_the_enumerated_one_and_sums_to_one(autoregressive):
    model, _ = random_pair(autoregressive)
    tables = [all_bits(LAYERS[1]), all_bits(LAYERS[0]), all_bits(X)]
    rows = torch.cartesian_prod(*[torch.arange(len(table)) for table in tables])  # (512, 3)
    z2, z1, x = (table[rows[:, i]] for i, table in enumerate(tables))
    trace = poutine.trace(poutine.condition(model, {"z1": z1, "z2": z2})).get_trace(x)
    trace.compute_log_prob()
    log_joint = sum(trace.nodes[name]["log_prob"] for name in ("z1", "z2", "x"))
    torch.testing.assert_close(log_joint, exact_log_joint(model).flatten(), rtol=1e-10, atol=1e-10)
    assert log_joint.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert exact_log_evidence(model).exp().sum().item() == pytest.approx(1, abs=1e-12)


@both_kinds
def test_log_evidence_is_the_enumerated_one(autoregressive):
    """All 16 data, seed 0, K = 20,000, each within 5 standard errors, which are enumerated too."""
    num = 20_000
    model, guide = random_pair(autoregressive)
    log_p, log_q = exact_log_joint(model).detach(), exact_log_guide(guide).detach()
    expected = log_p.logsumexp((0, 1))
    second_moment = (2 * log_p - log_q).logsumexp((0, 1))  # of the weights
    error = (((second_moment - 2 * expected).exp() - 1) / num).sqrt()
    torch.manual_seed(0)
    evidence = log_evidence(model, guide, all_bits(X), num_particles=num)
    assert ((evidence.per_datum - expected).abs() < 5 * error).all()
    assert (error < 0.05).all()


@both_kinds
def test_simulated_vectors_have_the_enumerated_probabilities(autoregressive):
    """Seed 0, n = 100,000; the data and both layers, within 5 standard errors of every frequency."""
    num = 100_000
    model, _ = random_pair(autoregressive)
    torch.manual_seed(0)
    trace = poutine.trace(model).get_trace(num=num)
    joint = exact_log_joint(model).exp().detach()
    for name, others in (("x", (0, 1)), ("z1", (0, 2)), ("z2", (1, 2))):
        expected = joint.sum(others)
        counts = torch.bincount(row_of(trace.nodes[name]["value"]), minlength=len(expected))
        error = (expected * (1 - expected) / num).sqrt()
        assert ((counts / num - expected).abs() < 5 * error).all(), name


@both_kinds
def test_the_mean_bound_lies_below_the_evidence_by_the_divergence(autoregressive):
    """Seed 0, K = 20,000 draws: E[log w] = log p(x) - KL(q || p(z | x)), both enumerated, within 5 standard errors."""
    model, guide = random_pair(autoregressive)
    log_p, log_q = exact_log_joint(model), exact_log_guide(guide)
    weights = log_p - log_q
    mean = (log_q.exp() * weights).sum((0, 1))
    variance = (log_q.exp() * (weights - mean).square()).sum((0, 1))
    num = 20_000
    torch.manual_seed(0)
    with torch.no_grad():
        objective = Trace_ELBO(num_particles=num, vectorize_particles=True, max_plate_nesting=1)
        bound = -objective.loss(model, guide, all_bits(X))
    assert abs(bound - mean.sum().item()) < 5 * math.sqrt(variance.sum().item() / num)
    assert (mean < exact_log_evidence(model)).all()


@both_kinds
@pytest.mark.parametrize("objective", [ELBO, functools.partial(IWAE, 5)], ids=["elbo", "iwae-5"])
def test_training_raises_the_exact_likelihood(objective, autoregressive):
    """By more than half a nat per datum from the start, towards minus the entropy of the data, which it cannot pass."""
    torch.manual_seed(0)
    x = bars()
    frequency = torch.bincount(row_of(x), minlength=16) / len(x)
    model = SigmoidBeliefNet(X, LAYERS, autoregressive)
    guide = SigmoidBeliefGuide(X, LAYERS, autoregressive, data_mean=x.mean(0))

    def likelihood() -> float:
        return exact_log_evidence(model.double())[row_of(x)].mean().item()

    before = likelihood()
    model.float()
    svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.03), objective())
    for _ in range(300):
        svi.step(x)
    assert before + 0.5 < likelihood() < torch.special.entr(frequency).sum().neg().item()


# Start, dtype


@both_kinds
def test_the_visible_bias_starts_at_the_logit_of_the_clipped_mean(autoregressive):
    mean = torch.tensor([0.0, 0.25, 0.5, 1.0])
    bias = SigmoidBeliefNet(X, LAYERS, autoregressive, mean).likelihood.net.layers[-1].bias
    expected = torch.tensor([math.log(1e-3 / 0.999), math.log(1 / 3), 0.0, math.log(0.999 / 1e-3)])
    torch.testing.assert_close(bias.detach(), expected, rtol=1e-4, atol=1e-6)
    assert bias.requires_grad
    assert torch.equal(mean, torch.tensor([0.0, 0.25, 0.5, 1.0]))


@both_kinds
def test_it_computes_in_float64(autoregressive):
    model = SigmoidBeliefNet(X, LAYERS, autoregressive).double()
    guide = SigmoidBeliefGuide(X, LAYERS, autoregressive).double()
    x = model(num=5)
    assert x.dtype is torch.float64
    assert log_evidence(model, guide, x, num_particles=10).per_datum.dtype is torch.float64
    PyroSVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert all(parameter.grad.dtype is torch.float64 for parameter in model.parameters())


# What is refused


def test_sizes_are_positive():
    with refuses(ValueError, "features", "0"):
        SigmoidBeliefNet(0, (3,))
    with refuses(ValueError, "layers", "()"):
        SigmoidBeliefNet(X, ())
    with refuses(ValueError, "layers", "(3, -2)"):
        SigmoidBeliefNet(X, (3, -2))
    with refuses(ValueError, "layers", "200"):
        SigmoidBeliefNet(X, 200)


def test_the_mean_of_the_data_is_one():
    with refuses(ValueError, "data_mean", "(3,)"):
        SigmoidBeliefNet(X, (3,), data_mean=torch.zeros(3))
    with refuses(ValueError, "data_mean", "127"):
        SigmoidBeliefNet(X, (3,), data_mean=torch.full((X,), 127.0))
    with refuses(TypeError, "data_mean", "list"):
        SigmoidBeliefNet(X, (3,), data_mean=[0.5] * X)


@both_kinds
def test_bad_data_are_refused(autoregressive):
    model = SigmoidBeliefNet(X, LAYERS, autoregressive)
    x = bars(5)
    with refuses(ValueError, "(4,)", "x.unsqueeze(0)"):
        model(x[0])
    with refuses(ValueError, "(B, 4)", "(5, 3)"):
        model(x[:, :3])
    with refuses(ValueError, "(5, 1, 2, 2)", "x.flatten(1)"):
        model(x.reshape(5, 1, 2, 2))
    with refuses(ValueError, "at least one datum", "(0, 4)"):
        model(x[:0])
    with refuses(ValueError, "num", "0"):
        model(num=0)
    with refuses(TypeError, "list"):
        model(x.tolist())
    with pyro.validation_enabled(True):
        with refuses(ValueError, "0 and 1", "0.5", "binarize"):
            model(x * 0.5)
        with refuses(ValueError, "to 255", "x / 255"):
            model(x * 255)
        with refuses(TypeError, "torch.float64"):
            model(x.double())
        with refuses(TypeError, "torch.int64"):
            model(x.long())
        with refuses(ValueError, "NaN", "first: 1"):
            model(torch.where(torch.arange(5).unsqueeze(1) == 1, torch.nan, x))


def test_values_are_not_looked_at_when_validation_is_off():
    with pyro.validation_enabled(False):
        SigmoidBeliefNet(X, LAYERS)(bars(5) * 0.5)
