"""A density without latents: its manners, and that training it is maximum likelihood."""

import functools

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI as PyroSVI
from pyro.infer import Predictive, Trace_ELBO
from torch import nn

from contracts import check_conditioning, check_observing_and_simulating, refuses
from pyro_dgm.distributions import DiagonalNormal, Flow, LearnableNormal, StandardNormal, transforms
from pyro_dgm.guides import EmptyGuide
from pyro_dgm.infer import ELBO, IWAE, SVI, log_weights
from pyro_dgm.models import DensityModel


def flow() -> tuple[DensityModel, EmptyGuide]:
    torch.manual_seed(0)
    couplings = transforms.stack("affine-coupling", 2, 3, hidden_features=(8,))
    return DensityModel(Flow(StandardNormal(3), couplings)), EmptyGuide()


def conditional() -> tuple[DensityModel, EmptyGuide]:
    torch.manual_seed(0)
    couplings = transforms.stack("affine-coupling", 2, 3, 2, hidden_features=(8,))
    return DensityModel(Flow(DiagonalNormal(nn.Linear(2, 6)), couplings)), EmptyGuide()


@pytest.mark.parametrize(("build", "context"), [(flow, None), (conditional, torch.randn(5, 2))])
def test_it_observes_and_simulates(build, context):
    x = torch.randn(5, 3)
    check_observing_and_simulating(build, x, context)
    check_conditioning(build, x, context)
    model, _ = build()
    assert Predictive(model, num_samples=4)(None, context, num=5)["x"].shape == (4, 5, 3)
    trace = poutine.trace(model).get_trace(x, context, data_size=50)
    assert trace.nodes["x"]["scale"] == 10.0


def test_every_bound_is_the_log_likelihood():
    model, guide = flow()
    x = torch.randn(5, 3)
    expected = model.distribution().log_prob(x).detach()
    torch.testing.assert_close(log_weights(model, guide, x, num_particles=3).local, expected.expand(3, -1))
    for objective in (ELBO(2), IWAE(3), Trace_ELBO()):
        assert float(objective.loss(model, guide, x)) == pytest.approx(-float(expected.sum()), rel=1e-5)


@pytest.mark.parametrize("stock", [True, False])
def test_training_is_maximum_likelihood(stock):
    """A learned normal finds the data's own mean and scale, by 400 steps on all of them."""
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.5, 2.0]) + 1.0
    model, guide = DensityModel(LearnableNormal(2)), EmptyGuide()
    svi = (
        PyroSVI(model, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
        if stock
        else SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.03), ELBO(), compile=False)
    )
    for _ in range(400):
        svi.step(x)
    torch.testing.assert_close(model.distribution.loc.detach(), x.mean(0), atol=1e-2, rtol=0.0)
    torch.testing.assert_close(model.distribution.log_scale.detach().exp(), x.std(0, correction=0), atol=1e-2, rtol=0.0)


def test_bad_input_is_refused():
    model, _ = flow()
    with refuses(TypeError, "Linear"):
        DensityModel(nn.Linear(2, 2))
    with refuses(ValueError, "its own draws alone", "Flow"):
        DensityModel(Flow(StandardNormal(2), [transforms.BlockAutoregressive(2)]))
    with refuses(ValueError, "(B, 3)", "(5, 4)"):
        model(torch.zeros(5, 4))
    with refuses(ValueError, "1 NaN"):
        model(torch.tensor([[0.0, torch.nan, 0.0]]))
    with refuses(ValueError, "at least one datum"):
        model(torch.zeros(0, 3))
    with refuses(ValueError, "one row per datum", "(2, 2)"):
        conditional()[0](torch.zeros(5, 3), torch.zeros(2, 2))
