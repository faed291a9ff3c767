"""What a player minimises has the gradient of the divergence it is named after, where the critic is optimal."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from contracts import refuses
from pyro_dgm.adversarial.critics import Critic
from pyro_dgm.adversarial.estimators import (
    BoundaryEquilibrium,
    CriticEstimator,
    EnergyMargin,
    Hinge,
    LeastSquares,
    Logistic,
    Relativistic,
    Wasserstein,
)
from pyro_dgm.adversarial.f_divergences import NWJ, DonskerVaradhan, FDivergence
from pyro_dgm.adversarial.objectives import IPM, FeatureMatching, ForwardKL, Minimax, NonSaturating, ReverseKL
from pyro_dgm.nn import MLP

NUM, DEN = (0.0, 1.0), (1.0, 1.2)  # location and scale of the two normal distributions

ESTIMATORS = [
    Logistic,
    partial(Logistic, 0.1),
    LeastSquares,
    Hinge,
    Wasserstein,
    partial(FDivergence, "pearson"),
    partial(FDivergence, "total-variation"),
    NWJ,
    DonskerVaradhan,
    partial(EnergyMargin, 1.5),
    BoundaryEquilibrium,
    Relativistic,
    partial(Relativistic, False),
]
OBJECTIVES = [
    Minimax(),
    NonSaturating(),
    ReverseKL(),
    ForwardKL(),
    ForwardKL(self_normalized=False),
    IPM(),
    FeatureMatching(),
    FeatureMatching(paired=True),
]


def legal(objective, estimator, critic) -> bool:
    try:
        objective.check(estimator, critic)
    except ValueError:
        return False
    return True


PAIRS = [
    pytest.param(objective, build, id=f"{type(objective).__name__}-{i}-{build()}")
    for i, objective in enumerate(OBJECTIVES)
    for build in ESTIMATORS
    if legal(objective, build(), Critic(nn.Identity(), features=nn.Identity()))
]


class Ratio(nn.Module):
    """The optimal critic of two normal distributions, as the estimator wants its scores."""

    def __init__(self, estimator: CriticEstimator, num: tuple[float, float] = NUM, den: tuple[float, float] = DEN):
        super().__init__()
        self.level, self.num, self.den = estimator.level(), num, den

    def forward(self, x: Tensor) -> Tensor:
        log_p, log_q = (-0.5 * ((x - loc) / scale).square() - math.log(scale) for loc, scale in (self.num, self.den))
        return log_p - log_q + self.level


def places() -> tuple[Tensor, Tensor]:
    """Location and scale of num and of den, with gradients."""
    return tuple(torch.tensor(place, dtype=torch.float64, requires_grad=True) for place in (NUM, DEN))


def slopes_of_game(objective, estimator, line, num, den):
    """The gradient of the expected loss through the draws, for the places that have one."""
    critic, weights = Ratio(estimator), line.weights()
    x, y = (place[0] + place[1] * line.x for place in (num, den))
    loss = line.expected(lambda a, b: objective.loss(estimator, critic, (a,), (b,)), x, y, weights, weights)
    return loss, torch.autograd.grad(loss, [place for place in (num, den) if place.requires_grad])


def slopes_of_divergence(value, num, den):
    return torch.autograd.grad(value, [place for place in (num, den) if place.requires_grad])


@pytest.mark.parametrize(
    ("estimator", "name", "alpha"),
    [
        *((FDivergence(name), name, None) for name in ("kl", "reverse-kl", "pearson", "neyman")),
        *((FDivergence(name), name, None) for name in ("squared-hellinger", "jensen-shannon", "gan")),
        *((FDivergence("alpha", alpha), "alpha", alpha) for alpha in (-0.5, 0.3, 1.5)),
        (NWJ(), "kl", None),
        (Logistic(), "jensen-shannon", None),
    ],
)
def test_minimax_has_the_gradient_of_the_divergence_for_both_sides(estimator, name, alpha, line):
    num, den = places()
    divergence = line.divergence(name, line.log_prob(*num), line.log_prob(*den), alpha)
    loss, found = slopes_of_game(Minimax(), estimator, line, num, den)
    offset = -math.log(4) if isinstance(estimator, Logistic) else 0.0
    torch.testing.assert_close(loss, divergence + offset, atol=1e-8, rtol=0.0)
    torch.testing.assert_close(found, slopes_of_divergence(divergence, num, den), atol=1e-7, rtol=0.0)


@pytest.mark.parametrize("estimator", [Logistic(), NWJ(), FDivergence("pearson"), DonskerVaradhan().double()], ids=str)
def test_reverse_kl_has_value_and_gradient_of_kl_of_den_from_num(estimator, line):
    num, den = places()
    num = num.detach()
    if isinstance(estimator, DonskerVaradhan):
        estimator.log_normalizer.fill_(0.7)
    divergence = line.divergence("reverse-kl", line.log_prob(*num), line.log_prob(*den))
    loss, found = slopes_of_game(ReverseKL(), estimator, line, num, den)
    torch.testing.assert_close(loss, divergence)
    torch.testing.assert_close(found, slopes_of_divergence(divergence, num, den))


@pytest.mark.parametrize("estimator", [Logistic(), NWJ(), FDivergence("pearson"), DonskerVaradhan().double()], ids=str)
def test_forward_kl_has_value_and_gradient_of_kl_of_num_from_den(estimator, line):
    num, den = places()
    divergence = line.divergence("kl", line.log_prob(*num), line.log_prob(*den))
    loss, found = slopes_of_game(ForwardKL(self_normalized=False), estimator, line, num, den)
    torch.testing.assert_close(loss, divergence)
    torch.testing.assert_close(found, slopes_of_divergence(divergence, num, den))


def test_the_two_kls_differ_here(line):
    num, den = (line.log_prob(*place) for place in places())
    assert abs(line.divergence("kl", num, den) - line.divergence("reverse-kl", num, den)) > 0.1


def test_non_saturating_has_the_gradient_of_kl_less_two_jensen_shannon(line):
    """Arjovsky and Bottou (2017), theorem 2.5, for den."""
    num, den = places()
    num = num.detach()
    logs = line.log_prob(*num), line.log_prob(*den)
    divergence = line.divergence("reverse-kl", *logs) - line.divergence("jensen-shannon", *logs)
    _, found = slopes_of_game(NonSaturating(), Logistic(), line, num, den)
    torch.testing.assert_close(found, slopes_of_divergence(divergence, num, den))


def test_an_ipm_over_log_ratios_has_the_gradient_of_the_reverse_kl(line):
    num, den = places()
    num = num.detach()
    divergence = line.divergence("reverse-kl", line.log_prob(*num), line.log_prob(*den))
    loss, found = slopes_of_game(IPM(), Logistic(), line, num, den)
    torch.testing.assert_close(found, slopes_of_divergence(divergence, num, den))
    jeffreys = divergence + line.divergence("kl", line.log_prob(*num), line.log_prob(*den))
    torch.testing.assert_close(loss, jeffreys)


def quantiles(size: int) -> Tensor:
    """Points of equal mass under N(0, 1), (size,)."""
    return torch.special.ndtri((torch.arange(size, dtype=torch.float64) + 0.5) / size)


def test_normalised_weights_are_those_of_importance_sampling():
    """The gradient is minus the mean of w times the gradient of the log-ratio, the w normalised over the batch."""
    estimator, critic = Logistic(), Ratio(Logistic())
    num, den = (torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    (found,) = torch.autograd.grad(ForwardKL().loss(estimator, critic, (num,), (den,)), den)
    log_ratio = estimator.log_ratio(critic(den))
    (by_hand,) = torch.autograd.grad(-(log_ratio.detach().softmax(0) * log_ratio).sum(), den)
    torch.testing.assert_close(found, by_hand)
    loss = ForwardKL(self_normalized=False).loss(estimator, critic, (num,), (den,))
    torch.testing.assert_close(torch.autograd.grad(loss, den)[0], by_hand * log_ratio.exp().mean())


def test_a_constant_error_of_the_log_ratio_moves_no_normalised_gradient():
    right, wrong = Ratio(NWJ()), Ratio(Logistic())  # NWJ takes one off
    num, den = (torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    losses = [ForwardKL().loss(NWJ(), critic, (num,), (den,)) for critic in (right, wrong)]
    torch.testing.assert_close(losses[0], losses[1])
    slopes = [torch.autograd.grad(loss, (num, den)) for loss in losses]
    torch.testing.assert_close(slopes[0], slopes[1])


@pytest.mark.parametrize("objective", [ForwardKL(), ReverseKL()], ids=["forward", "reverse"])
def test_normalised_over_a_large_batch_both_sides_have_the_gradient_of_the_divergence(objective, line):
    """On 20 000 points of equal mass, without chance; 3e-3 is for the mass beyond the outermost."""
    heights = {"num": (0.0, 1.0), "den": (0.4, 1.2 if isinstance(objective, ForwardKL) else 0.85)}
    num, den = (torch.tensor(place, dtype=torch.float64, requires_grad=True) for place in heights.values())
    name = "kl" if isinstance(objective, ForwardKL) else "reverse-kl"
    divergence = line.divergence(name, line.log_prob(*num), line.log_prob(*den))
    estimator, critic = Logistic(), Ratio(Logistic(), **heights)
    x, y = (place[0] + place[1] * quantiles(20_000) for place in (num, den))
    loss = objective.loss(estimator, critic, (x,), (y,))
    torch.testing.assert_close(loss, divergence, atol=1e-3, rtol=0.0)
    found, expected = torch.autograd.grad(loss, (num, den)), torch.autograd.grad(divergence, (num, den))
    torch.testing.assert_close(found, expected, atol=3e-3, rtol=0.0)


def test_reverse_kl_scores_num_only_where_it_carries_a_gradient():
    calls = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x)
            return x

    num, den = torch.randn(3), torch.randn(3)
    value = ReverseKL().loss(Logistic(), Counting(), (num,), (den,))
    assert len(calls) == 1
    assert calls[0] is den
    torch.testing.assert_close(ReverseKL().loss(Logistic(), Counting(), (num.requires_grad_(),), (den,)), value)
    assert len(calls) == 3


def game(seed: int = 0) -> tuple[Critic, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """A smooth critic with features, and five draws of x and z on either side, with gradients."""
    torch.manual_seed(seed)
    features = MLP(2 + 3, 6, (8,), nn.Tanh)
    critic = Critic(nn.Sequential(nn.Tanh(), nn.Linear(6, 1)), features=features).double().requires_grad_(False)
    num, den = (
        tuple(torch.randn(5, width, dtype=torch.float64, requires_grad=True) for width in (2, 3)) for _ in range(2)
    )
    return critic, num, den


@pytest.mark.parametrize(("objective", "build"), PAIRS)
def test_gradients_reach_all_sites_of_both_sides_and_are_those_of_finite_differences(objective, build):
    critic, num, den = game()
    estimator = build().double()
    if isinstance(estimator, BoundaryEquilibrium):
        estimator.k.fill_(0.3)
    slopes = torch.autograd.grad(objective.loss(estimator, critic, num, den), (*num, *den))
    assert all(slope.any() and slope.isfinite().all() for slope in slopes)
    if isinstance(objective, ReverseKL):  # whose value does not tell of num
        num = tuple(value.detach() for value in num)
    leaves = [value for value in (*num, *den) if value.requires_grad]

    def loss(*values: Tensor) -> Tensor:
        both = (*(num if isinstance(objective, ReverseKL) else values[:2]), *values[-2:])
        return objective.loss(estimator, critic, both[:2], both[2:])

    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize(("objective", "build"), PAIRS)
def test_a_player_moves_no_state(objective, build):
    critic, num, den = game()
    estimator = build().double().train()
    before = copy.deepcopy(estimator.state_dict())
    objective.loss(estimator, critic, num, den).backward()
    assert all(torch.equal(value, before[key]) for key, value in estimator.state_dict().items())
    assert all(parameter.grad is None for parameter in critic.parameters())


@pytest.mark.parametrize("build", ESTIMATORS)
def test_minimax_is_minus_the_critics_loss(build):
    if isinstance(build(), EnergyMargin | BoundaryEquilibrium):
        return
    critic, num, den = game()
    estimator = build().double().eval()
    found = Minimax().loss(estimator, critic, num, den)
    torch.testing.assert_close(found, -estimator.loss(critic(*num), critic(*den)))


@pytest.mark.parametrize(
    "build",
    [b for b in ESTIMATORS if not isinstance(b(), LeastSquares | DonskerVaradhan) and str(b()) != str(ESTIMATORS[1]())],
)
def test_non_saturating_is_the_loss_with_exchanged_labels(build):
    critic, num, den = game()
    estimator = build().double().eval()
    found = NonSaturating().loss(estimator, critic, num, den)
    torch.testing.assert_close(found, estimator.loss(critic(*den), critic(*num)))


def test_non_saturating_players_have_labels_of_their_own_where_the_papers_say_so():
    critic, num, den = game()
    above, below = critic(*num), critic(*den)
    found = NonSaturating().loss(LeastSquares(-1, 1, 0), critic, num, den)
    torch.testing.assert_close(found, (above.square().mean() + below.square().mean()) / 2)
    found = NonSaturating().loss(LeastSquares(0, 1, 1), critic, num, den)
    torch.testing.assert_close(found, (above.square().mean() + (below - 1).square().mean()) / 2)
    plain = NonSaturating().loss(Logistic(), critic, num, den)
    torch.testing.assert_close(NonSaturating().loss(Logistic(0.2), critic, num, den), plain)


def test_features_are_matched_by_their_means_or_in_pairs():
    critic, num, den = game()
    above, below = critic.features(*num), critic.features(*den)
    found = FeatureMatching().loss(Logistic(), critic, num, den)
    means = [sum(row[j] for row in above) / 5 - sum(row[j] for row in below) / 5 for j in range(6)]
    torch.testing.assert_close(found, sum(mean**2 for mean in means))
    found = FeatureMatching(paired=True).loss(Logistic(), critic, num, den)
    torch.testing.assert_close(found, sum((x - y).square().sum() for x, y in zip(above, below, strict=True)) / 5)
    assert FeatureMatching(paired=True).loss(Logistic(), critic, num, num).item() == 0.0
    with refuses(ValueError, "5 rows of num", "3 of den"):
        FeatureMatching(paired=True).loss(Logistic(), critic, num, tuple(value[:3] for value in den))


def test_pairs_that_make_no_sense_are_refused():
    critic = Critic(nn.Linear(2, 1))
    without = [Logistic(0.1), LeastSquares(), Hinge(), Wasserstein(), FDivergence("total-variation"), Relativistic()]
    for estimator in without:
        for objective in (ReverseKL(), ForwardKL()):
            with refuses(ValueError, type(objective).__name__, type(estimator).__name__):
                objective.check(estimator, critic)
    for estimator in (EnergyMargin(1.0), BoundaryEquilibrium()):
        with refuses(ValueError, "Minimax", type(estimator).__name__):
            Minimax().check(estimator, critic)
        NonSaturating().check(estimator, critic)
        IPM().check(estimator, critic)
    with refuses(ValueError, "features", "Critic"):
        FeatureMatching().check(Logistic(), critic)
    with refuses(ValueError, "features", "Linear"):
        FeatureMatching().check(Logistic(), nn.Linear(2, 1))
    with refuses(TypeError, "CriticEstimator", "str"):
        Minimax().check("logistic", critic)
    with refuses(TypeError, "critic", "function"):
        Minimax().check(Logistic(), lambda x: x)


def test_bad_arguments_are_refused():
    with refuses(TypeError, "self_normalized", "1"):
        ForwardKL(self_normalized=1)
    with refuses(TypeError, "paired", "None"):
        FeatureMatching(paired=None)
    with refuses(ValueError, "(B,)", "(4, 1)"):
        Minimax().loss(Logistic(), nn.Linear(2, 1), (torch.randn(4, 2),), (torch.randn(4, 2),))
