"""Programs that do not fit together: what each is told, and that nothing has moved by then."""

import functools

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro import poutine
from torch import nn

from contracts import refuses
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO, IWAE, SVI, log_weights
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

X = torch.tensor([0.3, -1.0, 2.5, 0.7])


def model(x=X, size=None):
    loc = pyro.param("loc", torch.tensor(0.5))
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x=X, size=None):
    slope = pyro.param("slope", torch.tensor(0.5))
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Normal(slope * x, 1.0))


def check_refused(model, guide, *parts, weights=True):
    """SVI of ours and of Pyro's, with and without particles, and log_weights; the parameters stay as they were."""
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    for objective in (ELBO(), IWAE(3)):
        with refuses(ValueError, *parts):
            SVI(model, guide, sgd, objective).step()
        with refuses(ValueError, *parts):
            pyro.infer.SVI(model, guide, pyro.optim.SGD({"lr": 0.1}), objective).step()
    if weights:
        with refuses(ValueError, *parts):
            log_weights(model, guide)
    assert all(value == 0.5 for value in pyro.get_param_store().values())


def test_the_two_fit():
    assert ELBO().loss(model, guide).isfinite()


def test_a_latent_missing_in_the_guide():
    def more():
        model()
        pyro.sample("beta", dist.Normal(0.0, 1.0))

    check_refused(more, guide, "['beta']", "pyro.sample('beta', ...)")


def test_an_extra_guide_site():
    def more():
        guide()
        pyro.sample("beta", dist.Normal(0.0, 1.0))

    check_refused(model, more, "['beta']", "is_auxiliary")


def test_a_guide_site_for_the_data():
    def more():
        guide()
        pyro.sample("x", dist.Normal(0.0, 1.0))

    check_refused(model, more, "['x']")


def test_a_forgotten_obs():
    def forgot():
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal(loc, 1.0))

    check_refused(forgot, guide, "must observe", "['z']", "obs=")


def test_a_forgotten_obs_of_a_site_the_guide_lacks():
    check_refused(poutine.uncondition(model), guide, "['x']", "obs=")


def test_a_deterministic_site_is_no_observation():
    def forgot():
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.deterministic("x", z)

    check_refused(forgot, guide, "must observe")


def test_a_deterministic_guide_site_is_welcome():
    def more():
        guide()
        pyro.deterministic("slope_seen", pyro.param("slope"))

    assert ELBO().loss_and_grads(model, more).isfinite()


def test_auxiliary_guide_sites_and_guide_factors_are_welcome():
    def more():
        guide()
        pyro.sample("noise", dist.Normal(pyro.param("slope"), 1.0), infer={"is_auxiliary": True})
        pyro.factor("jacobian", pyro.param("slope"), has_rsample=True)

    assert ELBO().loss_and_grads(model, more).isfinite()
    torch.manual_seed(0)
    ours = float(ELBO().loss(model, more))
    torch.manual_seed(0)
    assert ours == pytest.approx(pyro.infer.Trace_ELBO().loss(model, more))


def test_a_discrete_guide_for_a_continuous_latent():
    def discrete():
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Poisson(slope))

    check_refused(model, discrete, "'z'", "Normal", "Poisson")


def test_a_continuous_guide_for_a_discrete_latent():
    def discrete():
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Bernoulli(loc))
            pyro.sample("x", dist.Normal(z, 1.0), obs=X)

    check_refused(discrete, guide, "'z'", "Normal", "Bernoulli")


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: d.mask(torch.ones(4).bool())], ids=["plain", "masked"])
def test_a_discrete_latent_has_no_reparameterised_gradient(wrap):
    def discrete():
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", 4):
            z = pyro.sample("z", wrap(dist.Bernoulli(loc)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=X)

    def its_guide():
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", 4):
            pyro.sample("z", wrap(dist.Bernoulli(slope)))

    for estimator in ("reparam", "stl", "dreg"):
        with refuses(ValueError, "'z'", "Bernoulli", "'loo' with several particles"):
            ELBO(gradient=estimator).loss_and_grads(discrete, its_guide)
    ELBO().loss_and_grads(discrete, its_guide)
    assert pyro.param("slope").unconstrained().grad.abs() > 0
    assert ELBO(3).loss(discrete, its_guide).isfinite()
    assert IWAE(3).loss(discrete, its_guide).isfinite()
    assert log_weights(discrete, its_guide).local.shape == (1, 4)


def test_a_detached_guide():
    def detached():
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal((slope * X).detach(), 1.0))

    check_refused(model, detached, "['z']", "detach()", weights=False)
    assert ELBO().loss(model, detached).isfinite()


def test_a_partly_detached_guide():
    def two():
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            w = pyro.sample("w", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(w, 1.0), obs=X)

    def partly(slope):
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal(slope * X, 1.0))
            pyro.sample("w", dist.Normal((slope * X).detach(), 1.0))

    check_refused(two, lambda: partly(pyro.param("slope", torch.tensor(0.5))), "['w']", "detach()", weights=False)
    closure = nn.Parameter(torch.tensor(0.5))
    with refuses(ValueError, "['w']"):
        ELBO().differentiable_loss(two, lambda: partly(closure))


class Halves(nn.Module):
    """Encoder and decoder in one module; its programs are methods."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(2, 2), nn.Linear(2, 2)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))

    def detached_guide(self, x):
        with torch.no_grad():
            self.guide(x)


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store because requires_grad=False")
def test_a_frozen_guide_is_left_alone():
    model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6)))
    guide = AmortizedGuide(z=DiagonalNormal(MLP(6, 4))).requires_grad_(False)
    x = torch.rand(4, 6).round()
    for objective in (ELBO(), ELBO(analytic_kl=True), IWAE(3)):
        objective.loss_and_grads(model, guide, x)
    assert all(parameter.grad is not None for parameter in model.parameters())
    halves = Halves()
    halves.encoder.requires_grad_(False)
    ELBO().loss_and_grads(halves.model, halves.guide, torch.randn(4, 2))
    assert halves.decoder.weight.grad is not None
    assert halves.encoder.weight.grad is None


def test_a_detached_method_of_a_shared_module():
    halves = Halves()
    with refuses(ValueError, "['z']", "detach()"):
        ELBO().loss_and_grads(halves.model, halves.detached_guide, torch.randn(4, 2))


def test_a_detached_encoder_module():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(1, 1)

        def forward(self):
            with pyro.plate("data", 4):
                pyro.sample("z", dist.Normal(self.encoder(X[:, None])[:, 0].detach(), 1.0))

    with refuses(ValueError, "['z']", "detach()"):
        ELBO().differentiable_loss(model, Detached())


def test_sizes_of_the_data_plate_that_differ():
    check_refused(lambda: model(size=40), guide, "'z'", "10", "1", "data_size")
    check_refused(model, lambda: guide(size=40), "'z'", "10", "data_size")


def test_sizes_of_an_inner_plate_that_differ():
    def nested(latent, size):
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", 4, dim=-2), pyro.plate("inner", size, subsample=torch.arange(3), dim=-1):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            if latent:
                pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(4, 3))

    check_refused(lambda: nested(True, 30), lambda: nested(False, 3), "'z'", "10")


def test_batches_of_different_sizes():
    check_refused(model, lambda: guide(X[:3]), "3", "4")


@pytest.mark.parametrize("where", ["model", "guide"])
def test_a_latent_outside_the_plate_in_one_program(where):
    def outside_model():
        z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))
        with pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(z, 1.0), obs=X)

    def outside_guide():
        pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.5)), 1.0))

    programs = (outside_model, guide) if where == "model" else (model, outside_guide)
    check_refused(*programs, "'z'", "same plates", "['data']", "[]")


def test_a_latent_without_the_inner_plate_in_the_guide():
    def nested():
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", 4, dim=-2), pyro.plate("inner", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(4, 3))

    def flat():
        with pyro.plate("data", 4, dim=-2):
            pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.5)), 1.0))

    check_refused(nested, flat, "'z'", "4, 3)", "4, 1)", "plates")


def test_another_event_shape():
    def vector(name, features):
        with pyro.plate("data", 4):
            loc = pyro.param(name, torch.tensor(0.5)).expand(4, features)
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            if name == "loc":
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=X)

    check_refused(lambda: vector("loc", 3), lambda: vector("slope", 2), "'z'", "(3,)", "(2,)")


def test_a_plate_of_the_model_that_is_an_event_of_the_guide():
    """As in stock Pyro; with several particles the two would broadcast against each other."""

    def mixture():
        with pyro.plate("components", 3):
            means = pyro.sample("means", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))
        with pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(means.sum(), 1.0), obs=X)

    def joint():
        pyro.sample("means", dist.Normal(pyro.param("slope", torch.tensor(0.5)).expand(3), 1.0).to_event(1))

    for k in (1, 3):
        with refuses(ValueError, "'means'", "(3,)", "()"):
            ELBO(k).loss(mixture, joint)


@pytest.mark.parametrize("shape", [(1,), (), (3,)])
def test_an_observation_with_another_number_of_rows(shape):
    def short():
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(shape))

    check_refused(short, guide, "'x'", "4 rows", str(shape))


def test_a_vector_observation_with_one_row():
    def short():
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).expand([*z.shape, 5]).to_event(1), obs=torch.zeros(1, 5))

    check_refused(short, guide, "'x'", "4 rows", "(1, 5)")


@pytest.mark.parametrize("rows", [4, 5])
def test_a_column_taken_for_a_batch(rows):
    """Observations (B, 1) or (C, B) against a distribution of batch shape (B,) would be counted for every pair."""

    def column():
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(rows, 4))

    check_refused(column, guide, "'x'", f"({rows}, 4)", "to_event")


def test_a_square_of_data_whose_features_are_no_event():
    """B = D, so that Pyro's plate sees nothing wrong."""

    def square():
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(torch.zeros(4, 4), 1.0), obs=torch.zeros(4, 4))

    with refuses(ValueError, "'x'", "(4, 4)", "to_event"):
        ELBO().loss(square, guide)


def test_a_plate_without_a_size():
    def endless():
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", dim=-1):
            z = pyro.sample("z", dist.Normal(loc, 1.0).expand([4]))
            pyro.sample("x", dist.Normal(z, 1.0), obs=X)

    check_refused(endless, guide, "'data'", "len(x)")


def test_data_without_a_plate():
    """With as many particles as data they would be taken for each other."""

    def bare():
        z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=X)

    def its_guide():
        pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.5)), 1.0))

    for k in (1, 4):
        with refuses(ValueError, "'x'", "(4,)", "pyro.plate"):
            ELBO(k).loss(bare, its_guide)


def test_our_programs_with_different_data_sizes():
    ours = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6)))
    encoder = AmortizedGuide(z=DiagonalNormal(MLP(6, 4)))
    x = torch.rand(4, 6).round()
    with refuses(ValueError, "'z'", "100", "data_size"):
        ELBO().loss(lambda: ours(x, data_size=400), lambda: encoder(x))
