"""The guide with parameters for every datum: its contract, the truth where it is known, and what it refuses."""

import copy
import functools

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

from contracts import check_guide, check_model, refuses, tensors_of
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.evaluation import log_evidence
from pyro_dgm.guides import AmortizedGuide, PerDatumGuide
from pyro_dgm.infer import ELBO, NLL, SVI, ForwardKL, P, ReweightedWakeSleep, WakeSleep
from pyro_dgm.models import LatentVariableModel, LinearGaussian
from pyro_dgm.nn import MLP

B, N = 5, 12


def vae() -> tuple[LatentVariableModel, PerDatumGuide]:
    model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6, (8,), nn.Tanh)))
    return model, PerDatumGuide(B, z=2)


def rows() -> torch.Tensor:
    return torch.tensor([7, 0, 11, 3, 4])


GUIDES = [
    pytest.param(lambda: PerDatumGuide(B, z=2), id="diagonal"),
    pytest.param(lambda: PerDatumGuide(B, "full", z=3), id="full"),
    pytest.param(lambda: PerDatumGuide(B, size=2, family=1, names=3), id="three-latents"),
]


@pytest.mark.parametrize("build", GUIDES)
def test_guide_contract(build):
    check_guide(build, torch.randn(B, 6))
    check_guide(build, torch.randn(B, 6), torch.randn(B, 3))


def test_model_contract():
    check_model(vae, torch.bernoulli(torch.full((B, 6), 0.5)))


# Closed form


def linear_gaussian() -> tuple[LinearGaussian, torch.Tensor]:
    torch.manual_seed(0)
    model = LinearGaussian(2, 4).double().requires_grad_(False)
    model.log_scale.fill_(-0.3)
    return model, model(num=N)


def train(model, guide, x, num_steps):
    optimizer = functools.partial(torch.optim.Adam, lr=0.05)
    svi = SVI(model, guide, optimizer, ELBO(5, gradient="stl"), compile=False)
    for step in range(num_steps):
        svi.optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / num_steps)
        svi.step(x)


def test_it_reaches_the_evidence_of_every_datum_where_a_narrow_encoder_does_not():
    """Seed 0; with the path gradient the optimum has no noise, so that every weight comes to be p(x): within 1e-3."""
    model, x = linear_gaussian()
    guide = PerDatumGuide(N, "full", z=2).double()
    train(model, guide, x, 600)
    found = log_evidence(model, guide, x, num_particles=50)
    torch.testing.assert_close(found.per_datum, model.log_evidence(x), atol=1e-3, rtol=0.0)
    assert found.standard_error.max() < 1e-3
    narrow = AmortizedGuide(z=DiagonalNormal(MLP(4, 4, (1,), nn.Tanh))).double()
    train(model, narrow, x, 600)
    missing = model.log_evidence(x).sum() + ELBO(50).loss(model, narrow, x)
    assert missing > N * 0.1


def test_a_diagonal_one_reaches_the_best_diagonal_normal():
    """The mean is the posterior's, and so is each precision, the rest of the posterior's held fixed: within 0.05."""
    model, x = linear_gaussian()
    guide = PerDatumGuide(N, z=2).double()
    train(model, guide, x, 600)
    posterior = model.posterior(x)
    loc, log_scale = guide.sites.z.net.weight.detach().chunk(2, -1)
    precision = torch.linalg.inv(posterior.covariance_matrix)
    torch.testing.assert_close(loc, posterior.mean, atol=0.05, rtol=0.0)
    torch.testing.assert_close(log_scale, -precision.diagonal(dim1=-2, dim2=-1).log() / 2, atol=0.05, rtol=0.0)


# Rows


def test_it_starts_at_the_standard_normal_of_every_datum():
    for family in ("diagonal", "full"):
        q = PerDatumGuide(N, family, z=3).sites.z(torch.arange(N))
        torch.testing.assert_close(q.mean, torch.zeros(N, 3))
        torch.testing.assert_close(q.variance, torch.ones(N, 3))


def test_each_datum_has_the_parameters_of_its_row():
    guide = PerDatumGuide(N, z=2)
    table = guide.sites.z.net.weight
    assert isinstance(table, nn.Parameter)
    assert table.shape == (N, 4)
    with torch.no_grad():
        table.copy_(torch.randn(N, 4))
    for index in (rows(), rows().int(), rows().to(torch.uint8)):
        fn = poutine.trace(guide).get_trace(torch.zeros(B, 6), index=index).nodes["z"]["fn"]
        torch.testing.assert_close(fn.mean, table[rows(), :2])
        torch.testing.assert_close(fn.base_dist.scale, table[rows(), 2:].exp())
    everything = poutine.trace(guide).get_trace(torch.zeros(N, 6)).nodes["z"]["fn"]
    torch.testing.assert_close(everything.mean, table[:, :2])


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3, gradient="stl"), ELBO(analytic_kl=True), ForwardKL(3)])
def test_a_minibatch_gives_its_own_rows_a_gradient_and_no_other(objective):
    model, _ = vae()
    guide = PerDatumGuide(N, z=2)
    objective.differentiable_loss(model, guide, torch.ones(B, 6), index=rows(), data_size=N).backward()
    touched = guide.sites.z.net.weight.grad.ne(0).any(-1)
    assert touched.nonzero().flatten().tolist() == sorted(rows().tolist())


def test_a_minibatch_stands_for_all_data():
    """The gradient of a row is N / B times what it is in the whole data, at the same noise."""
    model, _ = vae()
    guide, x = PerDatumGuide(N, z=2), torch.bernoulli(torch.full((N, 6), 0.5))
    noise = torch.randn(N, 2)
    table = guide.sites.z.net.weight

    def gradient(index):
        guide.zero_grad()
        draws = {"z": table[index, :2] + table[index, 2:].exp() * noise[index]}
        fixed = poutine.trace(poutine.condition(guide, draws)).get_trace(x[index], index=index, data_size=N)
        replayed = poutine.trace(poutine.condition(model, draws)).get_trace(x[index], index=index, data_size=N)
        (fixed.log_prob_sum() - replayed.log_prob_sum()).backward()
        assert fixed.nodes["z"]["scale"] == replayed.nodes["x"]["scale"] == N / len(index)
        return table.grad.clone()

    whole, part = gradient(torch.arange(N)), gradient(rows())
    torch.testing.assert_close(part[rows()], N / B * whole[rows()])


def test_a_row_may_come_twice():
    guide = PerDatumGuide(N, z=2)
    draws = guide(torch.zeros(3, 6), index=torch.tensor([4, 4, 1]))["z"]
    assert not torch.equal(draws[0], draws[1])


def test_evidence_in_pieces_is_told_the_rows():
    model, x = linear_gaussian()
    guide = PerDatumGuide(N, "full", z=2).double()
    posterior = model.posterior(x)
    factor = torch.linalg.cholesky(posterior.covariance_matrix)
    parts = [posterior.mean, factor.diagonal(dim1=-2, dim2=-1).log(), factor[:, 1:, 0]]
    with torch.no_grad():
        guide.sites.z.net.weight.copy_(torch.cat(parts, -1))

    def indexed(x, index):
        return model(x)

    found = log_evidence(indexed, guide, x, num_particles=10, max_rows=30, index=torch.arange(N))
    torch.testing.assert_close(found.per_datum, model.log_evidence(x))
    with refuses(ValueError, "3 data of 12", "index="):
        log_evidence(indexed, lambda x, index: guide(x), x, num_particles=10, max_rows=30, index=torch.arange(N))


def test_it_is_there_before_its_first_call_and_can_be_copied():
    guide = PerDatumGuide(N, "full", z=3)
    assert [tuple(p.shape) for p in guide.parameters()] == [(N, 9)]
    model, _ = vae()
    other = PerDatumGuide(B, z=2)
    pyro.infer.SVI(model, other, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO()).step(torch.ones(B, 6))
    torch.testing.assert_close(tensors_of(copy.deepcopy(other)), tensors_of(other))
    fresh = PerDatumGuide(B, z=2)
    fresh.load_state_dict(other.state_dict())
    torch.testing.assert_close(tensors_of(fresh), tensors_of(other))
    assert guide.scores_any_point


# What is refused


@pytest.mark.parametrize(
    ("index", "error", "parts"),
    [
        (None, ValueError, ("5 data of 12 and no index", "index=")),
        ([1, 2, 3, 4, 5], TypeError, ("integers; got list", "torch.arange")),
        (torch.arange(5.0), TypeError, ("integers; got torch.float32",)),
        (torch.ones(5).bool(), TypeError, ("integers; got torch.bool",)),
        (torch.arange(4), ValueError, ("one row per datum", "(5,)", "(4,)")),
        (torch.arange(5).unsqueeze(0), ValueError, ("one row per datum", "(1, 5)")),
        (torch.tensor(3), ValueError, ("one row per datum", "()")),
        (torch.arange(8, 13), ValueError, ("0 to 11", "8 to 12")),
        (torch.arange(-1, 4), ValueError, ("0 to 11", "-1 to 3")),
    ],
)
def test_a_bad_index_is_refused(index, error, parts):
    guide = PerDatumGuide(N, z=2)
    with refuses(error, *parts):
        guide(torch.zeros(B, 6), index=index)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: PerDatumGuide(0, z=2), ("size", "got 0")),
        (lambda: PerDatumGuide(2.0, z=2), ("size", "got 2.0")),
        (lambda: PerDatumGuide(True, z=2), ("size", "got True")),
        (lambda: PerDatumGuide(N, z=0), ("latent 'z'", "got 0")),
        (lambda: PerDatumGuide(N), ("needs a latent", "none")),
        (lambda: PerDatumGuide(N, "planar", z=2), ("'diagonal', 'full'", "'planar'")),
        (lambda: PerDatumGuide(N, training=2), ("'training'", "Rename")),
    ],
)
def test_sizes_names_and_families_are_checked(make, parts):
    with refuses(ValueError, *parts):
        make()


def test_data_and_context_are_counted():
    guide = PerDatumGuide(B, z=2)
    with refuses(ValueError, "context must", "(4, 3)"):
        guide(torch.zeros(B, 6), torch.zeros(4, 3))
    with refuses(TypeError, "x must be a tensor", "list"):
        guide([1.0])


@pytest.mark.parametrize("objective", [NLL(of="guide", at=P), WakeSleep(), ReweightedWakeSleep(3, sleep_phi=1.0)])
def test_it_cannot_dream(objective):
    model, guide = vae()
    state = torch.get_rng_state()
    with refuses(ValueError, "simulated data", "PerDatumGuide"):
        objective.differentiable_loss(model, guide, torch.ones(B, 6))
    assert torch.equal(torch.get_rng_state(), state)
    ReweightedWakeSleep(3).differentiable_loss(model, guide, torch.ones(B, 6)).backward()
