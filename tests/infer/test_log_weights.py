import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO
from pyro.nn import PyroModule

from contracts import refuses
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, Normal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import IWAE, LogWeights, bounds, log_weights
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("num_particles", [1, 4])
def test_every_weight_is_the_evidence_when_the_guide_is_exact(exact, vectorize, num_particles):
    weights = log_weights(exact.model, exact.exact_guide, exact.x, num_particles=num_particles, vectorize=vectorize)
    truth = exact.log_evidence(exact.x).expand(num_particles, -1)
    torch.testing.assert_close(weights.local, truth, atol=1e-10, rtol=1e-10)
    assert weights.scale == 1
    assert not weights.global_log_p.any()
    assert not weights.global_log_q.any()


@pytest.mark.parametrize("num_particles", [1, 3])
def test_the_fields_have_a_row_per_particle_and_a_column_per_datum(exact, num_particles):
    weights = log_weights(exact.model, exact.wide_guide, exact.x, num_particles=num_particles)
    assert isinstance(weights, LogWeights)
    assert weights.log_p.shape == weights.log_q.shape == weights.local.shape == (num_particles, 7)
    assert weights.global_log_p.shape == weights.global_log_q.shape == (num_particles,)
    assert weights.log_p.dtype is torch.float64


def test_the_weights_of_a_draw_are_its_own_densities(exact):
    """Against densities computed by hand from the values in the trace."""
    torch.manual_seed(3)
    weights = log_weights(exact.model, exact.wide_guide, exact.x, num_particles=4)
    torch.manual_seed(3)
    z = dist.Normal(torch.zeros(4, 7, 2).double(), 1.0).sample()
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    mean = z @ exact.weight.T + exact.bias
    log_likelihood = torch.distributions.Normal(mean, exact.sigma).log_prob(exact.x).sum(-1)
    torch.testing.assert_close(weights.log_q, log_prior)
    torch.testing.assert_close(weights.log_p, log_prior + log_likelihood)


def test_a_subsampled_plate_stays_out_of_the_weights(exact):
    """Pitfall 1, with the exact guide, for which every bound is log p(x)."""
    x = exact.x[:5]
    weights = log_weights(exact.model, exact.exact_guide, x, data_size=1000, num_particles=8)
    truth = exact.log_evidence(x)
    assert weights.scale == 200
    torch.testing.assert_close(weights.local, truth.expand(8, -1), atol=1e-10, rtol=1e-10)
    loss = IWAE(num_particles=8).loss(exact.model, exact.exact_guide, x, data_size=1000)
    torch.testing.assert_close(-loss, 200 * truth.sum())


def test_stock_renyi_is_wrong_where_we_are_right(exact, assert_mean):
    """Pitfall 1 with an inexact guide: 10 of 1000 data, K = 5; seed 0, 200 draws, 5 standard errors."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1000, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(1000, 3, generator=generator, dtype=torch.float64)
    x = z @ exact.weight.T + exact.bias + exact.sigma * noise

    def guide(x, data_size=None):
        loc, covariance = exact.posterior(x)
        with pyro.plate("data", data_size or len(x), subsample=torch.arange(len(x))):
            pyro.sample("z", dist.MultivariateNormal(loc + 0.5, 1.5 * covariance))

    ours, stock = [], []
    renyi = RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    torch.manual_seed(0)
    for _ in range(200):
        rows = torch.randperm(1000)[:10]
        ours.append(-IWAE(5, max_plate_nesting=1).loss(exact.model, guide, x[rows], 1000))
        stock.append(-torch.as_tensor(renyi.loss(exact.model, guide, x[rows], 1000)))
    full = [-IWAE(5, max_plate_nesting=1).loss(exact.model, guide, x) for _ in range(20)]
    ours, truth = torch.stack(ours), torch.stack(full).mean()
    assert_mean(ours, truth)
    gap = torch.stack(stock).mean() - truth
    assert gap > 10 * ours.std() / math.sqrt(200)  # above the bound it says it is


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_mean_weight_of_a_discrete_latent_is_the_enumerated_evidence(assert_mean, vectorize):
    """Four components, seed 0, 400 particles, 5 standard errors."""
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    centres = torch.tensor([-2.0, 0.0, 1.0, 3.0]).double()
    x = torch.tensor([0.3, -1.0, 2.5]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(prior))
            pyro.sample("x", dist.Normal(centres[k], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(torch.full((len(x), 4), 0.25).double()))

    with torch.no_grad():
        weights = log_weights(model, guide, x, num_particles=400, vectorize=vectorize)
    evidence = (prior * dist.Normal(centres, 1.0).log_prob(x[:, None]).exp()).sum(-1)
    assert_mean(weights.local.exp(), evidence)


def test_the_posterior_of_an_enumerable_model_gives_the_evidence_exactly():
    prior = torch.tensor([0.1, 0.2, 0.7]).double()
    centres = torch.tensor([-2.0, 0.0, 3.0]).double()
    x = torch.tensor([0.3, -1.0, 2.5]).double()
    joint = prior.log() + dist.Normal(centres, 1.0).log_prob(x[:, None])

    def model():
        with pyro.plate("data", 3):
            k = pyro.sample("k", dist.Categorical(prior))
            pyro.sample("x", dist.Normal(centres[k], 1.0), obs=x)

    def guide():
        with pyro.plate("data", 3):
            pyro.sample("k", dist.Categorical(logits=joint))

    weights = log_weights(model, guide, num_particles=20)
    torch.testing.assert_close(weights.local, joint.logsumexp(-1).expand(20, -1))


def test_vectorised_and_sequential_particles_agree_in_distribution(exact, assert_mean):
    """Seed 0, 2000 particles each, 5 standard errors of the difference; weights are positive, so on the log scale."""
    torch.manual_seed(0)
    kwargs = {"num_particles": 2000, "max_plate_nesting": 1}
    side_by_side = log_weights(exact.model, exact.wide_guide, exact.x, **kwargs).local
    in_turn = log_weights(exact.model, exact.wide_guide, exact.x, vectorize=False, **kwargs).local
    assert_mean(side_by_side - in_turn, 0.0)


def test_programs_may_be_modules_bound_methods_or_functions(exact):
    class Programs(PyroModule):
        def model(self, x):
            exact.model(x)

        def guide(self, x):
            exact.exact_guide(x)

    class Model(PyroModule):
        def forward(self, x):
            exact.model(x)

    programs = Programs()
    truth = exact.log_evidence(exact.x).expand(3, -1)
    for model, guide in ((programs.model, programs.guide), (Model(), exact.exact_guide)):
        torch.testing.assert_close(log_weights(model, guide, exact.x, num_particles=3).local, truth)


def test_our_model_and_guide_weigh_like_the_closed_form(exact):
    likelihood = Normal(MLP(2, 3, hidden_features=()).double(), scale=exact.sigma).double()
    model = LatentVariableModel(StandardNormal(2).double(), likelihood)
    guide = AmortizedGuide(z=DiagonalNormal(MLP(3, 4, hidden_features=()).double()))
    with torch.no_grad():
        layer = likelihood.net.layers[0]
        layer.weight.copy_(torch.eye(3, 2))
        layer.bias.zero_()
        precision = 1 + 1 / exact.sigma**2
        encoder = guide.sites.z.net.layers[0]
        encoder.weight.zero_()
        encoder.weight[:2].copy_(torch.eye(2, 3) / exact.sigma**2 / precision)
        encoder.bias.copy_(torch.tensor([0, 0, -math.log(precision) / 2, -math.log(precision) / 2]))
    variance = torch.tensor([1.0, 1.0, 0.0]).double() + exact.sigma**2
    truth = dist.Normal(torch.zeros(3).double(), variance.sqrt()).log_prob(exact.x).sum(-1)
    for size in (None, 700):
        weights = log_weights(model, guide, exact.x, num_particles=5, data_size=size)
        torch.testing.assert_close(
            weights.local, truth.expand(5, -1), atol=1e-6, rtol=1e-6
        )  # sigma is a float32 buffer
        assert weights.scale == (100 if size else 1)


def test_networks_that_know_one_batch_dimension_work_in_turn():
    """Pitfall 12: K on the left gives a user's network one dimension too many; ours take it."""

    class Fussy(torch.nn.Linear):
        def forward(self, z):
            assert z.dim() == 2
            return super().forward(z)

    x = torch.rand(4, 6).bernoulli()
    guide = AmortizedGuide(z=DiagonalNormal(MLP(6, 4)))
    fussy = LatentVariableModel(StandardNormal(2), Bernoulli(Fussy(2, 6)))
    assert log_weights(fussy, guide, x, num_particles=3, vectorize=False).local.shape == (3, 4)
    with pytest.raises(AssertionError):
        log_weights(fussy, guide, x, num_particles=3)
    ours = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6)))
    assert log_weights(ours, guide, x, num_particles=3).local.shape == (3, 4)


def test_iwae_of_the_weights_rises_with_particles_and_stays_below_the_evidence(exact):
    """Seed 0, 4000 weights in groups of K = 1, 5, 50; means within 5 standard errors of the order they must have."""
    torch.manual_seed(0)
    weights = log_weights(exact.model, exact.wide_guide, exact.x, num_particles=4000).local
    truth = exact.log_evidence(exact.x).sum()
    last = None
    for k in (1, 5, 50):
        groups = torch.stack([bounds.iwae(group).sum() for group in weights.split(k)])
        mean, error = groups.mean(), groups.std() / math.sqrt(len(groups))
        assert mean - 5 * error < truth
        assert last is None or mean > last
        last = mean


@pytest.mark.parametrize(("bad", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError)])
def test_num_particles_must_be_a_positive_integer(exact, bad, error):
    with refuses(error, "num_particles", str(bad)):
        log_weights(exact.model, exact.exact_guide, exact.x, num_particles=bad)
