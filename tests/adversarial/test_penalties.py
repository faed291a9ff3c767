"""Penalties: one norm per draw whatever the batch, closed forms, laziness, and gradients by finite differences."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from contracts import refuses
from pyro_dgm.adversarial.critics import Critic
from pyro_dgm.adversarial.penalties import DRAGAN, R1, R2, Consistency, GradientPenalty, LeCam, Penalty
from pyro_dgm.nn import MLP


def noisy(*values: Tensor) -> tuple[Tensor, ...]:
    return tuple(value + 0.3 * torch.randn_like(value) for value in values)


SLOPES = [
    pytest.param(R1, id="r1"),
    pytest.param(R2, id="r2"),
    pytest.param(GradientPenalty, id="two-sided"),
    pytest.param(partial(GradientPenalty, one_sided=True), id="one-sided"),
    pytest.param(partial(GradientPenalty, target=0.0), id="zero-centred"),
    pytest.param(partial(GradientPenalty, at="num"), id="at-num"),
    pytest.param(partial(GradientPenalty, at="den"), id="at-den"),
    pytest.param(DRAGAN, id="dragan"),
]
PENALTIES = [
    *SLOPES,
    pytest.param(partial(LeCam, 0.3), id="lecam"),
    pytest.param(partial(Consistency, noisy), id="consistency"),
]
UNIT = [build for build in SLOPES if build.id not in ("r1", "r2", "zero-centred")]


class Linear(nn.Module):
    """Scores by one direction in the joint space of the sites."""

    def __init__(self, *directions: Tensor) -> None:
        super().__init__()
        self.directions = nn.ParameterList(directions)

    def forward(self, *values: Tensor) -> Tensor:
        return sum((x.reshape(len(x), -1) @ d.flatten()) for x, d in zip(values, self.directions, strict=True))


def unit_critic(length: float = 1.0) -> Linear:
    """A critic of slope ``length`` over x (2,) and z (3,) together."""
    direction = torch.randn(5, dtype=torch.float64)
    direction = length * direction / direction.norm()
    return Linear(direction[:2].clone(), direction[2:].clone())


def draws(num_rows: int, other: int | None = None) -> tuple[tuple[Tensor, ...], ...]:
    """Draws of x and z on either side."""
    return tuple(
        tuple(torch.randn(size, width, dtype=torch.float64) for width in (2, 3))
        for size in (num_rows, other or num_rows)
    )


def smooth_critic() -> Critic:
    return Critic(MLP(5, 1, (6,), nn.Tanh)).double()


@pytest.mark.parametrize("build", UNIT)
@pytest.mark.parametrize("num_rows", [1, 16, 64])
def test_a_critic_of_slope_one_costs_nothing_at_any_batch_size(build, num_rows):
    assert build()(unit_critic(), *draws(num_rows)).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("build", SLOPES)
@pytest.mark.parametrize("length", [0.5, 3.0])
def test_on_a_linear_critic_a_penalty_is_its_closed_form(build, length):
    penalty, (num, den) = build(), draws(16, 9)
    found = penalty(unit_critic(length), num, den).item()
    if isinstance(penalty, R1 | R2):
        expected = 5 * length**2
    elif isinstance(penalty, DRAGAN):
        expected = 10 * (length - 1) ** 2
    else:
        gap = length - penalty.target
        expected = 10 * (max(gap, 0.0) if penalty.one_sided else gap) ** 2
    assert found == pytest.approx(expected)


class Quadratic(nn.Module):
    """Half the squared length of all sites together, whose slope is that length."""

    def forward(self, *values: Tensor) -> Tensor:
        return sum(x.reshape(len(x), -1).square().sum(1) for x in values) / 2


def test_on_a_quadratic_critic_slopes_are_taken_where_they_should_be():
    num, den = draws(7)
    lengths = [torch.cat(side, dim=1).norm(dim=1) for side in (num, den)]
    torch.testing.assert_close(R1(3.0)(Quadratic(), num, den), 1.5 * lengths[0].square().mean())
    torch.testing.assert_close(R2(3.0)(Quadratic(), num, den), 1.5 * lengths[1].square().mean())
    for at, length in zip(("num", "den"), lengths, strict=True):
        found = GradientPenalty(2.0, 0.7, at=at)(Quadratic(), num, den)
        torch.testing.assert_close(found, 2 * (length - 0.7).square().mean())
        found = GradientPenalty(2.0, 0.7, one_sided=True, at=at)(Quadratic(), num, den)
        torch.testing.assert_close(found, 2 * (length - 0.7).clamp(min=0).square().mean())
        found = GradientPenalty(2.0, 0.0, at=at)(Quadratic(), num, den)
        torch.testing.assert_close(found, 2 * length.square().mean())


def seen_by(penalty: Penalty, num: tuple[Tensor, ...], den: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """The values at which a penalty calls a critic."""
    calls = []

    class Recording(nn.Module):
        def forward(self, *values: Tensor) -> Tensor:
            calls.append(values)
            return sum(x.reshape(len(x), -1).sum(1) for x in values if x.is_floating_point())

    penalty(Recording(), num, den)
    return calls


def test_interpolates_share_one_coefficient_per_row_among_the_sites():
    num, den = draws(50, 40)
    ((x, z),) = seen_by(GradientPenalty(), num, den)
    assert x.shape == (40, 2)
    shares = torch.cat([(x - den[0]) / (num[0][:40] - den[0]), (z - den[1]) / (num[1][:40] - den[1])], dim=1)
    torch.testing.assert_close(shares, shares[:, :1].expand(-1, 5))
    share = shares[:, 0]
    assert share.min() >= 0
    assert share.max() <= 1
    assert share.std() > 0.2


def test_labels_are_neither_interpolated_nor_differentiated():
    num, den = ((*side, torch.arange(6)) for side in draws(6))
    den = (*den[:2], den[2] + 10)
    for penalty in (GradientPenalty(), DRAGAN()):
        ((_, _, label),) = seen_by(penalty, num, den)
        assert torch.equal(label, num[2])
    with refuses(TypeError, "floating point", "torch.int64"):
        GradientPenalty()(unit_critic(), num[2:], den[2:])


def test_dragan_moves_every_element_by_up_to_half_a_standard_deviation():
    num, den = draws(200)
    ((x, z),) = seen_by(DRAGAN(scale=0.5), num, den)
    for moved, before in ((x, num[0]), (z, num[1])):
        share = (moved - before) / before.std(correction=0)
        assert share.min() >= 0
        assert 0.45 < share.max() <= 0.5
        assert share.mean().item() == pytest.approx(0.25, abs=5 * 0.5 / math.sqrt(12 * share.numel()))


def test_packed_rows_have_one_norm():
    """A packed critic of slope one over a pack costs nothing, and rows left over count for nothing."""
    direction = torch.randn(15, dtype=torch.float64)
    net = MLP(15, 1, hidden_features=()).double()
    with torch.no_grad():
        net.layers[0].weight.copy_(direction / direction.norm())
    for num_rows in (3, 10, 48):
        value = GradientPenalty()(Critic(net, pac=3), *draws(num_rows))
        assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert R1(10.0)(Critic(net, pac=3), *draws(11)).item() == pytest.approx(5.0)


def test_a_flat_critic_has_finite_gradients():
    for critic in (Linear(torch.zeros(2).double(), torch.zeros(3).double()), smooth_critic()):
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.zero_()
        for build in (param.values[0] for param in SLOPES):
            value = build()(critic, *draws(4))
            slopes = torch.autograd.grad(value, list(critic.parameters()), allow_unused=True)
            assert all(slope is None or slope.isfinite().all() for slope in slopes)


def test_a_critic_blind_to_its_input_has_slope_zero():
    class Constant(nn.Module):
        def forward(self, *values: Tensor) -> Tensor:
            return values[0].new_ones(len(values[0]))

    assert R1()(Constant(), *draws(3)).item() == 0.0
    assert GradientPenalty(weight=2.0)(Constant(), *draws(3)).item() == 2.0
    blind = Linear(torch.ones(2).double())
    critic = nn.Module()
    critic.forward = lambda x, z: blind(x)
    assert R1(1.0)(critic, *draws(3)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("build", PENALTIES)
def test_gradients_for_the_critic_are_those_of_finite_differences_and_not_zero(build):
    critic, (num, den) = smooth_critic(), draws(5)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter *= 3  # slopes above one
    penalty = build().double().eval()
    names, parameters = zip(*critic.named_parameters(), strict=True)

    def value(*parameters: Tensor) -> Tensor:
        torch.manual_seed(1)

        class Held(nn.Module):
            def forward(self, *values: Tensor) -> Tensor:
                return functional_call(critic, dict(zip(names, parameters, strict=True)), values)

        if isinstance(penalty, LeCam):  # its anchors are those of no other critic
            penalty.is_new.fill_(False)
            return LeCam.value(_still(penalty), Held(), num, den)
        return penalty(Held(), num, den)

    assert torch.autograd.gradcheck(value, parameters)
    slopes = torch.autograd.grad(value(*parameters), parameters, allow_unused=True)
    assert sum(slope is not None and bool(slope.any()) for slope in slopes) >= 3  # all but the last bias


def _still(penalty: LeCam) -> LeCam:
    """With anchors that a batch does not move."""
    other = copy.deepcopy(penalty)
    other.decay = 1.0
    return other


@pytest.mark.parametrize("build", PENALTIES)
def test_a_lazy_penalty_has_the_same_mean_over_a_cycle(build):
    num, den = draws(6)

    def values(penalty: Penalty) -> list[float]:
        found = []
        for _ in range(8):
            torch.manual_seed(3)
            found.append(penalty(Quadratic(), num, den).item())
        return found

    eager, lazy = values(build()), values(build(every=4))
    assert [value > 0 for value in lazy] == [True, False, False, False] * 2
    assert sum(lazy[:4]) == pytest.approx(sum(eager[:4]))
    assert sum(lazy[4:]) == pytest.approx(sum(eager[4:]))


@pytest.mark.parametrize("build", PENALTIES)
def test_the_count_moves_in_training_mode_and_is_restored_bitwise(build):
    critic, batches = smooth_critic(), [draws(6) for _ in range(5)]
    penalty = build(every=3)
    for num, den in batches:
        penalty(critic, num, den)
    other = build(every=3)
    other.load_state_dict(penalty.state_dict())
    assert penalty.count.item() == 5
    assert not penalty.is_due
    for num, den in batches:
        found = []
        for each in (penalty, other):
            torch.manual_seed(2)
            found.append(each(critic, num, den))
        assert torch.equal(*found)
    assert all(map(torch.equal, penalty.state_dict().values(), other.state_dict().values()))
    before = {key: value.clone() for key, value in penalty.state_dict().items()}
    penalty.eval()
    for num, den in batches:
        penalty(critic, num, den)
    assert all(torch.equal(value, before[key]) for key, value in penalty.state_dict().items())


@pytest.mark.parametrize("build", PENALTIES)
def test_penalties_can_be_read_without_gradients(build):
    critic, (num, den) = smooth_critic(), draws(6)
    torch.manual_seed(4)
    expected = build()(critic, num, den)
    assert expected.requires_grad
    with torch.no_grad():
        torch.manual_seed(4)
        found = build()(critic, num, den)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("build", SLOPES)
def test_penalties_of_slopes_move_no_player(build):
    critic, (num, den) = smooth_critic(), draws(6)
    for value in (*num, *den):
        value.requires_grad_()
    build()(critic, num, den).backward()
    assert all(value.grad is None for value in (*num, *den))


def test_lecam_is_that_of_a_hand_loop():
    penalty, critic = LeCam(0.3, decay=0.8).double(), smooth_critic()
    penalty(critic, *(tuple(value * math.nan for value in side) for side in draws(5)))  # a step not to be taken
    anchors = None
    for _ in range(6):
        num, den = draws(5, 4)
        above, below = critic(*num), critic(*den)
        new = above.mean().item(), below.mean().item()
        anchors = new if anchors is None else tuple(0.8 * a + 0.2 * n for a, n in zip(anchors, new, strict=True))
        expected = 0.3 * ((above - anchors[1]).square().mean() + (below - anchors[0]).square().mean())
        torch.testing.assert_close(penalty(critic, num, den), expected)
    with torch.no_grad():
        before = penalty.anchors.clone()
        penalty(critic, *draws(5))
    assert torch.equal(penalty.anchors, before)
    nan = tuple(value * math.nan for value in num)
    penalty(critic, nan, den)
    assert torch.equal(penalty.anchors, before)


def test_consistency_compares_scores_before_and_after():
    critic, (num, den) = smooth_critic(), draws(5)
    found = Consistency(lambda x, z: (x + 1, z), weight=2.0)(critic, num, den)
    torch.testing.assert_close(found, 2 * (critic(*num) - critic(num[0] + 1, num[1])).square().mean())
    assert Consistency(lambda *values: values)(critic, num, den).item() == 0.0


@pytest.mark.parametrize(
    ("build", "error", "part"),
    [
        (lambda: R1(-1.0), ValueError, "gamma"),
        (lambda: R2("x"), TypeError, "gamma"),
        (lambda: R1(every=0), ValueError, "every"),
        (lambda: GradientPenalty(weight=math.nan), ValueError, "nan"),
        (lambda: GradientPenalty(target=-1.0), ValueError, "target"),
        (lambda: GradientPenalty(one_sided=1), TypeError, "one_sided"),
        (lambda: GradientPenalty(at="data"), ValueError, "'data'"),
        (lambda: DRAGAN(scale=0.0), ValueError, "scale"),
        (lambda: LeCam(0.3, decay=1.0), ValueError, "decay"),
        (lambda: LeCam(-0.3), ValueError, "weight"),
        (lambda: Consistency(3), TypeError, "augment"),
    ],
)
def test_bad_arguments_are_refused(build, error, part):
    with refuses(error, part):
        build()


def test_bad_values_are_refused():
    critic, (num, den) = smooth_critic(), draws(4)
    with refuses(TypeError, "tuple of tensors", "Tensor of num"):
        R1()(critic, num[0], den)
    with refuses(ValueError, "one row per draw", "(3, 3)"):
        R1()(critic, num, (den[0], den[1][:3]))
    with refuses(ValueError, "one row per draw", "[]"):
        R1()(critic, (), ())
    with refuses(ValueError, "one row per draw", "(0, 2)"):
        R1()(critic, num, tuple(value[:0] for value in den))
    with refuses(ValueError, "same sites", "(4, 3)"):
        R1()(critic, num, den[::-1])
    with refuses(TypeError, "augment", "Tensor"):
        Consistency(lambda x, z: x)(critic, num, den)
    with refuses(ValueError, "augment", "(4, 1)"):
        Consistency(lambda x, z: (x[:, :1], z))(critic, num, den)
    with refuses(ValueError, "row", "2 rows of 4"):
        Consistency(lambda x, z: (x[:2], z[:2]))(critic, num, den)
    penalty = R1(every=2)
    with refuses(ValueError, "same sites"):
        penalty(critic, num, den[::-1])
    assert penalty.count.item() == 0
