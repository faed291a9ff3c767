"""Programs over time, long enough for their rounds to be done at once, take the steps they would take as written."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta
from torch import nn

from pyro_dgm.infer import SVI
from pyro_dgm.infer.compiling import Compiler

ROWS, LENGTH, FEATURES, LATENTS, STATES = 4, 14, 2, 3, 3


class StateSpace(nn.Module):
    """Recurrent in model and guide, with dropout, a norm, and sequences of several lengths."""

    def __init__(self):
        super().__init__()
        self.cell, self.norm = nn.GRUCell(FEATURES, LATENTS), nn.LayerNorm(LATENTS)
        self.encoder, self.head = nn.LSTM(FEATURES, 5, batch_first=True), nn.Linear(5 + LATENTS, 2 * LATENTS)
        self.decoder = nn.Sequential(nn.Dropout(0.2), nn.Linear(LATENTS, 6), nn.ReLU(), nn.Linear(6, FEATURES))

    def model(self, x, mask):
        pyro.module("net", self)
        z, before = x.new_zeros(len(x), LATENTS), x.new_zeros(len(x), FEATURES)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=mask[:, t]):
                    loc = self.norm(self.cell(before, z))
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, 0.3).to_event(1))
                    pyro.sample(f"x_{t}", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x[:, t])
                before = x[:, t]

    def guide(self, x, mask):
        pyro.module("net", self)
        future, z = self.encoder(x.flip(1))[0].flip(1), x.new_zeros(len(x), LATENTS)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=mask[:, t]):
                    loc, log_scale = self.head(torch.cat([future[:, t], z], -1)).chunk(2, -1)
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, torch.exp(0.1 * log_scale - 1)).to_event(1))


def state_space(loss):
    net = StateSpace().double()
    return net.model, net.guide, loss


def hidden_markov(loss):
    """The states are summed over."""

    def model(x, mask):
        moves = pyro.sample("moves", dist.Dirichlet(torch.eye(STATES).double() + 0.5).to_event(1))
        loc = pyro.sample("loc", dist.Normal(torch.arange(STATES).double(), 1.0).to_event(1))
        state = 0
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                probs = moves[state] if t else torch.ones(STATES).double() / STATES
                state = pyro.sample(f"state_{t}", dist.Categorical(probs), infer={"enumerate": "parallel"})
                with poutine.mask(mask=mask[:, t]):
                    pyro.sample(f"x_{t}", dist.Normal(loc[state], 0.5), obs=x[:, t, 0])

    return model, AutoDelta(poutine.block(model, expose=["moves", "loc"])), loss


def losses(make, loss, compiler):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    x, mask = torch.randn(ROWS, LENGTH, FEATURES).double().cumsum(1) / 5, torch.rand(ROWS, LENGTH) < 0.9
    model, guide, loss = make(loss)
    svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.01), loss, compile=compiler)
    return torch.tensor([svi.step(x, mask) for _ in range(15)], dtype=torch.double), svi.compiled


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (state_space, Trace_ELBO()),
        (state_space, TraceMeanField_ELBO()),
        (state_space, TraceGraph_ELBO()),
        (hidden_markov, TraceEnum_ELBO(max_plate_nesting=1)),
    ],
)
def test_the_losses_are_those_of_the_step_as_written(make, loss):
    expected, _ = losses(make, loss, False)
    found, compiled = losses(make, loss, Compiler("graph", wait=True))
    assert (compiled.num_compiled, compiled.refusals) == (1, [])
    # Learning rates are inputs of the default precision, and so of seven digits.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
