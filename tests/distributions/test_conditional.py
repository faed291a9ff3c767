"""What every conditional distribution does, and what it refuses."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from contracts import check_conditional, check_normalised, refuses
from pyro_dgm.distributions import (
    Bernoulli,
    Categorical,
    ConditionalDistribution,
    ContinuousBernoulli,
    DiagonalNormal,
    Dirichlet,
    DirichletPrior,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    FullNormal,
    LearnableNormal,
    LowRankNormal,
    MixtureNormal,
    MixturePrior,
    Normal,
    OneHotCategorical,
    PowerSpherical,
    SphericalUniform,
    StandardNormal,
    StickBreakingKumaraswamy,
    StickBreakingPrior,
    UniformOneHot,
    VampPrior,
)
from pyro_dgm.distributions.conditional import check_finite
from pyro_dgm.nn import MLP, Batched, ConvDecoder


def mlp(out_features: int, in_features: int = 4) -> MLP:
    return MLP(in_features, out_features, (8,))


def classes(shape: tuple[int, ...]) -> nn.Module:
    """Logits of the given shape."""
    return Batched(nn.Sequential(nn.Linear(4, torch.Size(shape).numel()), nn.Unflatten(-1, shape)), event_dim=1)


CONDITIONALS = [
    pytest.param(lambda: StandardNormal(3), [], (3,), id="standard-normal"),
    pytest.param(lambda: LearnableNormal(3), [], (3,), id="learnable-normal"),
    pytest.param(lambda: DiagonalNormal(mlp(6)), [(4,)], (3,), id="diagonal-normal"),
    pytest.param(lambda: DiagonalNormal(mlp(6)), [(3,), (1,)], (3,), id="diagonal-normal-two-contexts"),
    pytest.param(lambda: FullNormal(mlp(9)), [(4,)], (3,), id="full-normal"),
    pytest.param(lambda: FullNormal(mlp(2)), [(4,)], (1,), id="full-normal-one-feature"),
    pytest.param(lambda: LowRankNormal(mlp(12), 2), [(4,)], (3,), id="low-rank-normal"),
    pytest.param(lambda: LowRankNormal(mlp(9), 1), [(3,), (1,)], (3,), id="low-rank-normal-two-contexts"),
    pytest.param(lambda: MixtureNormal(mlp(14), 2), [(4,)], (3,), id="mixture-normal"),
    pytest.param(lambda: MixtureNormal(mlp(9), 3), [(3,), (1,)], (1,), id="mixture-normal-one-feature"),
    pytest.param(lambda: MixturePrior(3, 4), [], (3,), id="mixture-prior"),
    pytest.param(lambda: MixturePrior(3, 4, learned_weights=False), [], (3,), id="mixture-prior-equal-weights"),
    pytest.param(lambda: VampPrior(DiagonalNormal(mlp(6)), torch.randn(5, 4)), [], (3,), id="vamp-prior"),
    pytest.param(
        lambda: VampPrior(MixtureNormal(mlp(14), 2), torch.rand(5, 4), learned=False, bounds=(0, 1)),
        [],
        (3,),
        id="vamp-prior-fixed",
    ),
    pytest.param(lambda: StickBreakingPrior(4, 2.0), [], (4,), id="stick-breaking-prior"),
    pytest.param(lambda: StickBreakingKumaraswamy(mlp(6)), [(4,)], (4,), id="stick-breaking"),
    pytest.param(lambda: StickBreakingKumaraswamy(mlp(2)), [(3,), (1,)], (2,), id="stick-breaking-two-weights"),
    pytest.param(lambda: DirichletPrior(4, 0.5), [], (4,), id="dirichlet-prior"),
    pytest.param(lambda: Dirichlet(mlp(3)), [(4,)], (3,), id="dirichlet"),
    pytest.param(lambda: SphericalUniform(3), [], (3,), id="spherical-uniform"),
    pytest.param(lambda: PowerSpherical(mlp(4)), [(4,)], (3,), id="power-spherical"),
    pytest.param(lambda: PowerSpherical(mlp(3)), [(3,), (1,)], (2,), id="power-spherical-circle"),
    pytest.param(lambda: Normal(mlp(3), scale=0.5), [(4,)], (3,), id="normal-fixed"),
    pytest.param(lambda: Normal(mlp(3), scale="learned"), [(4,)], (3,), id="normal-learned"),
    pytest.param(lambda: Normal(mlp(6), scale="predicted"), [(4,)], (3,), id="normal-predicted"),
    pytest.param(
        lambda: Normal(ConvDecoder(4, (2, 5, 6), (4,), 8), event_dim=3, scale="predicted"),
        [(4,)],
        (1, 5, 6),
        id="normal-predicted-image",
    ),
    pytest.param(lambda: Bernoulli(mlp(3)), [(4,)], (3,), id="bernoulli"),
    pytest.param(
        lambda: Bernoulli(nn.Sequential(mlp(1), nn.Flatten(-2)), event_dim=0), [(4,)], (), id="bernoulli-single"
    ),
    pytest.param(
        lambda: Bernoulli(ConvDecoder(4, (1, 5, 6), (4,), 8), event_dim=3), [(4,)], (1, 5, 6), id="bernoulli-image"
    ),
    pytest.param(lambda: ContinuousBernoulli(mlp(3)), [(4,)], (3,), id="continuous-bernoulli"),
    pytest.param(lambda: Categorical(mlp(5)), [(4,)], (), id="categorical"),
    pytest.param(lambda: Categorical(classes((3, 5)), event_dim=1), [(4,)], (3,), id="categorical-vector"),
    pytest.param(lambda: OneHotCategorical(mlp(15), 5), [(4,)], (3, 5), id="one-hot"),
    pytest.param(lambda: OneHotCategorical(mlp(2), 2), [(3,), (1,)], (1, 2), id="one-hot-two-contexts"),
    pytest.param(lambda: UniformOneHot(3, 5), [], (3, 5), id="uniform-one-hot"),
    pytest.param(lambda: DiscretizedLogistic(mlp(6), event_dim=1), [(4,)], (3,), id="discretized-logistic"),
    pytest.param(
        lambda: DiscretizedLogistic(ConvDecoder(4, (6, 5, 6), (4,), 8)), [(4,)], (3, 5, 6), id="discretized-image"
    ),
    pytest.param(lambda: DiscretizedLogisticMixture(mlp(18), 3, event_dim=1), [(4,)], (2,), id="mixture"),
    pytest.param(
        lambda: DiscretizedLogisticMixture(ConvDecoder(4, (6, 5, 6), (4,), 8), 2),
        [(4,)],
        (1, 5, 6),
        id="mixture-image",
    ),
]


@pytest.mark.parametrize(("build", "context_shapes", "event_shape"), CONDITIONALS)
def test_conditional_contract(build, context_shapes, event_shape):
    check_conditional(build(), *context_shapes, event_shape=event_shape)


def grid(low: float, high: float, num: int = 20001) -> tuple[torch.Tensor, float]:
    """Midpoints of equal cells, and the cell."""
    cell = (high - low) / num
    return low + cell * (torch.arange(num, dtype=torch.float64) + 0.5), cell


@pytest.mark.parametrize(
    ("conditional", "points", "cell"),
    [
        pytest.param(DiagonalNormal(mlp(2)), *grid(-30, 30), id="diagonal-normal"),
        pytest.param(FullNormal(mlp(2)), *grid(-30, 30), id="full-normal"),
        pytest.param(Normal(mlp(1), scale=0.5), *grid(-20, 20), id="normal"),
        pytest.param(ContinuousBernoulli(mlp(1)), *grid(0, 1), id="continuous-bernoulli"),
        pytest.param(Bernoulli(mlp(3)), torch.cartesian_prod(*[torch.arange(2.0)] * 3), 1.0, id="bernoulli"),
        pytest.param(Categorical(mlp(5)), torch.arange(5), 1.0, id="categorical"),
        pytest.param(
            OneHotCategorical(mlp(6), 3),
            torch.eye(3)[torch.cartesian_prod(*[torch.arange(3)] * 2)],
            1.0,
            id="one-hot",
        ),
        pytest.param(DiscretizedLogistic(mlp(2), 1), torch.arange(256.0) / 255, 1.0, id="discretized-logistic"),
        pytest.param(DiscretizedLogisticMixture(mlp(9), 3, 1), torch.arange(256.0) / 255, 1.0, id="mixture"),
    ],
)
def test_density_is_normalised(conditional, points, cell):
    check_normalised(conditional.double()(torch.randn(6, 4, dtype=torch.float64)), points.double(), cell)


def test_a_prior_does_not_look_at_the_context():
    for prior in (StandardNormal(2), LearnableNormal(2)):
        assert prior(torch.randn(5, 3)).batch_shape == ()
        assert torch.equal(prior(torch.randn(5, 3)).mean, torch.zeros(2))


def test_one_hot_variables_have_their_logits_side_by_side():
    logits = torch.randn(7, 6)
    d = OneHotCategorical(nn.Identity(), 3)(logits)
    torch.testing.assert_close(d.mean, logits.reshape(7, 2, 3).softmax(-1))


def test_a_uniform_prior_has_one_probability_for_every_value():
    prior = UniformOneHot(4, 5)
    assert not list(prior.parameters())
    assert not prior.state_dict()
    torch.testing.assert_close(prior(torch.zeros(2, 3)).mean, torch.full((4, 5), 0.2))
    kl = dist.kl.kl_divergence(OneHotCategorical(nn.Identity(), 5)(torch.zeros(2, 20)), prior().expand((2,)))
    torch.testing.assert_close(kl, torch.zeros(2), atol=1e-6, rtol=0.0)


def test_the_three_scales_of_a_normal():
    context = torch.randn(5, 4)
    assert not list(Normal(nn.Identity(), scale=0.5).parameters())
    torch.testing.assert_close(Normal(mlp(3), scale=0.5)(context).stddev, torch.full((5, 3), 0.5))
    learned = Normal(mlp(3), scale="learned")
    torch.testing.assert_close(learned(context).stddev, torch.ones(5, 3))
    learned.log_scale.data.fill_(1.0)
    torch.testing.assert_close(learned(context).stddev, torch.ones(5, 3).exp())
    parameters = torch.randn(5, 6)
    predicted = Normal(nn.Identity(), scale="predicted")(parameters)
    torch.testing.assert_close(predicted.mean, parameters[:, :3])
    torch.testing.assert_close(predicted.stddev, parameters[:, 3:].exp())


def test_the_contract_is_for_subclasses_to_fill_in():
    with pytest.raises(NotImplementedError, match="must define forward"):
        ConditionalDistribution()()


# Bad input


@pytest.mark.parametrize("family", [Bernoulli, Categorical, ContinuousBernoulli, DiagonalNormal, FullNormal, Normal])
@pytest.mark.parametrize("net", [784, torch.nn.functional.relu, nn.Linear])
def test_a_network_is_a_module(family, net):
    with refuses(TypeError, family.__name__, "torch.nn.Module"):
        family(net)


@pytest.mark.parametrize("event_dim", [-1, 1.0, True, "1"])
def test_event_dim_is_a_small_integer(event_dim):
    for family in (Bernoulli, Categorical, ContinuousBernoulli, DiscretizedLogistic, DiscretizedLogisticMixture):
        with refuses(ValueError, "event_dim", repr(event_dim)):
            family(nn.Identity(), event_dim=event_dim)
    with refuses(ValueError, "event_dim", "at least 1", "got 0"):
        Normal(nn.Identity(), event_dim=0)


@pytest.mark.parametrize("features", [0, -2, 2.0, True])
def test_a_prior_has_a_positive_number_of_features(features):
    for prior in (StandardNormal, LearnableNormal):
        with refuses(ValueError, "features", repr(features)):
            prior(features)


@pytest.mark.parametrize("number", [0, 2.0, True])
def test_one_hot_variables_and_classes_are_counted(number):
    for build in (lambda: UniformOneHot(3, number), lambda: OneHotCategorical(nn.Identity(), number)):
        with refuses(ValueError, "classes", "at least 2", repr(number)):
            build()
    with refuses(ValueError, "variables", repr(number)):
        UniformOneHot(number, 3)
    with refuses(ValueError, "OneHotCategorical of 3 classes", "(4, 7)", "variables * classes"):
        OneHotCategorical(nn.Identity(), 3)(torch.randn(4, 7))


@pytest.mark.parametrize("x", [torch.zeros(2, 1, 3), torch.ones(2, 1, 3), torch.full((2, 1, 2), 0.5)])
def test_one_hot_variables_take_a_single_one(x):
    for conditional in (OneHotCategorical(nn.Identity(), 3), UniformOneHot(1, 3)):
        with refuses(ValueError, "a single 1", "one_hot(x, classes)"):
            conditional.check_data(x)


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), "fixed"])
def test_a_scale_is_positive_learned_or_predicted(scale):
    with refuses(ValueError, "'learned' or 'predicted'", repr(scale)):
        Normal(nn.Identity(), scale=scale)


@pytest.mark.parametrize(
    ("conditional", "length"),
    [
        (DiagonalNormal(nn.Identity()), 7),
        (Normal(nn.Identity(), scale="predicted"), 7),
        (DiscretizedLogistic(nn.Identity(), event_dim=1), 7),
        (DiscretizedLogisticMixture(nn.Identity(), 5, event_dim=1), 14),
        (FullNormal(nn.Identity()), 3),
        (FullNormal(nn.Identity()), 6),
    ],
)
def test_a_network_output_of_odd_length_is_refused(conditional, length):
    with refuses(ValueError, type(conditional).__name__, f"(4, {length})"):
        conditional(torch.randn(4, length))


def test_levels_and_components_are_counted_in_whole_numbers():
    for levels in (1, 0, 256.0):
        with refuses(ValueError, "levels", str(levels)):
            DiscretizedLogistic(nn.Identity(), levels=levels)
    for num in (0, -1, 2.5):
        with refuses(ValueError, "num_components", str(num)):
            DiscretizedLogisticMixture(nn.Identity(), num)


def test_values_that_are_not_finite_are_counted_and_their_rows_named():
    x = torch.zeros(20, 3)
    x[2] = torch.nan
    x[5, 1] = torch.inf
    x[7:15, 0] = -torch.inf
    with refuses(ValueError, "3 NaN and 9 infinite values in 10 rows", "(first: 2, 5, 7, 8, 9, ...)"):
        check_finite(x)
    check_finite(torch.zeros(3))


@pytest.mark.parametrize(
    ("x", "parts"),
    [
        (torch.tensor([[0.0, 128.0, 255.0]]), ["0 and 1", "from 0 to 255", "x / 255"]),
        (torch.tensor([[0, 128, 255]], dtype=torch.uint8), ["0 and 1", "from 0 to 255", "x / 255"]),
        (torch.tensor([[0.0, 0.5, 1.0]]), ["0 and 1", "from 0 to 1", "binarize(x)", "ContinuousBernoulli"]),
        (torch.tensor([[-1.0, 0.5, 1.0]]), ["0 and 1", "from -1 to 1"]),
    ],
)
def test_a_bernoulli_takes_only_zeros_and_ones(x, parts):
    with refuses(ValueError, *parts):
        Bernoulli(nn.Identity()).check_data(x)


@pytest.mark.parametrize("x", [torch.tensor([[0.0, 255.0]]), torch.tensor([[-0.1, 1.0]])])
def test_a_continuous_bernoulli_takes_the_unit_interval(x):
    with refuses(ValueError, "[0, 1]", "x / 255"):
        ContinuousBernoulli(nn.Identity()).check_data(x)


@pytest.mark.parametrize("x", [torch.tensor([0.5]), torch.tensor([-1])])
def test_a_categorical_takes_class_numbers(x):
    with refuses(ValueError, "class numbers", "one-hot"):
        Categorical(nn.Identity()).check_data(x)


@pytest.mark.parametrize("x", [torch.rand(3, 2) * 0.9, torch.tensor([[0.0, 7.0, 255.0]]), torch.tensor([[-1 / 255]])])
@pytest.mark.parametrize("family", [DiscretizedLogistic, DiscretizedLogisticMixture])
def test_a_discretized_logistic_takes_levels(family, x):
    with refuses(ValueError, "256 levels", "Divide 8-bit pixels by 255"):
        family(nn.Identity()).check_data(x)


def test_eight_bit_levels_survive_float32_and_float16():
    x = torch.arange(256, dtype=torch.uint8)
    DiscretizedLogistic(nn.Identity()).check_data(x.float() / 255)
    DiscretizedLogistic(nn.Identity()).check_data(x.double() / 255)


def test_distributions_leave_validation_as_pyro_has_it():
    assert dist.Normal(0.0, 1.0)._validate_args
    assert StandardNormal(2)().base_dist._validate_args
