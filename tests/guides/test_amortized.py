"""The amortized guide: its contract, and what it refuses."""

import pytest
import torch
from pyro import poutine
from torch import nn

from contracts import check_guide, refuses
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, FullNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.nn import MLP, ConvEncoder


def mlp(in_features: int, out_features: int) -> MLP:
    return MLP(in_features, out_features, (8,))


GUIDES = [
    pytest.param(lambda: AmortizedGuide(z=DiagonalNormal(mlp(6, 4))), torch.randn(5, 6), None, id="diagonal"),
    pytest.param(lambda: AmortizedGuide(z=FullNormal(mlp(6, 9))), torch.randn(5, 6), None, id="full"),
    pytest.param(
        lambda: AmortizedGuide(z=DiagonalNormal(mlp(6, 4)), y=Bernoulli(mlp(6, 3))),
        torch.randn(5, 6),
        None,
        id="two-latents",
    ),
    pytest.param(
        lambda: AmortizedGuide(z=DiagonalNormal(ConvEncoder((1, 5, 6), 4, (4,), 8))),
        torch.randn(5, 1, 5, 6),
        None,
        id="conv",
    ),
    pytest.param(
        lambda: AmortizedGuide(z=DiagonalNormal(mlp(6 + 3, 4))), torch.randn(5, 6), torch.randn(5, 3), id="context"
    ),
]


@pytest.mark.parametrize(("build", "x", "context"), GUIDES)
def test_guide_contract(build, x, context):
    check_guide(build, x, context)


@pytest.mark.parametrize("name", ["names", "sites", "z_1", "name", "x"])
def test_a_latent_may_have_any_name(name):
    guide = AmortizedGuide(**{name: DiagonalNormal(mlp(6, 4))})
    x = torch.randn(5, 6)
    trace = poutine.trace(guide).get_trace(x)
    assert trace.nodes[name]["value"].shape == (5, 2)
    assert len(list(guide.parameters())) == 4


@pytest.mark.parametrize("name", ["forward", "training", "parameters", "z.1"])
def test_a_name_that_modules_need_themselves_is_refused(name):
    with refuses(ValueError, repr(name), "Rename"):
        AmortizedGuide(**{name: DiagonalNormal(mlp(6, 4))})


def test_latents_keep_the_order_they_were_given_in():
    guide = AmortizedGuide(b=DiagonalNormal(mlp(6, 4)), a=DiagonalNormal(mlp(6, 4)))
    assert list(guide(torch.randn(5, 6))) == ["b", "a"]


def test_a_guide_has_a_latent():
    with refuses(ValueError, "needs a latent", "none"):
        AmortizedGuide()


@pytest.mark.parametrize("site", [mlp(6, 4), DiagonalNormal, nn.Identity(), torch.distributions.Normal(0.0, 1.0)])
def test_a_latent_is_given_by_a_conditional_distribution(site):
    with refuses(TypeError, "'z'", "DiagonalNormal(net)"):
        AmortizedGuide(z=site)


def test_a_guide_reads_data_with_a_batch_dimension():
    guide = AmortizedGuide(z=DiagonalNormal(mlp(6, 4)))
    with refuses(ValueError, "first dimension of x", "(6,)", "x.unsqueeze(0)"):
        guide(torch.randn(6))
