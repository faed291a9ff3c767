"""Pyro's own guides, built from the model, under log_weights and the objectives."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
)

from contracts import refuses
from pyro_dgm.infer import ELBO, IWAE, log_weights

GUIDES = [
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
]
X = torch.tensor([0.3, -1.0, 2.5, 0.7])


def with_globals(x=X):
    """A positive global, a local latent per datum."""
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), scale), obs=x)


def one_datum(x=X):
    """No plate: all latents belong to the one datum."""
    loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
    pyro.sample(
        "x", dist.Normal(loc.sum(-1, keepdim=True).expand(*loc.shape[:-1], 4), scale[..., None]).to_event(1), obs=x
    )


@pytest.mark.parametrize("analytic_kl", [False, True])
@pytest.mark.parametrize("make", GUIDES)
def test_elbo_of_an_autoguide_equals_stock(make, analytic_kl):
    """One draw; where KLs are closed-form (AutoNormal's z only) the mean of 4000 draws, 5 standard errors, seed 0."""
    guide = make(with_globals)
    guide()
    objective = ELBO(analytic_kl=analytic_kl)
    torch.manual_seed(0)
    stock = Trace_ELBO().loss(with_globals, guide)
    torch.manual_seed(0)
    ours = float(objective.loss(with_globals, guide))
    if not (analytic_kl and make in (AutoNormal, AutoStructured)):
        assert math.isclose(ours, stock, rel_tol=1e-5)
        return
    sampled = torch.stack([ELBO().loss(with_globals, guide) for _ in range(500)])
    closed = torch.stack([objective.loss(with_globals, guide) for _ in range(500)])
    error = math.sqrt((sampled.var() + closed.var()) / 500)
    assert abs(sampled.mean() - closed.mean()) < 5 * error


@pytest.mark.parametrize("make", [g for g in GUIDES if g is not AutoStructured])
def test_a_whole_model_autoguide_gives_a_weight_per_particle(make):
    guide = make(one_datum)
    guide()
    weights = log_weights(one_datum, guide, num_particles=5)
    assert weights.local.shape == (5, 1)
    torch.manual_seed(0)
    vectorized = ELBO(5).loss(one_datum, guide)
    torch.manual_seed(0)
    stock = Trace_ELBO(5, vectorize_particles=True, max_plate_nesting=0).loss(one_datum, guide)
    assert math.isclose(float(vectorized), float(stock), rel_tol=1e-5)
    assert IWAE(5).loss(one_datum, guide).isfinite()


def test_iwae_of_an_autoguide_approaches_the_evidence(assert_mean):
    """For z ~ N(0, 1), x ~ N(z, 1) the mean weight against p(x); seed 0, K = 4000, 5 standard errors."""

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=torch.tensor([1.0, -0.5]).double())

    evidence = dist.Normal(torch.zeros(2), math.sqrt(2)).to_event(1).log_prob(torch.tensor([1.0, -0.5])).exp()
    for make in (AutoNormal, AutoMultivariateNormal, AutoIAFNormal):
        pyro.clear_param_store()
        torch.manual_seed(0)
        guide = make(model, init_scale=0.8) if make is not AutoIAFNormal else make(model)
        with pyro.validation_enabled(True):
            guide()
        guide.double()
        weights = log_weights(model, guide, num_particles=4000)
        assert_mean(weights.local.exp(), evidence)


@pytest.mark.parametrize("make", GUIDES)
def test_every_parameter_of_an_autoguide_gets_the_gradient_of_stock(make):
    guide = make(with_globals)
    guide()
    gradients = []
    for objective in (Trace_ELBO(), ELBO()):
        guide.zero_grad()
        torch.manual_seed(0)
        objective.loss_and_grads(with_globals, guide)
        gradients.append([parameter.grad.clone() for parameter in guide.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_iwae_refuses_an_autoguide_that_mixes_the_data():
    """Its one vector holds the latents of all data, so it gives no datum a weight of its own."""

    def local():
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=X)

    with refuses(ValueError, "_AutoDiagonalNormal_latent", "Use ELBO"):
        IWAE(3).loss(local, AutoDiagonalNormal(local))
    assert IWAE(3).loss(local, AutoNormal(local)).isfinite()


def test_an_autoguide_has_parameters_once_it_was_called():
    class Model(pyro.nn.PyroModule):
        def forward(self, x):
            with_globals(x)

    model = Model()
    loss = ELBO()(model, AutoNormal(model))
    loss(X).backward()
    assert len(list(loss.parameters())) == 4
    assert all(parameter.grad is not None for parameter in loss.parameters())
