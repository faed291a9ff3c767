"""Every transform of a flow passes one contract, and those with a closed form or a limit agree with it."""

import copy

import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from pyro.distributions.transforms.spline import ConditionedSpline
from torch import Tensor, nn

from contracts import check_transform, refuses
from pyro_dgm.distributions import Flow, StandardNormal, transforms
from pyro_dgm.distributions.transforms import (
    AffineCoupling,
    BlockAutoregressive,
    ConditionalTransform,
    Householder,
    Inverse,
    InverseAutoregressive,
    MaskedAutoregressive,
    Planar,
    Radial,
    SplineAutoregressive,
    SplineCoupling,
    Sylvester,
    stack,
)
from pyro_dgm.distributions.transforms.elementwise import Spline
from pyro_dgm.distributions.transforms.planar import solve_tanh

NARROW = {"hidden_features": (8,)}

TRANSFORMS = [
    pytest.param(lambda d, c: Planar(d, c), id="planar"),
    pytest.param(lambda d, c: Radial(d, c), id="radial"),
    pytest.param(lambda d, c: Householder(d, c), id="householder"),
    pytest.param(lambda d, c: Householder(d, c, num_reflections=3), id="householder-three"),
    pytest.param(lambda d, c: Sylvester(d, c), id="sylvester-orthogonal"),
    pytest.param(lambda d, c: Sylvester(d, c, num_terms=1), id="sylvester-one-term"),
    pytest.param(lambda d, c: Sylvester(d, c, directions="householder"), id="sylvester-householder"),
    pytest.param(lambda d, c: Sylvester(d, c, directions="triangular", reverse=True), id="sylvester-triangular"),
    pytest.param(lambda d, c: InverseAutoregressive(d, c, **NARROW), id="iaf"),
    pytest.param(lambda d, c: InverseAutoregressive(d, c, (8, 6), gated=False, reverse=True), id="iaf-affine-deep"),
    pytest.param(lambda d, c: MaskedAutoregressive(d, c, **NARROW), id="maf"),
    pytest.param(lambda d, c: SplineAutoregressive(d, c, **NARROW), id="spline-autoregressive"),
    pytest.param(
        lambda d, c: SplineAutoregressive(d, c, inverse=True, reverse=True, **NARROW),
        id="spline-autoregressive-inverse",
    ),
    pytest.param(lambda d, c: AffineCoupling(d, c, **NARROW), id="affine-coupling"),
    pytest.param(lambda d, c: AffineCoupling(d, c, reverse=True, **NARROW), id="affine-coupling-reverse"),
    pytest.param(lambda d, c: SplineCoupling(d, c, num_bins=5, **NARROW), id="spline-coupling"),
    pytest.param(lambda d, c: SplineCoupling(d, c, reverse=True, **NARROW), id="spline-coupling-reverse"),
    pytest.param(lambda d, c: BlockAutoregressive(d, c, (4, 3)), id="bnaf"),
    pytest.param(lambda d, c: BlockAutoregressive(d, c, (4,), residual="normal"), id="bnaf-normal"),
    pytest.param(lambda d, c: Inverse(Planar(d, c)), id="inverse-planar"),
    pytest.param(lambda d, c: Inverse(BlockAutoregressive(d, c, (4,))), id="inverse-bnaf"),
]


@pytest.mark.parametrize("context_features", [0, 4])
@pytest.mark.parametrize("build", TRANSFORMS)
def test_transform_contract(build, context_features):
    check_transform(lambda features: build(features, context_features), context_features)


def test_the_planar_equation_is_solved_to_rounding_where_it_is_nearly_flat():
    k = torch.linspace(-3, 3, 61, dtype=torch.float64)
    for steepness in (-1 + 1e-9, -0.999, 0.0, 50.0):
        r = torch.full_like(k, steepness)
        v = torch.linspace(-4, 4, 61, dtype=torch.float64)
        total = v + r * torch.tanh(v + k)
        found = solve_tanh(total, r, torch.ones_like(r), k)
        torch.testing.assert_close(found + r * torch.tanh(found + k), total, atol=1e-12, rtol=1e-12)


def test_a_sylvester_flow_of_one_term_along_an_axis_is_planar():
    torch.manual_seed(0)
    sylvester = Sylvester(1, directions="triangular").double()
    nn.init.normal_(sylvester.parts.values)
    bijection = sylvester()
    x = torch.randn(7, 1, dtype=torch.float64)
    expected = x + bijection.r[0, 0] * torch.tanh(bijection.s[0, 0] * x + bijection.shift)
    torch.testing.assert_close(bijection(x), expected)


def test_the_directions_of_a_sylvester_flow_are_orthonormal():
    for kind in ("orthogonal", "householder", "triangular"):
        q = Sylvester(6, 3, kind).double()(torch.randn(5, 3, dtype=torch.float64)).q
        torch.testing.assert_close(q.mT @ q, torch.eye(q.shape[-1], dtype=torch.float64).expand_as(q.mT @ q))


def test_pyros_sylvester_has_the_log_determinant_of_another_map():
    """What ours is there for: if this fails, Pyro's has been mended."""
    torch.manual_seed(0)
    pyros = pyro_transforms.sylvester(4).double()
    for parameter in pyros.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(20, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: pyros(v).sum(0), x).movedim(0, -2)
    error = pyros.log_abs_det_jacobian(x, pyros(x)) - torch.linalg.slogdet(jacobian)[1]
    assert error.abs().max() > 0.01


def test_a_gated_autoregressive_flow_begins_near_the_identity():
    x = torch.randn(100, 5)
    flow = InverseAutoregressive(5, forget_bias=20.0)
    torch.testing.assert_close(flow()(x), x, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("kind", ["iaf", "maf", "affine-coupling", "spline-autoregressive"])
def test_many_transforms_in_a_row_begin_near_the_identity(kind):
    torch.manual_seed(0)
    x = torch.randn(200, 2)
    y = Flow(StandardNormal(2), stack(kind, 32, 2, **({"gated": False} if kind == "iaf" else {})))().transforms
    for transform in y:
        x = transform(x)
    assert x.abs().max() < 30


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", [InverseAutoregressive, SplineAutoregressive])
def test_an_element_depends_on_those_before_it(kind, reverse):
    torch.manual_seed(0)
    transform = kind(4, 0, (16,), reverse=reverse)
    for parameter in transform.parameters():
        nn.init.normal_(parameter)
    jacobian = torch.autograd.functional.jacobian(transform(), torch.randn(4))
    jacobian = jacobian.flip(0, 1) if reverse else jacobian
    assert torch.equal(jacobian, jacobian.tril())
    assert (jacobian.tril(-1) != 0).sum() == 6


# Splines


def test_a_spline_of_zeros_is_the_identity():
    x = torch.linspace(-7, 7, 99, dtype=torch.float64)
    each = Spline(6, 5.0)(torch.zeros(99, 17, dtype=torch.float64))
    torch.testing.assert_close(each(x), x)
    torch.testing.assert_close(each.log_abs_det_jacobian(x, x), torch.zeros_like(x), atol=1e-12, rtol=0.0)
    assert torch.equal(each(x)[x.abs() > 5], x[x.abs() > 5])


def spline_by_hand(parameters: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """Knots, values and slopes there from the definition, all (N, K + 1)."""
    k = (parameters.shape[-1] + 1) // 3
    knots = []
    for raw in (parameters[:, :k], parameters[:, k : 2 * k]):
        share = 1e-3 + (1 - 1e-3 * k) * raw.exp() / raw.exp().sum(-1, keepdim=True)
        sums = torch.stack([share[:, :i].sum(-1) for i in range(k + 1)], dim=-1)
        knots.append(2 * bound * sums - bound)
    slopes = 1e-3 + (1 + (parameters[:, 2 * k :]).exp() * (torch.tensor(0.999).double().exp() - 1)).log()
    ends = torch.ones(len(parameters), 1, dtype=torch.float64)
    return *knots, torch.cat([ends, slopes, ends], dim=-1)


def test_a_spline_has_the_values_and_slopes_of_the_closed_form_at_its_knots_and_in_between():
    """And on either side of every knot, where it goes over into the next piece."""
    torch.manual_seed(0)
    parameters = torch.randn(20, 14, dtype=torch.float64)
    x, y, slopes = spline_by_hand(parameters, 3.0)
    for shift in (0.0, -1e-9, 1e-9):
        for i in range(6):
            each, at = Spline(5, 3.0)(parameters), x[:, i] + shift
            torch.testing.assert_close(each(at), y[:, i], atol=1e-6, rtol=0.0)
            torch.testing.assert_close(each.inv(y[:, i] + shift), x[:, i], atol=1e-6, rtol=0.0)
            found = each.log_abs_det_jacobian(at, each(at))
            torch.testing.assert_close(found, slopes[:, i].log(), atol=1e-5, rtol=0.0)
    s = (y.diff() / x.diff())[:, 2]  # at the middle of the third bin, equations 4 and 5
    rise = (s / 4 + slopes[:, 2] / 4) / (s + (slopes[:, 2] + slopes[:, 3] - 2 * s) / 4)
    middle = (x[:, 2] + x[:, 3]) / 2
    torch.testing.assert_close(Spline(5, 3.0)(parameters)(middle), y[:, 2] + y.diff()[:, 2] * rise)


def test_a_spline_is_pyros_with_the_same_knots():
    """But for the first and last bin, at whose outer ends Pyro's has slope 0.999; both ways, in float64."""
    torch.manual_seed(0)
    parameters, bound = 2 * torch.randn(50, 40, 23, dtype=torch.float64), 5.0
    x, y, slopes = (t.unflatten(0, (50, 40)) for t in spline_by_hand(parameters.flatten(0, 1), bound))
    widths, heights = parameters[..., :8].softmax(-1), parameters[..., 8:16].softmax(-1)
    pyros = ConditionedSpline((widths, heights, slopes[..., 1:-1] - 1e-3, None), bound, "quadratic")
    ours, at = Spline(8, bound)(parameters), 3 * torch.randn(50, 40, dtype=torch.float64)
    inner = ((at > x[..., 1]) & (at < x[..., -2])) | (at.abs() > bound)
    assert 1000 < inner.sum() < 2000
    torch.testing.assert_close(ours(at)[inner], pyros(at)[inner])
    found, expected = (each.log_abs_det_jacobian(at, each(at))[inner] for each in (ours, pyros))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    inner = ((at > y[..., 1]) & (at < y[..., -2])) | (at.abs() > bound)
    torch.testing.assert_close(ours.inv(at)[inner], pyros.inv(at)[inner], atol=1e-6, rtol=1e-6)


def test_a_spline_of_large_parameters_is_monotone_and_invertible_in_float32():
    """Parameters N(0, 16), 200,000 elements, seed 0, to 1e-4 in y; with slopes from 1e-7 to 1e3, in x by the slope."""
    torch.manual_seed(0)
    parameters = 4 * torch.randn(200_000, Spline(8, 5.0).num_parameters)
    x = 2 * torch.randn(200_000)
    each = Spline(8, 5.0)(parameters)
    y = each(x)
    torch.testing.assert_close(each(each.inv(y)), y, atol=1e-4, rtol=0.0)
    log_slope = each.log_abs_det_jacobian(x, y)
    assert ((each.inv(y) - x).abs() * log_slope.exp() < 1e-4).all()
    assert log_slope.isfinite().all()
    assert each.log_abs_det_jacobian(each.inv(y), y).isfinite().all()
    assert (each(x + 0.01) >= y).all()


def test_gradients_through_a_spline_of_large_parameters_are_finite():
    """Both ways, at the knots and ends, too: parameters N(0, 64), 20,000 elements, seed 0, float32."""
    torch.manual_seed(0)
    parameters = (8 * torch.randn(20_000, 23)).requires_grad_()
    points = torch.cat([3 * torch.randn(19_990), torch.tensor([-5.0, 5.0, 0.0, 1e30, -1e30] * 2)]).requires_grad_()
    each = Spline(8, 5.0)(parameters)
    x = each.inv(points)
    value = x + each(points) + each.log_abs_det_jacobian(x, points) + each.log_abs_det_jacobian(points, points)
    assert value.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(value.sum(), [parameters, points]))


def test_a_coupling_leaves_one_half_alone():
    x = torch.randn(6, 5)
    for kind in (AffineCoupling, SplineCoupling):
        for reverse, kept in ((False, slice(0, 2)), (True, slice(2, 5))):
            transform = kind(5, reverse=reverse, **NARROW)
            for parameter in transform.parameters():
                nn.init.normal_(parameter)
            y = transform()(x)
            changed = torch.ones(5, dtype=torch.bool)
            changed[kept] = False
            assert torch.equal(y[:, kept], x[:, kept])
            assert not torch.isclose(y[:, changed], x[:, changed]).any()


def test_a_stack_alternates_where_order_matters():
    assert [t.net.order for t in stack("iaf", 3, 3)] == [(0, 1, 2), (2, 1, 0), (0, 1, 2)]
    assert [t.net.reverse for t in stack("spline-coupling", 2, 4)] == [False, True]
    assert [type(t) for t in stack("planar", 2, 4)] == [Planar, Planar]


def test_what_is_cheap_is_said():
    assert [transform.cheap for transform in (Planar(2), InverseAutoregressive(2), MaskedAutoregressive(2))] == [
        "both",
        "draw",
        "score",
    ]
    assert Inverse(InverseAutoregressive(2)).cheap == "score"
    assert Inverse(AffineCoupling(2)).cheap == "both"


class _Foreign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("error", "parts", "build"),
    [
        (ValueError, ("features", "0"), lambda: Planar(0)),
        (ValueError, ("context_features", "-1"), lambda: Radial(2, -1)),
        (ValueError, ("at least 2", "AffineCoupling", "Planar"), lambda: AffineCoupling(1)),
        (ValueError, ("as wide as the 5 features", "(4,)"), lambda: InverseAutoregressive(5, hidden_features=(4,))),
        (ValueError, ("hidden_features=()",), lambda: MaskedAutoregressive(5, hidden_features=())),
        (ValueError, ("directions", "'square'"), lambda: Sylvester(4, directions="square")),
        (ValueError, ("num_terms", "9"), lambda: Sylvester(4, num_terms=9)),
        (ValueError, ("num_terms", "triangular"), lambda: Sylvester(4, directions="triangular", num_terms=2)),
        (ValueError, ("num_bins", "501"), lambda: SplineCoupling(4, num_bins=501)),
        (ValueError, ("bound", "-1"), lambda: SplineCoupling(4, bound=-1.0)),
        (ValueError, ("residual", "'none'"), lambda: BlockAutoregressive(4, residual="none")),
        (ValueError, ("kind of transform", "'glow'"), lambda: stack("glow", 2, 4)),
        (ValueError, ("num_transforms", "0"), lambda: stack("iaf", 0, 4)),
        (TypeError, ("_Foreign",), lambda: Inverse(_Foreign())),
        (ValueError, ("a flow needs a transform",), lambda: Flow(StandardNormal(2), [])),
        (ValueError, ("[2, 3]",), lambda: Flow(StandardNormal(2), [Planar(2), Planar(3)])),
        (ValueError, ("event shape (3,)", "2 features"), lambda: Flow(StandardNormal(3), [Planar(2)])()),
        (
            ValueError,
            ("some go one way only", "Inverse"),
            lambda: Flow(StandardNormal(2), [BlockAutoregressive(2), Inverse(BlockAutoregressive(2))]),
        ),
        (TypeError, ("the base of a flow", "Linear"), lambda: Flow(nn.Linear(2, 2), [Planar(2)])),
        (ValueError, ("4 features", "(5, 3)"), lambda: Planar(2, 4)(torch.zeros(5, 3))),
        (ValueError, ("4 features", "(5, 3)"), lambda: InverseAutoregressive(2, 4)(torch.zeros(5, 3))(torch.zeros(2))),
        (
            NotImplementedError,
            ("one way only", "InverseAutoregressive"),
            lambda: BlockAutoregressive(2)().inv(torch.ones(2)),
        ),
    ],
)
def test_bad_input_is_refused(error, parts, build):
    with refuses(error, *parts):
        build()


def test_a_transform_can_be_copied_after_a_step():
    """Pitfall 22: Pyro's remember their last draw, a tensor with a history, which cannot be copied."""
    context = torch.randn(5, 4)
    for name in ("planar", "iaf", "spline-coupling", "bnaf", "sylvester"):
        flow = Flow(StandardNormal(3), stack(name, 2, 3, 4))
        draw = flow(context).rsample()
        (flow(context).log_prob(draw) if flow.scores_any_point else draw).sum().backward()
        other = copy.deepcopy(flow)
        other.load_state_dict(flow.state_dict())
        torch.manual_seed(1)
        expected = flow(context).sample()
        torch.manual_seed(1)
        torch.testing.assert_close(other(context).sample(), expected)


def test_every_public_transform_is_in_the_contract():
    built = {type(p.values[0](3, 0)) for p in TRANSFORMS}
    public = {getattr(transforms, name) for name in transforms.__all__}
    classes = {kind for kind in public if isinstance(kind, type) and issubclass(kind, ConditionalTransform)}
    assert classes - {ConditionalTransform} == built
