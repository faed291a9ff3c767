"""Bad input: an error of the house form before any parameter changes."""

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from contracts import refuses, tensors_of
from pyro_dgm.distributions import Bernoulli, ContinuousBernoulli, DiagonalNormal, Normal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP, ConvDecoder, ConvEncoder

B, X, C = 4, 6, 3


def vae(likelihood=Bernoulli):
    model = LatentVariableModel(StandardNormal(2), likelihood(MLP(2, X, (8,))))
    return model, AmortizedGuide(z=DiagonalNormal(MLP(X, 4, (8,))))


def conditional_vae():
    model = LatentVariableModel(DiagonalNormal(MLP(C, 4, (8,))), Bernoulli(MLP(2 + C, X, (8,))))
    return model, AmortizedGuide(z=DiagonalNormal(MLP(X + C, 4, (8,))))


def conv_vae():
    model = LatentVariableModel(StandardNormal(2), Bernoulli(ConvDecoder(2, (1, 4, 4), (4,), 8), event_dim=3))
    return model, AmortizedGuide(z=DiagonalNormal(ConvEncoder((1, 4, 4), 4, (4,), 8)))


def prior_guide(x, *args, **kwargs):
    """Looks at nothing, so that whatever is wrong with the data is the model's to notice."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))


def assert_step_refuses(programs, error, parts, *args, **kwargs):
    """A step raises and changes no parameter."""
    model, guide = programs
    before = tensors_of(model, guide)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    with refuses(error, *parts):
        svi.step(*args, **kwargs)
    torch.testing.assert_close(tensors_of(model, guide), before, rtol=0.0, atol=0.0)


def with_value(value: float, row: int) -> torch.Tensor:
    x = torch.zeros(B, X)
    x[row, 0] = value
    return x


CASES = [
    pytest.param(vae, torch.zeros(B, X + 1), ValueError, [f"{X} features", f"({B}, {X + 1})"], id="features"),
    pytest.param(vae, torch.zeros(B, 1, 2, 3), ValueError, [f"{X} features", "x.flatten(-3)"], id="image-into-mlp"),
    pytest.param(conv_vae, torch.zeros(B, 16), ValueError, ["(1, 4, 4)", "(4, 16)"], id="vectors-into-convolutions"),
    pytest.param(vae, torch.zeros(X), ValueError, ["x.unsqueeze(0)", f"({X},)"], id="one-datum"),
    pytest.param(conv_vae, torch.zeros(1, 4, 4), ValueError, ["x.unsqueeze(0)", "(1, 4, 4)"], id="one-image"),
    pytest.param(vae, torch.zeros(0, X), ValueError, ["at least one datum", f"(0, {X})"], id="empty"),
    pytest.param(vae, torch.tensor(1.0), ValueError, ["at least one datum", "()"], id="scalar"),
    pytest.param(vae, [[0.0] * X] * B, TypeError, ["tensor", "list", "torch.as_tensor"], id="list"),
    pytest.param(vae, torch.zeros(B, X).byte(), TypeError, ["torch.float32", "torch.uint8", "scale"], id="uint8"),
    pytest.param(vae, torch.zeros(B, X).double(), TypeError, ["torch.float32", "torch.float64"], id="float64"),
    pytest.param(vae, torch.zeros(B, X).long(), TypeError, ["torch.float32", "torch.int64"], id="int64"),
    pytest.param(vae, 255 * torch.eye(B, X), ValueError, ["0 and 1", "0 to 255", "x / 255"], id="0-255"),
    pytest.param(vae, torch.full((B, X), 0.5), ValueError, ["0 and 1", "binarize"], id="grey-levels"),
]


@pytest.mark.parametrize(("build", "x", "error", "parts"), CASES)
def test_a_step_on_bad_data_is_refused(build, x, error, parts):
    assert_step_refuses(build(), error, parts, x)


@pytest.mark.parametrize("x", [torch.full((B, X), 2.0), torch.full((B, X), -0.5)])
def test_grey_levels_stay_in_the_unit_interval(x):
    assert_step_refuses(vae(ContinuousBernoulli), ValueError, ["[0, 1]", "x / 255"], x)


@pytest.mark.parametrize(
    ("value", "counts"), [(torch.nan, "1 NaN and 0 infinite"), (torch.inf, "0 NaN and 1 inf"), (-torch.inf, "1 infin")]
)
@pytest.mark.parametrize("likelihood", [Bernoulli, ContinuousBernoulli, Normal])
def test_values_that_are_not_finite_are_counted(likelihood, value, counts):
    x = with_value(value, row=2)
    assert_step_refuses(vae(likelihood), ValueError, [counts, "first: 2"], x)


@pytest.mark.parametrize(
    ("x", "error", "parts"),
    [
        pytest.param(torch.zeros(B, X + 1), ValueError, [f"(B, {X})", f"({B}, {X + 1})"], id="features"),
        pytest.param(torch.zeros(B, 1, X), ValueError, [f"(B, {X})", f"({B}, 1, {X})"], id="extra-dimension"),
        pytest.param(torch.zeros(X), ValueError, ["one datum", "x.unsqueeze(0)"], id="one-datum"),
        pytest.param(with_value(torch.nan, 1), ValueError, ["1 NaN", "first: 1"], id="nan"),
        pytest.param(torch.zeros(B, X).byte(), TypeError, ["torch.float32", "torch.uint8"], id="uint8"),
        pytest.param(torch.zeros(B, X).double(), TypeError, ["torch.float32", "torch.float64"], id="float64"),
        pytest.param(torch.zeros(B, X).long(), TypeError, ["torch.float32", "torch.int64"], id="int64"),
    ],
)
@pytest.mark.parametrize("likelihood", [Bernoulli, Normal])
def test_the_model_notices_bad_data_whatever_the_guide(likelihood, x, error, parts):
    model, _ = vae(likelihood)
    before = tensors_of(model)
    with refuses(ValueError, "at least one datum"):
        model(x[:0])
    with refuses(error, *parts):
        SVI(model, prior_guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    torch.testing.assert_close(tensors_of(model), before, rtol=0.0, atol=0.0)


def test_validation_can_be_switched_off_by_those_who_want_to():
    model, _ = vae()
    with pyro.validation_enabled(False):
        assert model(torch.full((B, X), 0.5)).shape == (B, X)


@pytest.mark.parametrize("rows", [1, B - 1, B + 1])
def test_context_has_one_row_per_datum(rows):
    parts = ["one row per datum", f"({rows}, {C})", f"{B} data"]
    assert_step_refuses(conditional_vae(), ValueError, parts, torch.zeros(B, X), torch.zeros(rows, C))


def test_context_is_finite():
    context = torch.zeros(B, C)
    context[1] = torch.nan
    parts = ["context must", "3 NaN", "first: 1"]
    assert_step_refuses(conditional_vae(), ValueError, parts, torch.zeros(B, X), context)
    with refuses(ValueError, *parts):
        conditional_vae()[0](c=context)


def test_context_of_another_kind_is_refused():
    x = torch.zeros(B, X)
    assert_step_refuses(conditional_vae(), ValueError, ["one row per datum", "()"], x, torch.tensor(1.0))
    assert_step_refuses(conditional_vae(), ValueError, [f"{X + C} features"], x, torch.zeros(B, C + 1))
    assert_step_refuses(conditional_vae(), ValueError, [f"{X + C} features"], x)


def test_a_batch_as_long_as_an_image_is_wide_is_not_taken_for_rows():
    guide = AmortizedGuide(z=DiagonalNormal(MLP(5, 4, (8,))))
    with refuses(ValueError, "first dimension of x", "(5, 1, 5)"):
        guide(torch.zeros(5, 1, 5, 5))


@pytest.mark.parametrize("data_size", [B - 1, 1, 0, -3, 10.5, float("inf")])
def test_data_size_is_at_least_the_batch(data_size):
    parts = ["data_size", f"{B} rows", f"got {data_size}"]
    assert_step_refuses(vae(), ValueError, parts, torch.zeros(B, X), data_size=data_size)


@pytest.mark.parametrize("num", [0, -1, 2.5])
def test_simulating_takes_a_positive_number(num):
    with refuses(ValueError, "num", f"got {num}"):
        vae()[0](num=num)


def test_a_plain_network_is_no_conditional_distribution():
    net = MLP(2, X)
    with refuses(TypeError, "prior", "MLP", "conditional distribution"):
        LatentVariableModel(net, Bernoulli(net))
    with refuses(TypeError, "likelihood", "MLP", "conditional distribution"):
        LatentVariableModel(StandardNormal(2), net)
    with refuses(TypeError, "prior", "Normal"):
        LatentVariableModel(pyro.distributions.Normal(0.0, 1.0), Bernoulli(nn.Identity()))


def test_the_likelihood_network_must_take_the_latent():
    model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(3, X)))
    with refuses(ValueError, "3 features", "(4, 2)"):
        model(torch.zeros(B, X))
