"""Every objective trains a user's own programs in stock SVI, in ours, and as a module under a torch optimiser.

The programs are written once with ``pyro.sample``, ``pyro.module`` and ``pyro.param``, and once as modules with the
same parameters. From the same parameters and noise all three ways end at the same place.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI as StockSVI
from torch import nn
from torch.distributions import constraints

from every_objective import DATA_FEATURES, EVERY_OBJECTIVE, LATENT_FEATURES
from pyro_dgm import infer
from pyro_dgm.infer import SVI, Term

STEPS, ROWS, LEARNING_RATE = 3, 6, 0.05


class Model(nn.Module):
    """Normal latents or bits, and normal data of a learned scale."""

    def __init__(self, is_discrete):
        super().__init__()
        self.decoder = nn.Linear(LATENT_FEATURES, DATA_FEATURES)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.is_discrete = is_discrete

    def forward(self, x):
        self.sample(x, self.log_scale.exp())

    def sample(self, x, scale):
        with pyro.plate("data", len(x)):
            prior = dist.Bernoulli(torch.tensor(0.4)) if self.is_discrete else dist.Normal(torch.tensor(0.0), 1.0)
            z = pyro.sample("z", prior.expand([len(x), LATENT_FEATURES]).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)


class Guide(nn.Module):
    """Normal latents of a learned scale, or bits."""

    def __init__(self, is_discrete):
        super().__init__()
        self.encoder = nn.Linear(DATA_FEATURES, LATENT_FEATURES)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.is_discrete = is_discrete

    def forward(self, x):
        self.sample(x, self.log_scale.exp())

    def sample(self, x, scale):
        with pyro.plate("data", len(x)):
            loc = self.encoder(x) / (scale if self.is_discrete else 1.0)
            q = dist.Bernoulli(logits=loc) if self.is_discrete else dist.Normal(loc, scale)
            pyro.sample("z", q.to_event(1))


def modules(is_discrete):
    torch.manual_seed(0)
    return Model(is_discrete), Guide(is_discrete)


def programs(is_discrete):
    """The same as plain functions, with Pyro's own statements for their parameters."""
    model_parts, guide_parts = modules(is_discrete)

    def model(x):
        pyro.module("decoder", model_parts.decoder)
        model_parts.sample(x, pyro.param("scale", torch.ones(()), constraint=constraints.positive))

    def guide(x):
        pyro.module("encoder", guide_parts.encoder)
        guide_parts.sample(x, pyro.param("guide_scale", torch.ones(()), constraint=constraints.positive))

    return model, guide


def batch(step):
    return torch.randn(ROWS, DATA_FEATURES, generator=torch.Generator().manual_seed(step))


def train(step_on):
    for step in range(STEPS):
        torch.manual_seed(100 + step)
        step_on(batch(step))


def in_the_store():
    """Model's and guide's parameters, log-scales among them, by the names they have in the modules."""
    found = {name.replace("$$$", "."): value for name, value in pyro.get_param_store().named_parameters()}
    own = {name.removesuffix("scale") + "log_scale" if "scale" in name else name: found[name] for name in found}
    return {
        program: {name.removeprefix("guide_"): own[name].detach().clone() for name in own if belongs(name)}
        for program, belongs in (
            ("model", lambda name: name == "log_scale" or "decoder" in name),
            ("guide", lambda name: name == "guide_log_scale" or "encoder" in name),
        )
    }


def of_modules(model, guide):
    return {
        program: {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        for program, module in (("model", model), ("guide", guide))
    }


def test_no_objective_is_left_out():
    public = {getattr(infer, name) for name in infer.__all__}
    concrete = {kind for kind in public if isinstance(kind, type) and issubclass(kind, Term)}
    tested = set()
    for case in EVERY_OBJECTIVE.values():
        term = case.make()
        tested |= {type(term), *(type(part) for _, part in getattr(term, "terms", ()))}
    assert concrete - tested == {Term, infer.Objective}


@pytest.mark.parametrize("name", EVERY_OBJECTIVE)
def test_stock_svi_ours_and_a_torch_optimiser_end_at_the_same_parameters(name):
    case = EVERY_OBJECTIVE[name]
    before = of_modules(*modules(case.is_discrete))

    pyro.clear_param_store()
    stock = StockSVI(*programs(case.is_discrete), pyro.optim.Adam({"lr": LEARNING_RATE}), case.make())
    train(stock.step)
    by_stock = in_the_store()

    pyro.clear_param_store()
    ours = SVI(*programs(case.is_discrete), lambda p: torch.optim.Adam(p, lr=LEARNING_RATE), case.make())
    train(ours.step)
    by_ours = in_the_store()

    pyro.clear_param_store()
    model, guide = modules(case.is_discrete)
    bound = case.make()(model, guide)
    optimizer = torch.optim.Adam(bound.parameters(), lr=LEARNING_RATE)

    def step_on(x):
        optimizer.zero_grad()
        bound(x).backward()
        optimizer.step()

    train(step_on)
    by_torch = of_modules(model, guide)

    torch.testing.assert_close(by_ours, by_stock, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(by_torch, by_stock, rtol=1e-5, atol=1e-6)
    for program, parameters in by_torch.items():
        for parameter, value in parameters.items():
            has_moved = not torch.equal(value, before[program][parameter])
            assert has_moved == (case.moves in (program, "both")), (program, parameter)
