"""The structured guide: its contract, its density by hand, and what it refuses."""

import copy

import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from pyro import poutine
from torch import Tensor

from contracts import check_guide, refuses
from pyro_dgm.distributions import Bernoulli, ConditionalDistribution, DiagonalNormal, Flow, FullNormal
from pyro_dgm.distributions.transforms import stack
from pyro_dgm.guides import StructuredGuide
from pyro_dgm.infer.programs import particle_plate
from pyro_dgm.nn import MLP, ConvEncoder


def mlp(in_features: int, out_features: int) -> MLP:
    return MLP(in_features, out_features, (8,))


class DrawnOnly(ConditionalDistribution):
    """A flow of Pyro's without an inverse."""

    scores_any_point = False

    def __init__(self, net: MLP) -> None:
        super().__init__()
        self.base, self.flow = DiagonalNormal(net), T.planar(2)

    def forward(self, *context: Tensor) -> dist.TransformedDistribution:
        return dist.TransformedDistribution(self.base(*context), [self.flow])


def chain() -> StructuredGuide:
    sites = {"a": DiagonalNormal(mlp(6, 2 * 3)), "z": DiagonalNormal(mlp(6 + 3, 2 * 2))}
    return StructuredGuide(sites, parents={"z": ["a"]})


def diamond() -> StructuredGuide:
    sites = {
        "a": DiagonalNormal(mlp(6, 2 * 3)),
        "y": Bernoulli(mlp(6 + 3, 4)),
        "b": DiagonalNormal(mlp(6, 2 * 1)),
        "z": FullNormal(mlp(6 + 4 + 3, 5)),
    }
    return StructuredGuide(sites, parents={"y": ("a",), "z": ("y", "a")})


def convolutional() -> StructuredGuide:
    sites = {
        "a": DiagonalNormal(ConvEncoder((1, 5, 6), 2 * 3, (4,), 8)),
        "z": DiagonalNormal(ConvEncoder((1, 5, 6), 2 * 2, (4,), 8, context_features=3)),
    }
    return StructuredGuide(sites, parents={"z": ["a"]})


def with_context() -> StructuredGuide:
    sites = {"a": DiagonalNormal(mlp(6 + 3, 2 * 4)), "z": DiagonalNormal(mlp(6 + 4 + 3, 2 * 2))}
    return StructuredGuide(sites, parents={"z": ["a"]})


def with_flow() -> StructuredGuide:
    flow = Flow(DiagonalNormal(mlp(6 + 3, 2 * 2)), stack("affine-coupling", 2, 2, hidden_features=(4,)))
    return StructuredGuide({"a": DiagonalNormal(mlp(6, 2 * 3)), "z": flow}, parents={"z": ["a"]})


GUIDES = [
    pytest.param(chain, torch.randn(5, 6), None, id="chain"),
    pytest.param(diamond, torch.randn(5, 6), None, id="diamond"),
    pytest.param(convolutional, torch.randn(5, 1, 5, 6), None, id="conv"),
    pytest.param(with_context, torch.randn(5, 6), torch.randn(5, 3), id="context"),
    pytest.param(with_flow, torch.randn(5, 6), None, id="flow"),
]


@pytest.mark.parametrize(("build", "x", "context"), GUIDES)
def test_guide_contract(build, x, context):
    check_guide(build, x, context)


@pytest.mark.parametrize(("build", "x", "context"), GUIDES)
def test_particles_run_through_every_parent(build, x, context):
    guide = particle_plate(build(), 4, 1)
    trace = poutine.trace(guide).get_trace(x, context)
    trace.compute_log_prob()
    for name in trace.nodes["_RETURN"]["value"]:
        assert trace.nodes[name]["log_prob"].shape == (4, 5)
        assert trace.nodes[name]["value"].shape[:2] == (4, 5)


def test_each_latent_is_given_the_data_its_parents_in_order_and_the_context():
    guide = with_context()
    x, context = torch.randn(5, 6), torch.randn(5, 3)
    trace = poutine.trace(guide).get_trace(x, context)
    trace.compute_log_prob()
    a, z = trace.nodes["a"]["value"], trace.nodes["z"]["value"]
    torch.testing.assert_close(trace.nodes["a"]["log_prob"], normal(guide, "a", torch.cat([x, context], 1), a))
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], normal(guide, "z", torch.cat([x, a, context], 1), z))
    guide = diamond()
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    y, a, z = (trace.nodes[name]["value"] for name in ("y", "a", "z"))
    expected = guide.sites.z(torch.cat([x, y, a], 1)).log_prob(z)
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], expected)


def normal(guide: StructuredGuide, name: str, given: Tensor, value: Tensor) -> Tensor:
    loc, log_scale = getattr(guide.sites, name).net(given).chunk(2, -1)
    return torch.distributions.Normal(loc, log_scale.exp()).log_prob(value).sum(-1)


def test_latents_are_drawn_in_the_order_they_were_given_in():
    assert list(diamond()(torch.randn(5, 6))) == ["a", "y", "b", "z"]


def test_without_parents_it_is_an_amortized_guide():
    guide = StructuredGuide({"z": DiagonalNormal(mlp(6, 4))}, parents={})
    assert guide(torch.randn(5, 6), index=torch.arange(5), num=3)["z"].shape == (5, 2)


def test_a_copy_and_a_saved_state_draw_alike():
    guide, other = diamond(), diamond()
    other.load_state_dict(guide.state_dict())
    x = torch.randn(5, 6)
    draws = []
    for own in (guide, other, copy.deepcopy(guide)):
        torch.manual_seed(1)
        draws.append(own(x)["z"])
    torch.testing.assert_close(draws[0], draws[1])
    torch.testing.assert_close(draws[0], draws[2])


def test_it_says_whether_it_can_score_any_point():
    assert chain().scores_any_point
    assert chain().scored_when_drawn == ()
    guide = StructuredGuide({"a": DiagonalNormal(mlp(6, 6)), "z": DrawnOnly(mlp(9, 4))}, parents={"z": ["a"]})
    assert not guide.scores_any_point
    assert guide.scored_when_drawn == ("z",)


# What is refused


@pytest.mark.parametrize(
    ("parents", "parts"),
    [
        ({"z": ["b"]}, ("drawn before it", "['b'] for 'z'", "['a', 'z']")),
        ({"a": ["z"]}, ("drawn before it", "['z'] for 'a'")),
        ({"z": ["a", "z"]}, ("drawn before it", "['z'] for 'z'")),
        ({"w": ["a"]}, ("those of a latent", "['w']", "['a', 'z']")),
    ],
)
def test_parents_are_earlier_latents(parents, parts):
    with refuses(ValueError, *parts):
        StructuredGuide({"a": DiagonalNormal(mlp(6, 4)), "z": DiagonalNormal(mlp(6, 4))}, parents)


@pytest.mark.parametrize("parents", [["a"], None, "a"])
def test_parents_are_given_by_name(parents):
    with refuses(TypeError, "by the name of their latent", "{'z': ['a']}"):
        StructuredGuide({"a": DiagonalNormal(mlp(6, 4)), "z": DiagonalNormal(mlp(8, 4))}, parents)


@pytest.mark.parametrize("own", ["a", 1, {"a"}])
def test_the_parents_of_a_latent_are_a_list(own):
    with refuses(TypeError, "a list of names", "'z'"):
        StructuredGuide({"a": DiagonalNormal(mlp(6, 4)), "z": DiagonalNormal(mlp(8, 4))}, {"z": own})


def test_sites_are_refused_as_the_amortized_guide_refuses_them():
    with refuses(ValueError, "needs a latent", "none"):
        StructuredGuide({}, {})
    with refuses(TypeError, "by the name", "DiagonalNormal"):
        StructuredGuide(DiagonalNormal(mlp(6, 4)), {})
    with refuses(TypeError, "'z'", "MLP", "DiagonalNormal(net)"):
        StructuredGuide({"z": mlp(6, 4)}, {})
    for name in ("training", "z.1", 3):
        with refuses(ValueError, repr(name), "Rename"):
            StructuredGuide({name: DiagonalNormal(mlp(6, 4))}, {})


def test_bad_data_are_refused():
    with refuses(ValueError, "first dimension of x", "(6,)", "x.unsqueeze(0)"):
        chain()(torch.randn(6))
    x = torch.randn(5, 6)
    x[1, 0] = torch.nan
    with refuses(ValueError, "x must be finite", "first: 1"):
        chain()(x)
    with refuses(ValueError, "context must", "(4, 3)"):
        with_context()(torch.randn(5, 6), torch.randn(4, 3))
    with refuses(ValueError, "9 features", "(5, 10)"):
        StructuredGuide({"a": DiagonalNormal(mlp(6, 8)), "z": DiagonalNormal(mlp(9, 4))}, {"z": ["a"]})(
            torch.randn(5, 6)
        )


def test_a_batch_as_long_as_an_image_is_wide_is_not_taken_for_rows():
    guide = StructuredGuide(
        {"a": DiagonalNormal(ConvEncoder((1, 5, 5), 4)), "z": DiagonalNormal(mlp(7, 4))}, {"z": ["a"]}
    )
    with refuses(ValueError, "first dimension of x", "(5, 1, 5, 5)", "q(z | x, a)"):
        guide(torch.zeros(5, 1, 5, 5))
