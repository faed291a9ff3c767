"""Losses of critics: divergences of Gaussians by quadrature, gradients by finite differences, and the state."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import Tensor

from contracts import refuses
from pyro_dgm.adversarial.estimators import (
    BoundaryEquilibrium,
    EnergyMargin,
    Hinge,
    LeastSquares,
    Logistic,
    Relativistic,
    Wasserstein,
)
from pyro_dgm.adversarial.f_divergences import NWJ, DonskerVaradhan, FDivergence

TV = math.erf(0.5 / math.sqrt(2))
HELLINGER = 2 - 2 * math.exp(-1 / 8)
ALPHAS = (-1.0, 0.0, 0.3, 0.5, 1.0, 2.0)


def jensen_shannon() -> float:
    """The divergence of N(0, 1) and N(1, 1), by the sum of its definition."""
    x = torch.linspace(-15, 16, 4001, dtype=torch.float64)
    p, q = (torch.distributions.Normal(torch.tensor(loc, dtype=torch.float64), 1.0).log_prob(x) for loc in (0.0, 1.0))
    middle = torch.logaddexp(p, q) - math.log(2)
    return float((p.exp() * (p - middle) + q.exp() * (q - middle)).sum() / 2 * (x[1] - x[0]))


JSD = jensen_shannon()

# D(N(0, 1) || N(1, 1)).
DIVERGENCES = {
    "kl": 0.5,
    "reverse-kl": 0.5,
    "pearson": math.e - 1,
    "neyman": math.e - 1,
    "squared-hellinger": HELLINGER,
    "jensen-shannon": 2 * JSD,
    "gan": 2 * JSD - math.log(4),
}
DUALS = [
    *(pytest.param(FDivergence(name), value, id=name) for name, value in DIVERGENCES.items()),
    *(
        pytest.param(
            FDivergence("alpha", alpha),
            (math.exp(alpha * (alpha - 1) / 2) - 1) / (alpha * (alpha - 1)) if alpha not in (0, 1) else 0.5,
            id=f"alpha-{alpha}",
        )
        for alpha in ALPHAS
    ),
    pytest.param(NWJ(), 0.5, id="nwj"),
    pytest.param(Logistic(), JSD, id="logistic"),
]

ESTIMATORS = [
    pytest.param(Logistic, id="logistic"),
    pytest.param(partial(Logistic, 0.1), id="logistic-smoothed"),
    pytest.param(LeastSquares, id="least-squares"),
    pytest.param(partial(LeastSquares, -1, 1, 0), id="least-squares-pearson"),
    pytest.param(Hinge, id="hinge"),
    pytest.param(Wasserstein, id="wasserstein"),
    *(pytest.param(partial(FDivergence, name), id=name) for name in (*DIVERGENCES, "total-variation")),
    *(pytest.param(partial(FDivergence, "alpha", alpha), id=f"alpha-{alpha}") for alpha in ALPHAS),
    pytest.param(NWJ, id="nwj"),
    pytest.param(DonskerVaradhan, id="donsker-varadhan"),
    pytest.param(partial(EnergyMargin, 1.5), id="energy-margin"),
    pytest.param(BoundaryEquilibrium, id="boundary-equilibrium"),
    pytest.param(Relativistic, id="relativistic-average"),
    pytest.param(partial(Relativistic, False), id="relativistic-paired"),
]


def scores(*sizes: int) -> list[Tensor]:
    return [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]


@pytest.mark.parametrize(("estimator", "divergence"), DUALS)
def test_a_linear_critic_at_the_optimal_logit_is_tight(estimator, divergence, line):
    """P = N(0, 1), Q = N(1, 1): the log-ratio is 1/2 - x."""
    optimal = 0.5 - line.x + estimator.level()
    found = line.expected(estimator.divergence, optimal, optimal, line.weights(), line.weights(1.0))
    assert found.item() == pytest.approx(divergence, abs=1e-6)
    torch.testing.assert_close(estimator.log_ratio(optimal), 0.5 - line.x)


@pytest.mark.parametrize(("estimator", "divergence"), DUALS)
def test_any_other_critic_gives_less(estimator, divergence, line):
    p, q = line.weights(), line.weights(1.0)
    p, q = p / p.sum(), q / q.sum()
    for _ in range(20):
        a, b, c = torch.randn(3, dtype=torch.float64)
        v = (0.5 - line.x) * (1 + 0.3 * a) + b + 0.3 * c * line.x.sin()
        assert line.expected(estimator.divergence, v, v, p, q) < divergence + 1e-9


@pytest.mark.parametrize(("estimator", "divergence"), DUALS)
def test_a_linear_critic_learns_the_optimum(estimator, divergence, line):
    line = type(line)(line.x[::20])
    p, q = line.weights(), line.weights(1.0)
    parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], lr=0.5, max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure() -> Tensor:
        optimizer.zero_grad()
        weight, bias = parameters
        v = weight * line.x + bias
        loss = line.expected(estimator.loss, v, v, p, q)
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = torch.tensor([-1.0, 0.5 + estimator.level()], dtype=torch.float64)
    torch.testing.assert_close(parameters.detach(), expected, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(("name", "alpha"), [*((name, None) for name in DIVERGENCES), ("alpha", 0.3), ("alpha", -1.5)])
def test_the_dual_variable_and_its_conjugate_are_those_of_f(name, alpha, line):
    """T = f'(u), and f*(T) = u T - f(u), at u = e^v."""
    estimator = FDivergence(name, alpha)
    v = torch.linspace(-3, 3, 31, dtype=torch.float64)
    u = v.exp().requires_grad_()
    f = line.generator(name, u, alpha)
    (slope,) = torch.autograd.grad(f.sum(), u)
    conjugate = (u * slope - f).detach()
    nought = torch.zeros(1, dtype=torch.float64)
    at_nought = estimator.criterion(nought, nought)
    for i, value in enumerate(v):
        moved = estimator.criterion(nought, value.reshape(1)) - at_nought
        assert moved.item() == pytest.approx((conjugate[i] - conjugate[15]).item(), abs=1e-9)
        moved = estimator.criterion(value.reshape(1), nought) - at_nought
        assert moved.item() == pytest.approx((slope[15] - slope[i]).item(), abs=1e-9)
    assert at_nought.item() == pytest.approx((conjugate[15] - slope[15]).item(), abs=1e-12)


def test_total_variation_is_reached_in_the_limit_of_a_steep_critic(line):
    estimator, p, q = FDivergence("total-variation"), line.weights(), line.weights(1.0)
    found = []
    for slope in (1, 3, 10, 100):
        v = slope * (0.5 - line.x)
        found.append(line.expected(estimator.divergence, v, v, p, q).item())
    assert found == sorted(found)
    assert found[-1] == pytest.approx(TV, abs=1e-4)
    assert found[-1] < TV


def test_the_hinge_reaches_the_total_variation_at_the_sign_of_the_log_ratio(line):
    sign = (0.5 - line.x).sign()
    found = line.expected(Hinge().divergence, sign, sign, line.weights(), line.weights(1.0))
    assert found.item() == pytest.approx(TV, abs=1e-4)
    for slope in (0.5, 1.0, 2.0):
        v = slope * (0.5 - line.x)
        assert line.expected(Hinge().divergence, v, v, line.weights(), line.weights(1.0)) < TV


def test_loss_and_accuracy_of_the_logistic_critic_are_those_known(line):
    optimal, p, q = 0.5 - line.x, line.weights(), line.weights(1.0)
    assert line.expected(Logistic().loss, optimal, optimal, p, q).item() == pytest.approx(1.163451, abs=1e-6)
    right = Logistic().looks_like_num(optimal, optimal, optimal).double()
    right[line.x == 0.5] = 0.5  # the trapezium rule at the step
    assert (p @ right).item() == pytest.approx(0.691462, abs=1e-5)
    assert (q @ (1 - right)).item() == pytest.approx(0.691462, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_label_smoothing_is_one_sided(smoothing, line):
    """The optimal probability is (1 - e) p / (p + q), and its logit at equal densities the estimator's level."""
    estimator, p, q = Logistic(smoothing), line.weights(), line.weights(1.0)
    logit = ((1 - smoothing) * p / (p + q)).nan_to_num(0.5).logit().requires_grad_()
    near = line.x.abs() < 5
    (slope,) = torch.autograd.grad(line.expected(estimator.loss, logit, logit, p, q), logit)
    assert slope[near].abs().max() < 1e-12
    middle = (line.x - 0.5).abs() < 1e-9
    assert logit[middle].item() == pytest.approx(estimator.level(), abs=1e-12)


@pytest.mark.parametrize(("a", "b", "c"), [(0.0, 1.0, 1.0), (-1.0, 1.0, 0.0), (-2.0, 1.0, 3.0)])
def test_least_squares_is_optimal_at_the_weighted_label(a, b, c, line):
    estimator, p, q = LeastSquares(a, b, c), line.weights(), line.weights(1.0)
    best = ((b * p + a * q) / (p + q)).nan_to_num(0.0).requires_grad_()
    (slope,) = torch.autograd.grad(line.expected(estimator.loss, best, best, p, q), best)
    assert slope.abs().max() < 1e-12
    if c == 0:  # Mao et al., section 3.2
        pearson = ((p - q).square() / (p + q)).nan_to_num(0.0).sum() / 2
        torch.testing.assert_close(line.expected(estimator.flipped, best, best, p, q), pearson)


@pytest.mark.parametrize("build", ESTIMATORS)
@pytest.mark.parametrize("name", ["loss", "criterion", "flipped"])
def test_gradients_are_those_of_finite_differences_and_not_zero(build, name):
    estimator = build().double()
    num, den = scores(5, 5)
    assert torch.autograd.gradcheck(getattr(estimator.eval(), name), (num, den))
    if isinstance(estimator, BoundaryEquilibrium):
        estimator.k.fill_(0.3)  # at 0 one side has no part
    slopes = torch.autograd.grad(getattr(estimator, name)(num, den), (num, den))
    assert all(slope.any() and slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("build", ESTIMATORS)
def test_losses_are_means_over_draws(build):
    """Twice the same draws give the same loss, so a penalty or a learning rate means the same for any batch."""
    estimator, (num, den) = build().double(), scores(6, 6)
    torch.testing.assert_close(estimator.criterion(num.repeat(2), den.repeat(2)), estimator.criterion(num, den))
    torch.testing.assert_close(estimator.flipped(num.repeat(2), den.repeat(2)), estimator.flipped(num, den))


@pytest.mark.parametrize("build", ESTIMATORS)
def test_a_loss_falls_as_the_critic_tells_better_and_its_flip_rises(build):
    estimator = build().double()
    if isinstance(estimator, BoundaryEquilibrium):
        estimator.k.fill_(1.0)
    nought = torch.zeros(4, dtype=torch.float64)
    better = estimator.criterion(nought + 0.1, nought - 0.1), estimator.criterion(nought, nought)
    assert better[0] < better[1]
    assert estimator.flipped(nought + 0.1, nought - 0.1) > estimator.flipped(nought, nought)


@pytest.mark.parametrize("build", ESTIMATORS)
def test_accuracy_is_the_share_told_right(build):
    estimator, level = build().double(), build().level()
    level = 0.0 if level is None else float(level)
    num = torch.tensor([1.0, 2.0, 3.0, -2.0], dtype=torch.float64) + level
    den = torch.tensor([-1.0, -2.0, -3.0, -4.0, 2.0], dtype=torch.float64) + level
    right = estimator.accuracy(num, den)
    assert [share.item() for share in right] == pytest.approx([0.75, 0.8])
    assert [share.item() for share in estimator.accuracy(num + 9, den - 9)] == [1.0, 1.0]


@pytest.mark.parametrize("build", ESTIMATORS)
def test_extreme_scores_give_no_nan_and_no_nan_gradient(build):
    """In float32, beyond where exp overflows: the loss of one side may be infinite, and neither it nor a slope NaN."""
    for size in (60.0, 500.0):
        for sign in (1, -1):
            num = torch.tensor([sign * size, 0.0], requires_grad=True)
            den = torch.zeros(2, requires_grad=True)
            for first, second in ((num, den), (den, num)):
                loss = build().loss(first, second)
                assert not loss.isnan()
                assert not any(slope.isnan().any() for slope in torch.autograd.grad(loss, (first, second)))


@pytest.mark.parametrize("name", ["jensen-shannon", "gan", "total-variation"])
def test_the_mild_divergences_never_overflow(name):
    num, den = (torch.tensor([-1e4, 1e4], requires_grad=True) for _ in range(2))
    loss = FDivergence(name).loss(num, den)
    assert loss.isfinite()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(loss, (num, den)))


@pytest.mark.parametrize("build", ESTIMATORS)
def test_an_estimator_knows_what_its_scores_give(build):
    estimator, (num, den) = build(), [score.float() for score in scores(4, 4)]
    if estimator.has_log_ratio:
        assert estimator.log_ratio(num).shape == num.shape
        assert estimator.log_ratio(num.reshape(2, 2)).shape == (2, 2)
    else:
        with refuses(ValueError, "log-ratio", type(estimator).__name__):
            estimator.log_ratio(num)
    if estimator.divergence_name is not None:
        assert estimator.divergence(num, den).shape == ()
    else:
        with refuses(ValueError, "bounds none", type(estimator).__name__):
            estimator.divergence(num, den)


def test_those_without_a_log_ratio_are_those_whose_scores_have_limits_or_no_level():
    without = {str(build().eval()) for build in (param.values[0] for param in ESTIMATORS) if not build().has_log_ratio}
    assert {text.split("(")[0] for text in without} == {
        "Logistic",
        "LeastSquares",
        "Hinge",
        "Wasserstein",
        "FDivergence",
        "EnergyMargin",
        "BoundaryEquilibrium",
        "Relativistic",
    }
    assert Logistic().has_log_ratio
    assert [name for name in (*DIVERGENCES, "total-variation") if not FDivergence(name).has_log_ratio] == [
        "total-variation"
    ]


@pytest.mark.parametrize("build", ESTIMATORS)
def test_state_moves_in_training_losses_alone_and_is_restored_bitwise(build):
    estimator, (num, den) = build(), [score.float() for score in scores(4, 4)]

    def state(module):
        return [buffer.clone() for buffer in module.state_dict().values()]

    start = state(estimator)
    with torch.no_grad():
        estimator.loss(num, den)
    estimator.criterion(num, den)
    estimator.flipped(num, den)
    estimator.accuracy(num, den)
    estimator.eval().loss(num, den)
    estimator.train().loss(num * math.nan, den * math.nan)  # of a step not to be taken nothing is kept
    assert all(map(torch.equal, state(estimator), start))
    estimator.loss(num - 5, den)
    if start:
        assert not all(map(torch.equal, state(estimator), start))
    moved = copy.deepcopy(estimator)
    estimator.loss(torch.full_like(num, math.nan), den * math.nan)
    assert all(map(torch.equal, state(estimator), state(moved)))
    other = build()
    other.load_state_dict(estimator.state_dict())
    assert torch.equal(other.loss(num, den), estimator.loss(num, den))
    assert all(map(torch.equal, state(other), state(estimator)))


def test_donsker_varadhan_gives_the_kl_on_large_samples():
    """Seed 0, 200 000 draws of each; within 4 standard errors by the delta method."""
    n = 200_000
    num, den = (0.5 - (torch.randn(n, dtype=torch.float64) + loc) for loc in (0.0, 1.0))
    found = DonskerVaradhan().divergence(num + 3, den + 3)
    error = math.sqrt((num.var() + den.exp().var() / den.exp().mean() ** 2) / n)
    assert abs(found.item() - 0.5) < 4 * error
    assert error < 0.005


def test_donsker_varadhan_does_not_see_a_constant_and_its_log_ratio_takes_it_off():
    """Seed 0, 300 batches of 1000 draws, the constant 2; 0.02 is 5 standard errors of the mean of some 100 batches."""
    estimator = DonskerVaradhan(decay=0.98)
    for _ in range(300):
        num, den = 2.5 - torch.randn(1000), 2.5 - (torch.randn(1000) + 1)
        estimator.loss(num, den)
    torch.testing.assert_close(estimator.log_ratio(torch.tensor([2.0])), torch.tensor([0.0]), atol=0.02, rtol=0.0)
    with torch.no_grad():
        torch.testing.assert_close(estimator.loss(num + 1, den + 1), estimator.loss(num, den))


def test_the_moving_average_takes_most_of_the_bias_off_the_gradient():
    """Critic s = t x at t = -1 under Q = N(1, 1): d log E e^s / dt = 1 + t = 0. Seed 0, 2000 batches of 4 draws."""
    bias = {}
    batches = torch.randn(2000, 4, dtype=torch.float64) + 1
    for decay in (0.0, 0.99):
        estimator, slopes = DonskerVaradhan(decay).double(), []
        for x in batches:
            t = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
            loss = estimator.loss(torch.zeros(4, dtype=torch.float64), t * x)
            slopes.append(torch.autograd.grad(loss, t)[0])
        slopes = torch.stack(slopes[200:])
        bias[decay] = slopes.mean().item(), (slopes.std() / math.sqrt(len(slopes))).item()
    assert bias[0.0][0] > 0.15
    assert bias[0.0][0] > 5 * bias[0.0][1]
    assert abs(bias[0.99][0]) < 0.02 + 4 * bias[0.99][1]
    assert abs(bias[0.99][0]) < bias[0.0][0] / 2


def test_the_moving_average_is_that_of_a_hand_loop():
    estimator, average = DonskerVaradhan(decay=0.9).double(), None
    for _ in range(10):
        num, den = scores(3, 4)
        loss = estimator.loss(num, den)
        new = den.detach().exp().mean()
        average = new if average is None else 0.9 * average + 0.1 * new
        torch.testing.assert_close(estimator.log_normalizer.exp(), average)
        torch.testing.assert_close(loss.detach(), den.detach().exp().mean().log() - num.detach().mean())
        (slope,) = torch.autograd.grad(loss, den)
        torch.testing.assert_close(slope, den.detach().exp() / 4 / average)


def test_the_balance_of_boundary_equilibrium_is_that_of_a_hand_loop():
    estimator, k = BoundaryEquilibrium(gamma=0.4, rate=0.3).double(), 0.0
    history = []
    for step in range(30):
        energies = torch.rand(5, dtype=torch.float64) + 1, torch.rand(4, dtype=torch.float64) * (1 if step < 15 else 4)
        above, below = (energy.mean().item() for energy in energies)
        num, den = (-energy.requires_grad_() for energy in energies)
        loss = estimator.loss(num, den)
        assert loss.item() == pytest.approx(above - k * below)
        slopes = torch.autograd.grad(loss, energies)  # the k of before the loss
        torch.testing.assert_close(slopes[1], torch.full_like(energies[1], -k / 4))
        k = min(max(k + 0.3 * (0.4 * above - below), 0.0), 1.0)
        assert estimator.k.item() == pytest.approx(k)
        measure = above + abs(0.4 * above - below)
        assert estimator.convergence(num, den).item() == pytest.approx(measure)
        history.append(k)
    assert min(history) == 0.0
    assert max(history) > 0.1


def test_energies_are_held_to_the_margin():
    num, den = torch.tensor([-0.2, -0.4]), torch.tensor([-1.0, -3.0])
    assert EnergyMargin(2.0).loss(num, den).item() == pytest.approx(0.3 + 0.5)


def test_relativistic_losses_are_those_of_a_slow_loop():
    num, den = scores(3, 3)
    pairs = sum(math.log1p(math.exp(y - x)) for x, y in zip(num.tolist(), den.tolist(), strict=True)) / 3
    assert Relativistic(average=False).loss(num, den).item() == pytest.approx(pairs)
    above, below = num.mean().item(), den.mean().item()
    average = sum(math.log1p(math.exp(below - x)) for x in num.tolist()) / 3
    average += sum(math.log1p(math.exp(y - above)) for y in den.tolist()) / 3
    assert Relativistic().loss(num, den).item() == pytest.approx(average)


def test_bad_scores_and_arguments_are_refused():
    good = torch.randn(4)
    for bad, error in (
        (torch.randn(4, 1), ValueError),
        (torch.randn(0), ValueError),
        (torch.tensor(1.0), ValueError),
        (torch.ones(4, dtype=torch.long), TypeError),
        ([1.0], TypeError),
    ):
        with refuses(error, "Logistic", "of num"):
            Logistic().loss(bad, good)
        with refuses(error, "Logistic", "of den"):
            Logistic().accuracy(good, bad)
    with refuses(ValueError, "4 of num", "3 of den"):
        Relativistic(average=False).loss(good, good[:3])


@pytest.mark.parametrize(
    ("build", "error", "part"),
    [
        (lambda: Logistic(0.5), ValueError, "0.5"),
        (lambda: Logistic("much"), TypeError, "much"),
        (lambda: LeastSquares(1.0, 0.0), ValueError, "label b"),
        (lambda: LeastSquares(0.0, 1.0, -1.0), ValueError, "label c"),
        (lambda: LeastSquares(math.inf), ValueError, "inf"),
        (lambda: FDivergence("js"), ValueError, "'js'"),
        (lambda: FDivergence("alpha"), ValueError, "alpha=None"),
        (lambda: FDivergence("kl", 0.5), ValueError, "'kl'"),
        (lambda: FDivergence("alpha", math.nan), ValueError, "nan"),
        (lambda: FDivergence("alpha", True), TypeError, "True"),
        (lambda: DonskerVaradhan(1.0), ValueError, "decay"),
        (lambda: EnergyMargin(0.0), ValueError, "margin"),
        (lambda: BoundaryEquilibrium(gamma=0.0), ValueError, "gamma"),
        (lambda: BoundaryEquilibrium(rate=-1.0), ValueError, "rate"),
        (lambda: Relativistic(1), TypeError, "average"),
    ],
)
def test_bad_arguments_are_refused(build, error, part):
    with refuses(error, part):
        build()
