"""Programs in the manner of Pyro's examples take the same steps compiled as written: only the import has changed."""

import functools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import easy_guide
from pyro.distributions import transforms
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal
from torch import nn
from torch.distributions import constraints

from pyro_dgm.infer import SVI
from pyro_dgm.infer.compiling import Compiler

STEPS = 24


def eight_schools():
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def model(y, sigma):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)

    return model, AutoDiagonalNormal(model), Trace_ELBO(), lambda step: ((y, sigma), {})


def gaussian_mixture():
    x = torch.cat([torch.randn(20) - 3, torch.randn(30) + 2])

    @config_enumerate
    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[assignment], scale), obs=x)

    start = {"locs": torch.tensor([-1.0, 1.0]), "weights": torch.ones(2) / 2, "scale": torch.tensor(1.0)}
    guide = AutoDelta(
        poutine.block(model, expose=["weights", "locs", "scale"]),
        init_loc_fn=lambda site: start[site["name"]],
    )
    return model, guide, TraceEnum_ELBO(max_plate_nesting=1), lambda step: ((x,), {})


class SemiSupervised(nn.Module):
    """Labels that are observed in some batches and summed over in others."""

    def __init__(self):
        super().__init__()
        self.decoder, self.classifier, self.encoder = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(9, 4)

    def model(self, x, y=None):
        pyro.module("ssvae", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3), obs=y)
            z = z.expand(*y.shape[:-1], 2)
            logits = self.decoder(torch.cat([z, y], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x)))
            both = torch.cat([x.expand(*y.shape[:-1], 6), y], -1)
            loc, log_scale = self.encoder(both).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def semi_supervised_vae():
    net = SemiSupervised()
    guide = config_enumerate(net.guide, "parallel", expand=True)
    return net.model, guide, TraceEnum_ELBO(max_plate_nesting=1), some_labelled()


def semi_supervised_vae_with_sampled_labels():
    net = SemiSupervised()
    return net.model, net.guide, TraceGraph_ELBO(), some_labelled()


def some_labelled():
    data = torch.bernoulli(torch.full((STEPS, 4, 6), 0.5))
    labels = torch.eye(3)[torch.randint(3, (STEPS, 4))]
    return lambda step: ((data[step], labels[step]) if step % 3 == 0 else (data[step],), {})


class DeepMarkov(nn.Module):
    """A Markov chain of latents under sequences of several lengths, annealed by ``poutine.scale``; IAFs at choice."""

    def __init__(self, num_iafs=0):
        super().__init__()
        self.iafs = nn.ModuleList(transforms.affine_autoregressive(2, hidden_dims=[4]) for _ in range(num_iafs))
        self.transition, self.emission = nn.Linear(2, 4), nn.Linear(2, 3)
        self.rnn, self.combine = nn.GRU(3, 5, batch_first=True), nn.Linear(7, 4)
        self.z_0, self.z_q = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def model(self, x, mask, annealing):
        pyro.module("dmm", self)
        z = self.z_0.expand(len(x), 2)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                loc, log_scale = self.transition(z).chunk(2, -1)
                with poutine.scale(scale=annealing):
                    step = dist.Normal(loc, nn.functional.softplus(log_scale)).mask(mask[:, t : t + 1])
                    z = pyro.sample(f"z_{t}", step.to_event(1))
                emitted = dist.Bernoulli(logits=self.emission(z)).mask(mask[:, t : t + 1]).to_event(1)
                pyro.sample(f"x_{t}", emitted, obs=x[:, t])

    def guide(self, x, mask, annealing):
        pyro.module("dmm", self)
        hidden, _ = self.rnn(x.flip(1))
        z = self.z_q.expand(len(x), 2)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                loc, log_scale = self.combine(torch.cat([hidden[:, -1 - t], z], -1)).chunk(2, -1)
                step = dist.Normal(loc, nn.functional.softplus(log_scale)).to_event(1)
                flow = dist.TransformedDistribution(step, list(self.iafs)) if self.iafs else step
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z_{t}", flow.mask(mask[:, t]))


def deep_markov_model_with_iafs():
    return deep_markov_model(num_iafs=2)


def deep_markov_model(num_iafs=0):
    net = DeepMarkov(num_iafs)
    data = torch.bernoulli(torch.full((STEPS, 4, 16, 3), 0.5))
    mask = torch.arange(16) < torch.tensor([[16], [3], [4], [12]])

    def batch(step):
        return (data[step], mask, 0.1 + 0.03 * step), {}

    return net.model, net.guide, Trace_ELBO(), batch


def amortized_lda():
    counts = torch.randint(0, 4, (STEPS, 5, 8)).float()
    encoder = nn.Sequential(nn.Linear(8, 6), nn.Softplus(), nn.BatchNorm1d(6), nn.Linear(6, 3))

    def model(counts):
        topics = pyro.param("topics", lambda: torch.randn(3, 8).softmax(-1), constraint=constraints.simplex)
        with pyro.plate("documents", len(counts)):
            theta = pyro.sample("theta", dist.LogNormal(torch.zeros(3), 1.0).to_event(1))
            words = (theta / theta.sum(-1, keepdim=True)) @ topics
            pyro.factor("words", (counts * words.log()).sum(-1))

    def guide(counts):
        pyro.module("encoder", encoder)
        with pyro.plate("documents", len(counts)):
            pyro.sample("theta", dist.LogNormal(encoder(counts), 0.5).to_event(1))

    return model, guide, TraceMeanField_ELBO(), lambda step: ((counts[step],), {})


def sparse_gamma_def():
    x = torch.poisson(torch.full((6, 5), 2.0))

    def model(x):
        with pyro.plate("weights", 3 * 5):
            w = pyro.sample("w", dist.Gamma(0.3, 0.1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.full((3,), 0.5), 0.3).to_event(1))
            pyro.sample("x", dist.Poisson(z @ w.reshape(3, 5) + 1e-3).to_event(1), obs=x)

    @easy_guide(model)
    def guide(self, x):
        rest = self.group(match=".*")
        loc = pyro.param("loc", lambda: 0.1 * torch.randn(rest.event_shape))
        scale = pyro.param("scale", lambda: torch.full(rest.event_shape, 0.1), constraint=constraints.positive)
        rest.sample("rest", dist.Normal(loc, scale).to_event(1))

    return model, guide, Trace_ELBO(), lambda step: ((x,), {})


PROGRAMS = (
    eight_schools,
    gaussian_mixture,
    semi_supervised_vae,
    semi_supervised_vae_with_sampled_labels,
    deep_markov_model,
    deep_markov_model_with_iafs,
    amortized_lda,
    sparse_gamma_def,
)


def losses(make, compile):
    pyro.clear_param_store()
    torch.manual_seed(0)
    model, guide, loss, batch = make()
    optim = functools.partial(torch.optim.Adam, lr=0.02)
    svi = SVI(model, guide, optim, loss, compile=compile)
    torch.manual_seed(1)
    found = []
    for step in range(STEPS):
        args, kwargs = batch(step)
        found.append(svi.step(*args, **kwargs))
    return torch.tensor(found, dtype=torch.float64), svi


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")  # in batches with labels
@pytest.mark.parametrize("make", PROGRAMS, ids=lambda make: make.__name__)
def test_the_losses_are_those_of_the_step_as_written(make):
    expected, _ = losses(make, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found, svi = losses(make, Compiler("graph", wait=True))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert svi.compiled.num_compiled > 0


@pytest.mark.slow
def test_an_order_of_variables_that_is_written_over_is_followed():
    """The inverse of an autoregressive flow goes through the variables in an order that is part of the graph."""
    runs = []
    for compiler in (False, Compiler("graph", wait=True)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model, guide, loss, batch = deep_markov_model_with_iafs()
        svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.02), loss, compile=compiler)
        runs.append([])
        for step in range(16):
            if step == 8:
                for flow in model.__self__.iafs:
                    other = transforms.affine_autoregressive(2, hidden_dims=[4])
                    other.arn.permutation.copy_(flow.arn.permutation.flip(0))
                    flow.arn.permutation.copy_(other.arn.permutation)
            args, kwargs = batch(step)
            runs[-1].append(svi.step(*args, **kwargs))
    assert svi.compiled.num_compiled == 2
    assert runs[1] == pytest.approx(runs[0], rel=1e-4)
