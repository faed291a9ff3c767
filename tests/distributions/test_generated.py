"""An implicit conditional distribution: its draw, its noise, and its place in models and guides."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from contracts import refuses
from pyro_dgm.distributions import Generated, Implicit, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import NLL, P
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP, ConvDecoder


def test_the_draw_is_what_the_network_makes_of_the_context():
    net, z = MLP(3, 5, (4,)), torch.randn(7, 2, 3)
    d = Generated(net)(z)
    assert isinstance(d, Implicit)
    assert (d.batch_shape, d.event_shape) == ((7, 2), (5,))
    torch.testing.assert_close(d.rsample(), net(z))
    d.rsample().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_noise_is_drawn_anew_for_every_row_and_call():
    """Of a network that returns its noise: seed 0, 2000 rows, moments within 5 standard errors."""

    class Noise(nn.Module):
        def forward(self, c, noise):
            return noise

    torch.manual_seed(0)
    conditional, c = Generated(Noise(), noise_features=3), torch.zeros(2000, 1, dtype=torch.float64)
    one, other = conditional(c).sample(), conditional(c).sample()
    assert one.shape == (2000, 3)
    assert one.dtype == torch.float64
    assert not torch.equal(one, other)
    assert one.mean().abs() < 5 / 6000**0.5
    assert (one.var() - 1).abs() < 5 * (2 / 6000) ** 0.5


def test_images_have_three_event_dimensions():
    model = LatentVariableModel(StandardNormal(4), Generated(ConvDecoder(4, (1, 8, 8)), event_dim=3))
    assert model(num=3).shape == (3, 1, 8, 8)
    with refuses(ValueError, "(B, 1, 8, 8)", "(3, 64)"):
        model(torch.zeros(3, 64))


def test_a_model_that_generates_observes_and_simulates():
    torch.manual_seed(0)
    model = LatentVariableModel(StandardNormal(2), Generated(MLP(2, 3, ())))
    x = torch.randn(5, 3)
    torch.testing.assert_close(model(x), x)
    trace = pyro.poutine.trace(pyro.poutine.uncondition(model)).get_trace(x)
    torch.testing.assert_close(trace.nodes["x"]["value"], model.likelihood.net(trace.nodes["z"]["value"]))


def test_a_generating_guide_says_that_it_cannot_score():
    guide = AmortizedGuide(z=Generated(MLP(3 + 1, 2, ()), noise_features=1))
    assert guide.scored_when_drawn == ("z",)
    assert guide(torch.randn(4, 3))["z"].shape == (4, 2)
    model = LatentVariableModel(StandardNormal(2), Generated(MLP(2, 3, ())))
    with refuses(ValueError, "NLL(of='guide', at=P)", "['z']"):
        NLL(of="guide", at=P).differentiable_loss(model, guide, torch.randn(4, 3))


def test_a_scorer_scores_values_about_the_draw():
    conditional = Generated(MLP(2, 3, ()), scorer=lambda x: dist.Laplace(x, 2.0).to_event(1))
    z, x = torch.randn(4, 2), torch.randn(4, 3)
    assert conditional.scores_any_point
    expected = dist.Laplace(conditional.net(z), 2.0).log_prob(x).sum(1)
    torch.testing.assert_close(conditional(z).log_prob(x), expected)


@pytest.mark.parametrize(
    ("error", "make", "parts"),
    [
        (TypeError, lambda: Generated(torch.tanh), ("Generated", "Module")),
        (ValueError, lambda: Generated(nn.Identity(), event_dim=0), ("event_dim", "0")),
        (ValueError, lambda: Generated(nn.Identity(), noise_features=-1), ("noise_features", "-1")),
    ],
)
def test_bad_arguments_are_refused(error, make, parts):
    with refuses(error, *parts):
        make()
