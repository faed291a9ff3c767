"""The autoregressive Bernoulli against enumeration of all vectors, and the factorised prior over bits."""

import copy
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from contracts import check_conditional, check_normalised, refuses
from pyro_dgm.distributions import AutoregressiveBernoulli, AutoregressiveBernoulliDistribution, LearnableBernoulli
from pyro_dgm.distributions.autoregressive import check_data_mean, check_layers, check_vectors
from pyro_dgm.nn import MLP


def all_bits(features: int) -> Tensor:
    """Every binary vector, (2^D, D), in float64."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=features)), dtype=torch.float64)


def random_distribution(features: int = 4, batch: tuple[int, ...] = (3,)) -> AutoregressiveBernoulliDistribution:
    generator = torch.Generator().manual_seed(0)
    bias = torch.randn(*batch, features, generator=generator, dtype=torch.float64)
    weight = 2 * torch.randn(features, features, generator=generator, dtype=torch.float64)
    return AutoregressiveBernoulliDistribution(bias, weight)


def slow_log_prob(bias: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """Of one vector, bit by bit."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(x)):
        p = torch.sigmoid(bias[i] + sum(weight[i, j] * x[j] for j in range(i)))
        total = total + (p if x[i] == 1 else 1 - p).log()
    return total


def coupled(net: nn.Module | None, features: int = 3) -> AutoregressiveBernoulli:
    conditional = AutoregressiveBernoulli(net, features)
    nn.init.normal_(conditional.weight)
    return conditional


CONDITIONALS = [
    pytest.param(lambda: AutoregressiveBernoulli(None, 3), [], (3,), id="prior"),
    pytest.param(lambda: coupled(None), [], (3,), id="prior-coupled"),
    pytest.param(lambda: AutoregressiveBernoulli(MLP(4, 3, (8,)), 3), [(4,)], (3,), id="network"),
    pytest.param(lambda: coupled(MLP(4, 3, (8,))), [(4,)], (3,), id="network-coupled"),
    pytest.param(lambda: coupled(MLP(4, 3, ())), [(3,), (1,)], (3,), id="two-contexts"),
    pytest.param(lambda: LearnableBernoulli(3), [], (3,), id="learnable-bernoulli"),
]


@pytest.mark.parametrize(("build", "context_shapes", "event_shape"), CONDITIONALS)
def test_conditional_contract(build, context_shapes, event_shape):
    check_conditional(build(), *context_shapes, event_shape=event_shape)


@pytest.mark.parametrize("features", [1, 2, 5, 8])
@pytest.mark.parametrize("batch", [(), (3,), (2, 1, 3)])
def test_probabilities_of_all_vectors_sum_to_one(features, batch):
    d = random_distribution(features, batch)
    total = d.log_prob(all_bits(features).reshape(-1, *[1] * len(batch), features)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(batch, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_the_factorised_prior_sums_to_one():
    prior = LearnableBernoulli(3).double()
    nn.init.normal_(prior.logits)
    check_normalised(prior(), all_bits(3))


def test_the_factorised_prior_starts_as_fair_coins():
    assert torch.equal(LearnableBernoulli(3)().base_dist.probs, torch.full((3,), 0.5))


def test_log_prob_is_that_of_the_bits_one_by_one():
    d = random_distribution()
    x = all_bits(4)
    slow = torch.stack([torch.stack([slow_log_prob(bias, d.weight, row) for bias in d.bias]) for row in x])
    torch.testing.assert_close(d.log_prob(x.unsqueeze(1)), slow, rtol=1e-12, atol=1e-12)


def test_entries_on_and_above_the_diagonal_are_not_read():
    d = random_distribution()
    noise = torch.randn(4, 4).double().triu()
    other = AutoregressiveBernoulliDistribution(d.bias, d.weight + noise)
    assert torch.equal(other.log_prob(all_bits(4).unsqueeze(1)), d.log_prob(all_bits(4).unsqueeze(1)))


def test_without_couplings_it_is_the_bernoulli():
    bias = torch.randn(3, 4).double()
    d = AutoregressiveBernoulliDistribution(bias, torch.zeros(4, 4).double())
    x = all_bits(4).unsqueeze(1)
    torch.testing.assert_close(d.log_prob(x), dist.Bernoulli(logits=bias).to_event(1).log_prob(x))


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_log_prob_and_gradient_are_finite_far_out(logit):
    bias = torch.full((2,), logit, requires_grad=True)
    log_prob = AutoregressiveBernoulliDistribution(bias, torch.ones(2, 2)).log_prob(torch.tensor([0.0, 1.0]))
    log_prob.backward()
    assert log_prob.isfinite()
    assert bias.grad.isfinite().all()


def test_samples_have_the_enumerated_probabilities():
    """Seed 0, n = 100,000 draws of each of 3 distributions, within 5 standard errors."""
    num = 100_000
    d = random_distribution()
    torch.manual_seed(0)
    x = d.sample((num,))  # (n, 3, 4)
    expected = d.log_prob(all_bits(4).unsqueeze(1)).exp()  # (16, 3)
    index = (x @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()).long()
    frequency = torch.stack([(index == row).double().mean(0) for row in range(16)])
    error = (expected * (1 - expected) / num).sqrt()
    assert ((frequency - expected).abs() < 5 * error + 1e-4 / num).all()


def test_draws_of_an_expanded_distribution_differ():
    draws = AutoregressiveBernoulliDistribution(torch.zeros(20), torch.zeros(20, 20)).expand((2, 3)).sample((4,))
    assert draws.shape == (4, 2, 3, 20)
    assert len(draws.reshape(-1, 20).unique(dim=0)) > 20


def test_it_is_a_discrete_distribution_without_reparameterisation():
    d = random_distribution()
    assert not d.has_rsample
    assert not d.sample().requires_grad
    assert not hasattr(d, "logits")
    assert d.support.is_discrete
    assert isinstance(d.support, constraints.independent)
    assert d.support.check(torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert not d.support.check(torch.tensor([0.0, 1.0, 0.5, 0.0]))
    with pyro.validation_enabled(True), pytest.raises(ValueError, match="within the support"):
        random_distribution().log_prob(torch.full((4,), 0.5).double())


def test_relaxed_bits_are_scored_when_validation_is_off():
    """Between the corners log_prob is smooth, and agrees with the masses at them."""
    d = random_distribution()
    plain = AutoregressiveBernoulliDistribution(d.bias, d.weight, validate_args=False).expand((2, 3))
    x = torch.full((4,), 0.5, dtype=torch.float64, requires_grad=True)
    plain.log_prob(x).sum().backward()
    assert x.grad.isfinite().all()


def test_the_batch_is_that_of_the_context():
    conditional = coupled(MLP(4, 3, (8,)))
    d = conditional(torch.randn(7, 5, 4))
    assert d.batch_shape == (7, 5)
    assert d.sample((2,)).shape == (2, 7, 5, 3)
    assert conditional(torch.randn(4)).batch_shape == ()


def test_a_prior_does_not_look_at_the_context():
    prior = coupled(None)
    x = torch.ones(3)
    assert torch.equal(prior(torch.randn(5, 2)).log_prob(x), prior().log_prob(x))


def test_it_stands_in_plates_and_learns_there():
    conditional = copy.deepcopy(coupled(None))
    with pyro.plate("particles", 4, dim=-2), pyro.plate("data", 5, dim=-1):
        x = pyro.sample("x", conditional())
    assert x.shape == (4, 5, 3)
    conditional().log_prob(x).sum().backward()
    assert torch.equal(conditional.weight.grad, conditional.weight.grad.tril(-1))


# What is refused


def test_a_size_is_a_positive_integer():
    for features in (0, -1, 2.0, True):
        with refuses(ValueError, "features"):
            AutoregressiveBernoulli(None, features)


def test_the_network_is_one():
    with refuses(TypeError, "AutoregressiveBernoulli", "function"):
        AutoregressiveBernoulli(lambda z: z, 3)


def test_the_network_gives_a_logit_for_every_bit():
    with refuses(ValueError, "3 features", "(5, 2)"):
        AutoregressiveBernoulli(MLP(4, 2, ()), 3)(torch.randn(5, 4))


@pytest.mark.parametrize(
    ("bias", "weight"), [((), (1, 1)), ((0,), (0, 0)), ((3,), (2, 2)), ((3,), (3,)), ((2, 3), (3, 2))]
)
def test_bias_and_weight_fit_together(bias, weight):
    with refuses(ValueError, "(D, D)", str(weight)):
        AutoregressiveBernoulliDistribution(torch.zeros(bias), torch.zeros(weight))


@pytest.mark.parametrize("conditional", [AutoregressiveBernoulli(None, 2), LearnableBernoulli(2)])
def test_data_are_bits(conditional):
    with refuses(ValueError, "from 0 to 0.5", "binarize"):
        conditional.check_data(torch.tensor([[0.0, 0.5]]))
    with refuses(ValueError, "to 255", "x / 255"):
        conditional.check_data(torch.tensor([[0.0, 255.0]]))
    with refuses(TypeError, "torch.int64"):
        conditional.check_data(torch.tensor([[0, 1]]))


@pytest.mark.parametrize("layers", [(), (0,), (3, -1), (2.0,), (True,), 200, "200", None])
def test_layers_are_positive_integers_and_not_none(layers):
    with refuses(ValueError, repr(layers), "(200,)"):
        check_layers(layers)


@pytest.mark.parametrize(
    ("data_mean", "error", "part"),
    [
        (0.5, TypeError, "float"),
        (torch.zeros(3).long(), TypeError, "torch.int64"),
        (torch.zeros(2), ValueError, "(2,)"),
        (torch.zeros(1, 3), ValueError, "(1, 3)"),
        (torch.tensor([0.0, 0.5, 127.0]), ValueError, "to 127"),
        (torch.tensor([0.0, 0.5, -0.1]), ValueError, "from -0.1"),
        (torch.tensor([0.0, 0.5, torch.nan]), ValueError, "nan"),
    ],
)
def test_a_mean_of_bits_is_one(data_mean, error, part):
    with refuses(error, "data_mean", part, "x.mean(0)"):
        check_data_mean(data_mean, 3)


def test_vectors_have_a_batch_dimension_and_their_length():
    with refuses(ValueError, "(B, 4)", "(4,)", "x.unsqueeze(0)"):
        check_vectors(torch.zeros(4), 4)
    with refuses(ValueError, "(5, 1, 2, 2)", "x.flatten(1)"):
        check_vectors(torch.zeros(5, 1, 2, 2), 4)
    with refuses(ValueError, "(5, 3)", "Reshape"):
        check_vectors(torch.zeros(5, 3), 4)
