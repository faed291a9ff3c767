"""The amortized guide: its contract, and what it refuses."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from contracts import check_guide, refuses
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, FullNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO
from pyro_dgm.nn import MLP, ConvEncoder, LocalModule


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


@pytest.mark.parametrize("vectorized", [False, True])
def test_rows_that_a_model_is_given_stay_the_models(vectorized):
    """The guide's own numbers of its rows are no site that a replayed model would take for the rows of its data."""
    everything, rows, seen = torch.randn(100, 6), torch.tensor([7, 50, 99]), []

    def model(x, data_size):
        with pyro.plate("data", data_size, subsample=rows) as found:
            seen.append(found)
            z = pyro.sample("z", dist.Normal(torch.zeros(len(found), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.repeat_interleave(3, -1), 1.0).to_event(1), obs=everything[found])

    class Guide(LocalModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = AmortizedGuide(z=DiagonalNormal(mlp(6, 4)))

        def forward(self, x, data_size):
            return self.inner(x, data_size=data_size)

    guide = Guide()
    for objective in (Trace_ELBO(2, vectorize_particles=vectorized, max_plate_nesting=1), ELBO(2, max_plate_nesting=1)):
        objective.loss(model, guide, everything[rows], 100)
    assert all(torch.equal(found, rows) for found in seen)
    assert poutine.trace(guide).get_trace(everything[rows], 100).nodes["z"]["scale"] == pytest.approx(100 / 3)
