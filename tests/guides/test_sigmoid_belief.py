"""The guide of the sigmoid belief net: its contract, its density by hand, and what it refuses."""

import copy

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.nn.functional import logsigmoid

from contracts import check_guide, refuses
from pyro_dgm.distributions import AutoregressiveBernoulliDistribution
from pyro_dgm.guides import SigmoidBeliefGuide
from pyro_dgm.nn import LocalModule

both_kinds = pytest.mark.parametrize("autoregressive", [False, True])


class WithContext(LocalModule):
    """Takes the context that the contract passes, and has no use for it."""

    def __init__(self, guide: LocalModule) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, x=None, c=None, *, num=None, data_size=None):
        return self.guide(x, num=num, data_size=data_size)


def bits(*shape: int) -> Tensor:
    return torch.bernoulli(torch.full(shape, 0.5))


def random_guide(autoregressive: bool, layers: tuple[int, ...] = (3, 2)) -> SigmoidBeliefGuide:
    guide = SigmoidBeliefGuide(4, layers, autoregressive, data_mean=torch.tensor([0.1, 0.5, 0.9, 1.0]))
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.normal_()
    return guide


@both_kinds
@pytest.mark.parametrize("layers", [(3,), (3, 2), (2, 3, 2)])
def test_guide_contract(autoregressive, layers):
    check_guide(lambda: WithContext(random_guide(autoregressive, layers)), bits(20, 4))  # every bit is on in some row


@both_kinds
def test_its_density_is_that_of_layers_drawn_upwards(autoregressive):
    guide = random_guide(autoregressive).double()
    x = bits(6, 4).double()
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    below = x - torch.tensor([0.1, 0.5, 0.9, 1.0])
    for name in ("z1", "z2"):
        z = trace.nodes[name]["value"]
        layer = getattr(guide.hidden, name)
        affine = layer.net.layers[-1]
        logits = below @ affine.weight.T + affine.bias
        if autoregressive:
            for i in range(z.shape[1]):
                for j in range(i):
                    logits[:, i] = logits[:, i] + layer.weight[i, j] * z[:, j]
        expected = logsigmoid((2 * z - 1) * logits).sum(-1)
        torch.testing.assert_close(trace.nodes[name]["log_prob"], expected)
        below = z


def test_latents_are_drawn_and_returned_from_the_data_up():
    draws = SigmoidBeliefGuide(4, (3, 2, 5))(bits(6, 4))
    assert {name: tuple(z.shape) for name, z in draws.items()} == {"z1": (6, 3), "z2": (6, 2), "z3": (6, 5)}
    assert list(draws) == ["z1", "z2", "z3"]


def test_its_sites_show_their_logits_to_gradient_estimators():
    trace = poutine.trace(SigmoidBeliefGuide(4, (3, 2))).get_trace(bits(6, 4))
    for name in ("z1", "z2"):
        fn = trace.nodes[name]["fn"]
        assert isinstance(fn, dist.Independent)
        assert isinstance(fn.base_dist, dist.Bernoulli)
        assert fn.base_dist.logits.shape == trace.nodes[name]["value"].shape
    autoregressive = poutine.trace(SigmoidBeliefGuide(4, (3,), True)).get_trace(bits(6, 4))
    assert isinstance(autoregressive.nodes["z1"]["fn"], AutoregressiveBernoulliDistribution)


@both_kinds
def test_upper_layers_take_relaxed_bits_and_particles(autoregressive):
    guide = random_guide(autoregressive)
    q = guide.hidden.z2(torch.rand(7, 5, 3))
    assert q.batch_shape == (7, 5)


def test_the_mean_is_subtracted_and_belongs_to_the_state():
    mean = torch.rand(4)
    guide = SigmoidBeliefGuide(4, (3,), data_mean=mean)
    assert torch.equal(guide.state_dict()["data_mean"], mean)
    mean.zero_()  # the guide's is its own
    assert guide.data_mean.all()
    plain = SigmoidBeliefGuide(4, (3,))
    assert not plain.data_mean.any()
    plain.load_state_dict(guide.state_dict())
    x = bits(5, 4)
    for other in (plain, copy.deepcopy(guide)):
        value = {"z1": torch.ones(5, 3)}
        scores = [poutine.trace(poutine.condition(g, value)).get_trace(x).log_prob_sum() for g in (guide, other)]
        torch.testing.assert_close(*scores)


def test_a_float64_mean_does_not_change_the_dtype():
    guide = SigmoidBeliefGuide(4, (3,), data_mean=torch.full((4,), 0.5).double())
    assert guide(bits(5, 4))["z1"].dtype is torch.float32
    assert guide.double()(bits(5, 4).double())["z1"].dtype is torch.float64


# What is refused


def test_sizes_are_refused_as_the_model_refuses_them():
    with refuses(ValueError, "features", "0"):
        SigmoidBeliefGuide(0, (3,))
    with refuses(ValueError, "layers", "()"):
        SigmoidBeliefGuide(4, ())
    with refuses(ValueError, "layers", "(3, 0)"):
        SigmoidBeliefGuide(4, (3, 0))
    with refuses(ValueError, "data_mean", "(3,)"):
        SigmoidBeliefGuide(4, (3,), data_mean=torch.zeros(3))


def test_bad_data_are_refused():
    guide = SigmoidBeliefGuide(4, (3,))
    with refuses(ValueError, "(4,)", "x.unsqueeze(0)"):
        guide(bits(4))
    with refuses(ValueError, "(2, 5)"):
        guide(bits(2, 5))
    with refuses(TypeError, "torch.float64"):
        guide(bits(2, 4).double())
    with refuses(TypeError, "torch.uint8", "scale pixels"):
        guide(bits(2, 4).to(torch.uint8))
    with refuses(TypeError, "torch.bool"):
        guide(bits(2, 4).bool())
    with refuses(ValueError, "1 NaN", "first: 1"):
        guide(torch.where(torch.arange(8).reshape(2, 4) == 5, torch.nan, bits(2, 4)))
