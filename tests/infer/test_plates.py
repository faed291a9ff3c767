"""Weights of programs whose plates, masks and scales are arranged in every way Pyro allows."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from contracts import refuses
from pyro_dgm.infer import ELBO, IWAE, log_weights

X = torch.tensor([0.3, -1.0, 2.5, 0.7], dtype=torch.float64)
MARGINAL = dist.Normal(torch.tensor(0.0).double(), math.sqrt(2))


def posterior(x):
    return dist.Normal(x / 2, math.sqrt(0.5))


def prior():
    return dist.Normal(torch.tensor(0.0).double(), 1.0)


def conjugate(x, size=None, name="data", dim=None):
    """For z ~ N(0, 1), x ~ N(z, 1): model and exact guide, inside one plate."""

    def model():
        with pyro.plate(name, size or len(x), subsample=torch.arange(len(x)), dim=dim):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide():
        with pyro.plate(name, size or len(x), subsample=torch.arange(len(x)), dim=dim):
            pyro.sample("z", posterior(x))

    return model, guide


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("name", ["data", "rows"])
def test_the_data_plate_may_have_any_name(name, vectorize):
    weights = log_weights(*conjugate(X, name=name), num_particles=3, vectorize=vectorize)
    torch.testing.assert_close(weights.local, MARGINAL.log_prob(X).expand(3, -1))


def test_the_data_plate_may_stand_on_any_dimension():
    x = X.unsqueeze(-1).unsqueeze(-1)
    weights = log_weights(*conjugate(x, dim=-3), num_particles=3)
    torch.testing.assert_close(weights.local, MARGINAL.log_prob(X).expand(3, -1))


@pytest.mark.parametrize("data_dim", [-1, -2])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_an_inner_plate_is_summed_into_its_datum(data_dim, num_particles):
    """Data outside or inside of a plate of four measurements, each with its own latent."""
    x = torch.randn(5, 4, dtype=torch.float64)
    observed = x if data_dim == -2 else x.T
    plates = {"data": (5, data_dim), "inner": (4, -3 - data_dim)}

    def within(names):
        return [pyro.plate(name, plates[name][0], dim=plates[name][1]) for name in names]

    def model():
        first, second = within(["data", "inner"])
        with first, second:
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, 1.0), obs=observed)

    def guide():
        second, first = within(["inner", "data"])
        with second, first:
            pyro.sample("z", posterior(observed))

    weights = log_weights(model, guide, num_particles=num_particles)
    torch.testing.assert_close(weights.local, MARGINAL.log_prob(x).sum(-1).expand(num_particles, -1))


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_latent_per_datum_with_measurements_in_an_inner_plate(vectorize):
    x = torch.randn(5, 4, dtype=torch.float64)

    def model():
        with pyro.plate("data", 5, dim=-2):
            z = pyro.sample("z", prior())
            with pyro.plate("inner", 4, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide():
        with pyro.plate("data", 5, dim=-2):
            pyro.sample("z", dist.Normal(x.sum(-1, keepdim=True) / 5, math.sqrt(1 / 5)))

    covariance = torch.eye(4).double() + 1
    truth = torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(x)
    weights = log_weights(model, guide, num_particles=3, vectorize=vectorize)
    torch.testing.assert_close(weights.local, truth.expand(3, -1))


def test_the_outermost_plate_is_the_data_when_none_has_the_name():
    x = torch.randn(5, 4, dtype=torch.float64)

    def model():
        with pyro.plate("groups", 5, dim=-2), pyro.plate("members", 4, dim=-1):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide():
        with pyro.plate("groups", 5, dim=-2), pyro.plate("members", 4, dim=-1):
            pyro.sample("z", posterior(x))

    weights = log_weights(model, guide, num_particles=2)
    torch.testing.assert_close(weights.local, MARGINAL.log_prob(x).sum(-1).expand(2, -1))


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_plate_that_subsamples_at_random_draws_one_subsample_for_all(vectorize):
    """Model, guide and every particle see the same rows; over many draws the bound is unbiased."""
    x = torch.linspace(-2, 2, 20, dtype=torch.float64)

    def model():
        with pyro.plate("data", 20, subsample_size=5) as rows:
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide():
        with pyro.plate("data", 20, subsample_size=5) as rows:
            pyro.sample("z", posterior(x[rows]))

    weights = log_weights(model, guide, num_particles=3, vectorize=vectorize)
    evidence = MARGINAL.log_prob(x)
    assert weights.scale == 4
    torch.testing.assert_close(weights.local, weights.local[:1].expand(3, -1))
    assert torch.isclose(weights.local[0][:, None], evidence).any(-1).all()
    for objective in (ELBO, IWAE):
        loss = objective(3, vectorize_particles=vectorize).loss(model, guide)
        assert (
            min(abs(float(loss) + 4 * evidence[rows].sum()) for rows in torch.combinations(torch.arange(20), 5)) < 1e-8
        )


def test_random_subsamples_are_unbiased_for_the_full_bound(assert_mean):
    """Seed 0, 1000 subsamples of 5 rows of 20, K = 2, 5 standard errors."""
    x = torch.linspace(-2, 2, 20, dtype=torch.float64)

    def model():
        with pyro.plate("data", 20, subsample_size=5) as rows:
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide():
        with pyro.plate("data", 20, subsample_size=5) as rows:
            pyro.sample("z", posterior(x[rows]))

    torch.manual_seed(0)
    objective = IWAE(2, max_plate_nesting=1)
    assert_mean(torch.stack([-objective.loss(model, guide) for _ in range(1000)]), MARGINAL.log_prob(x).sum())


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_loop_over_a_plate_is_one_datum(vectorize):
    def model():
        for i in pyro.plate("data", 4):
            z = pyro.sample(f"z{i}", prior())
            pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=X[i])

    def guide():
        for i in pyro.plate("data", 4):
            pyro.sample(f"z{i}", posterior(X[i]))

    weights = log_weights(model, guide, num_particles=3, vectorize=vectorize)
    torch.testing.assert_close(weights.local, MARGINAL.log_prob(X).sum().expand(3, 1))


def test_a_subsampled_loop_is_right_under_elbo_and_refused_by_iwae():
    def model():
        for i in pyro.plate("data", 40, subsample=torch.arange(4)):
            z = pyro.sample(f"z{i}", prior())
            pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=X[i])

    def guide():
        for i in pyro.plate("data", 40, subsample=torch.arange(4)):
            pyro.sample(f"z{i}", posterior(X[i]))

    torch.testing.assert_close(-ELBO(3).loss(model, guide), 10 * MARGINAL.log_prob(X).sum())
    with refuses(ValueError, "['data']", "ELBO"):
        IWAE(3).loss(model, guide)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_a_program_without_plates_is_one_datum(num_particles):
    def model():
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(z, 1.0), obs=X[0])

    weights = log_weights(model, lambda: pyro.sample("z", posterior(X[0])), num_particles=num_particles)
    torch.testing.assert_close(weights.local, MARGINAL.log_prob(X[:1]).expand(num_particles, 1))


def test_several_latents_some_of_them_vectors():
    """With a ~ N(0, 1), b ~ N(a, I) in two dimensions, x ~ N(b, I): guide top-down and exact."""
    x = torch.randn(5, 2, dtype=torch.float64)

    def model():
        with pyro.plate("data", 5):
            a = pyro.sample("a", prior())
            b = pyro.sample("b", dist.Normal(a.unsqueeze(-1).expand(*a.shape, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(b, 1.0).to_event(1), obs=x)

    def guide():
        with pyro.plate("data", 5):
            a = pyro.sample("a", dist.Normal(x.sum(-1) / 4, math.sqrt(1 / 2)))
            pyro.sample("b", dist.Normal((a.unsqueeze(-1) + x) / 2, math.sqrt(1 / 2)).to_event(1))

    covariance = 1 + 2 * torch.eye(2).double()
    truth = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance).log_prob(x)
    torch.testing.assert_close(log_weights(model, guide, num_particles=3).local, truth.expand(3, -1))


def test_a_time_loop_gives_the_evidence_of_the_random_walk():
    """z_t ~ N(z_{t-1}, 1), x_t ~ N(z_t, 1), guided by its exact posterior, forwards."""
    x = torch.randn(5, 3, dtype=torch.float64)
    walk = torch.tril(torch.ones(3, 3)).double()
    covariance = walk @ walk.T  # of z
    precision = covariance.inverse() + torch.eye(3).double()
    chol = torch.linalg.cholesky(precision.inverse())
    loc = x @ precision.inverse()

    def model():
        with pyro.plate("data", 5):
            z = torch.zeros((), dtype=torch.float64)
            for t in pyro.markov(range(3)):
                z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0))
                pyro.sample(f"x_{t}", dist.Normal(z, 1.0), obs=x[:, t])

    def guide():
        with pyro.plate("data", 5):
            noise = []
            for t in pyro.markov(range(3)):
                shift = sum((chol[t, s] * e for s, e in enumerate(noise)), start=loc[:, t])
                z = pyro.sample(f"z_{t}", dist.Normal(shift, chol[t, t]))
                noise.append((z - shift) / chol[t, t])

    truth = torch.distributions.MultivariateNormal(
        torch.zeros(3).double(), covariance + torch.eye(3).double()
    ).log_prob(x)
    for vectorize in (True, False):
        weights = log_weights(model, guide, num_particles=3, vectorize=vectorize)
        torch.testing.assert_close(weights.local, truth.expand(3, -1))


@pytest.mark.parametrize("num_particles", [1, 3])
def test_padding_is_masked_out(num_particles):
    """Sequences of 1 to 4 steps, padded with rubbish; the evidence is that of the steps there are."""
    lengths = torch.tensor([1, 4, 2])
    x = torch.randn(3, 4, dtype=torch.float64)
    mask = torch.arange(4) < lengths[:, None]
    padded = torch.where(mask, x, 1e6)

    def model():
        with pyro.plate("data", 3, dim=-2), pyro.plate("time", 4, dim=-1), poutine.mask(mask=mask):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, 1.0), obs=padded)

    def guide():
        with pyro.plate("data", 3, dim=-2), pyro.plate("time", 4, dim=-1), poutine.mask(mask=mask):
            pyro.sample("z", posterior(padded))

    truth = (MARGINAL.log_prob(x) * mask).sum(-1)
    weights = log_weights(model, guide, num_particles=num_particles)
    torch.testing.assert_close(weights.local, truth.expand(num_particles, -1))


@pytest.mark.parametrize("mask", [True, False, torch.tensor([True, False, True, False])])
def test_a_mask_in_a_time_loop_broadcasts_over_particles(mask):
    model, guide = conjugate(X)
    weights = log_weights(poutine.mask(model, mask=mask), poutine.mask(guide, mask=mask), num_particles=3)
    truth = MARGINAL.log_prob(X) * torch.as_tensor(mask)
    torch.testing.assert_close(weights.local, truth.expand(3, -1))


@pytest.mark.parametrize("scale", [0.25, torch.tensor(0.25).double(), torch.tensor([0.5, 1.0, 2.0, 0.1]).double()])
def test_a_scale_of_the_programs_acts_on_the_weights_and_the_plates_does_not(scale):
    model, guide = conjugate(X, size=40)
    weights = log_weights(poutine.scale(model, scale=scale), poutine.scale(guide, scale=scale), num_particles=3)
    assert weights.scale == 10
    torch.testing.assert_close(weights.local, (scale * MARGINAL.log_prob(X)).expand(3, -1))


def test_a_factor_counts_and_a_deterministic_site_does_not():
    def model():
        pyro.deterministic("constant", torch.ones(3))
        with pyro.plate("data", 4):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, 1.0), obs=X)
            pyro.factor("bonus", torch.arange(4.0).double())
            pyro.deterministic("row", X**2, event_dim=0)

    weights = log_weights(model, conjugate(X)[1], num_particles=3)
    torch.testing.assert_close(weights.local, (MARGINAL.log_prob(X) + torch.arange(4)).expand(3, -1))


def test_a_likelihood_may_be_written_as_a_factor():
    def model():
        with pyro.plate("data", 4):
            z = pyro.sample("z", prior())
            pyro.factor("likelihood", dist.Normal(z, 1.0).log_prob(X))

    weights = log_weights(model, conjugate(X)[1], num_particles=3)
    torch.testing.assert_close(weights.local, MARGINAL.log_prob(X).expand(3, -1))


def test_a_likelihood_that_ignores_the_latent_counts_once_per_particle():
    def model():
        with pyro.plate("data", 4):
            pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(torch.zeros(4).double(), 1.0), obs=X)

    def guide():
        with pyro.plate("data", 4):
            pyro.sample("z", prior())

    truth = prior().log_prob(X)
    torch.testing.assert_close(log_weights(model, guide, num_particles=3).local, truth.expand(3, -1))


def test_a_latent_that_both_share_broadcasts_over_data():
    """The guide gives one unbatched distribution, which the plate expands."""

    def model():
        with pyro.plate("data", 4):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, 1.0), obs=X)

    def guide():
        with pyro.plate("data", 4):
            pyro.sample("z", prior())

    torch.manual_seed(0)
    weights = log_weights(model, guide, num_particles=2)
    torch.manual_seed(0)
    z = prior().expand([2, 4]).sample()
    torch.testing.assert_close(weights.local, dist.Normal(z, 1.0).log_prob(X))


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("size", [4, 40])
def test_globals_have_their_own_fields_and_no_scale(num_particles, size):
    """A beta ~ N(0, 1) beside x_i ~ N(beta, 1), and local z_i with an exact guide given beta."""

    def model():
        beta = pyro.sample("beta", prior())
        with pyro.plate("data", size, subsample=torch.arange(4)):
            z = pyro.sample("z", dist.Normal(beta, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=X)

    def guide():
        beta = pyro.sample("beta", dist.Normal(X.mean(), 0.5))
        with pyro.plate("data", size, subsample=torch.arange(4)):
            pyro.sample("z", dist.Normal((beta + X) / 2, math.sqrt(0.5)))

    torch.manual_seed(0)
    weights = log_weights(model, guide, num_particles=num_particles)
    torch.manual_seed(0)
    shape = [num_particles, 1] if num_particles > 1 else []
    beta = dist.Normal(X.mean(), 0.5).expand(shape).sample().reshape(num_particles, 1)
    torch.testing.assert_close(weights.global_log_p, prior().log_prob(beta).squeeze(-1))
    torch.testing.assert_close(weights.global_log_q, dist.Normal(X.mean(), 0.5).log_prob(beta).squeeze(-1))
    torch.testing.assert_close(weights.local, dist.Normal(beta, math.sqrt(2)).log_prob(X))
    assert weights.scale == size / 4


@pytest.mark.parametrize("vectorize", [True, False])
def test_elbo_with_globals_inner_plates_and_scales_equals_stock(vectorize):
    """Every kind of site at once, the same seed, K = 1 and K = 4."""
    x = torch.randn(4, 3, dtype=torch.float64)
    mask = torch.rand(4, 3) < 0.7

    def model():
        beta = pyro.sample("beta", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        with pyro.plate("components", 3, dim=-1):
            gamma = pyro.sample("gamma", prior())
        with pyro.plate("data", 40, subsample=torch.arange(4), dim=-2):
            z = pyro.sample("z", dist.Normal(beta[..., 0], 1.0))
            pyro.factor("bonus", z)
            with pyro.plate("inner", 9, subsample=torch.arange(3), dim=-1), poutine.mask(mask=mask):
                w = pyro.sample("w", dist.Normal(z + gamma, 1.0))
                with poutine.scale(scale=0.3):
                    pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide():
        pyro.sample("beta", dist.Normal(torch.ones(2).double(), 0.5).to_event(1))
        with pyro.plate("components", 3, dim=-1):
            pyro.sample("gamma", prior())
        with pyro.plate("data", 40, subsample=torch.arange(4), dim=-2):
            pyro.sample("z", dist.Normal(x.sum(-1, keepdim=True) / 2, 1.0))
            with pyro.plate("inner", 9, subsample=torch.arange(3), dim=-1), poutine.mask(mask=mask):
                pyro.sample("w", dist.Normal(x, 0.5))

    for k in (1, 4):
        stock = Trace_ELBO(k, vectorize_particles=vectorize and k > 1, max_plate_nesting=2)
        ours = ELBO(k, vectorize_particles=vectorize, max_plate_nesting=2)
        torch.manual_seed(0)
        expected = stock.loss(model, guide)
        torch.manual_seed(0)
        assert math.isclose(float(ours.loss(model, guide)), expected, rel_tol=1e-9)


def test_an_observation_outside_the_data_plate_is_global():
    model, guide = conjugate(X, size=40)

    def with_global():
        pyro.sample("y", prior(), obs=torch.tensor(0.0).double())
        model()

    weights = log_weights(with_global, guide, num_particles=3)
    assert weights.local.shape == (3, 4)
    torch.testing.assert_close(weights.global_log_p, prior().log_prob(torch.tensor(0.0)).expand(3))
    truth = 10 * MARGINAL.log_prob(X).sum() + prior().log_prob(torch.tensor(0.0))
    torch.testing.assert_close(-ELBO(3).loss(with_global, guide), truth)


def test_missing_values_through_obs_mask():
    observed = torch.tensor([True, False, True, True])

    def model():
        with pyro.plate("data", 4):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, 1.0), obs=X, obs_mask=observed)

    def guide():
        with pyro.plate("data", 4):
            z = pyro.sample("z", posterior(X))
            pyro.sample("x_unobserved", dist.Normal(z, 1.0).mask(~observed))

    weights = log_weights(model, guide, num_particles=3).local
    torch.testing.assert_close(weights[:, observed], MARGINAL.log_prob(X[observed]).expand(3, -1))


def test_latents_that_are_replayed_count_once_per_particle():
    """A handler that fixes values keeps Pyro from giving them the particles' dimension."""
    model, guide = conjugate(X)
    fixed = poutine.trace(guide).get_trace()
    weights = log_weights(poutine.replay(model, trace=fixed), poutine.replay(guide, trace=fixed), num_particles=3)
    torch.testing.assert_close(weights.local, MARGINAL.log_prob(X).expand(3, -1))
    torch.testing.assert_close(weights.log_q, posterior(X).log_prob(fixed.nodes["z"]["value"]).expand(3, -1))
