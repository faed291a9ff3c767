"""The Dirac GAN through the real trainer: a point theta, a critic psi x, the data at 0, SGD of step h = 0.1.

Mescheder, Geiger and Nowozin (2018), Which Training Methods for GANs do actually Converge?, arXiv:1801.04406. The
critic gives the data high scores here, so their start (1, 1) is theta = 1, psi = -1. No noise is drawn.
"""

import math

import pytest
import torch

from adversarial_games import Point, Slope, sgd
from pyro_dgm.adversarial import (
    DRAGAN,
    IPM,
    R1,
    R2,
    AdversarialTrainer,
    Contrast,
    GradientPenalty,
    Minimax,
    NonSaturating,
    Steps,
    Wasserstein,
)
from pyro_dgm.infer import DATA, P

ORIGIN = torch.zeros(1, dtype=torch.float64)


def play(penalties=(), *, start=(1.0, -1.0), estimator=None, objective=None, simultaneous=True, num=500, h=0.1):
    """The orbit of (theta, psi), (num + 1, 2)."""
    model, critic = Point(start[0]), Slope(start[1])
    contrast = Contrast("x", DATA, P, critic, estimator, Minimax() if objective is None else objective, penalties)
    trainer = AdversarialTrainer(model, contrast, sgd(h), sgd(h), schedule=Steps(simultaneous=simultaneous))
    orbit = [start]
    for _ in range(num):
        trainer.step(ORIGIN)
        orbit.append((model.theta.item(), critic.psi.item()))
    return torch.tensor(orbit, dtype=torch.float64)


@pytest.mark.parametrize("h", [0.01, 0.1, 0.5])
def test_simultaneous_descent_diverges_for_every_step_size(h):
    """By sqrt(1 + h^2 / 4) a step, near the equilibrium, where the loss is its linearisation to 1e-8."""
    radius = play(start=(1e-5, 0.0), num=200, h=h).norm(dim=1)
    growth = (radius[-1] / radius[0]).log() / 200
    torch.testing.assert_close(growth, torch.tensor(math.log(1 + h**2 / 4) / 2, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("objective", [Minimax(), NonSaturating()])
def test_alternating_descent_stays_on_a_bounded_orbit(objective):
    radius = play(simultaneous=False, objective=objective, num=1200).norm(dim=1)
    assert radius.max() < 1.6
    if isinstance(objective, Minimax):
        assert radius[-500:].min() > 1.2  # it neither grows nor shrinks


@pytest.mark.parametrize("objective", [Minimax(), NonSaturating()])
@pytest.mark.parametrize("simultaneous", [True, False])
@pytest.mark.parametrize("penalty", [R1, R2])
def test_zero_centred_penalties_converge(penalty, simultaneous, objective):
    radius = play([penalty(0.3)], simultaneous=simultaneous, objective=objective).norm(dim=1)
    assert radius[-1] < 2e-3


@pytest.mark.parametrize("penalty", [R1, R2])
def test_the_penalty_converges_as_fast_as_the_paper_says(penalty):
    assert play([penalty(0.3)]).norm(dim=1)[-1] < 1e-3
    assert play([penalty(1.0)]).norm(dim=1)[-1] < 1e-9


@pytest.mark.parametrize("gamma", [0.3, 0.8, 1.5])
def test_the_rate_of_convergence_is_the_eigenvalue_of_the_linearised_game(gamma):
    r"""The larger of :math:`|1 + h \lambda|`, :math:`\lambda = -\gamma/2 \pm \sqrt{\gamma^2/4 - 1/4}`."""
    root = (complex(gamma**2 / 4 - 0.25)) ** 0.5
    rate = max(abs(1 + 0.1 * (-gamma / 2 + sign * root)) for sign in (1, -1))
    radius = play([R1(gamma)], start=(1e-5, 0.0), num=500).norm(dim=1)
    slowness = (radius[500] / radius[100]).log() / 400
    assert abs(slowness.item() - math.log(rate)) < 2e-3


@pytest.mark.parametrize("weight", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("one_sided", [True, False])
def test_a_gradient_penalty_with_target_one_never_settles(weight, one_sided):
    penalty = GradientPenalty(weight, one_sided=one_sided)
    orbit = play([penalty], estimator=Wasserstein(), objective=IPM(), num=600)
    assert orbit[-200:, 0].abs().max() > 0.4


def test_dragan_never_settles_either():
    torch.manual_seed(0)
    assert play([DRAGAN(1.0)], num=600)[-200:, 0].abs().max() > 0.1


@pytest.mark.parametrize("simultaneous", [True, False])
def test_a_zero_centred_penalty_lets_a_wasserstein_gan_converge(simultaneous):
    penalty = GradientPenalty(0.5, target=0.0)  # gamma / 2
    orbit = play([penalty], estimator=Wasserstein(), objective=IPM(), simultaneous=simultaneous)
    assert orbit.norm(dim=1)[-1] < 1e-8


def test_an_unpenalised_wasserstein_gan_diverges():
    radius = play(estimator=Wasserstein(), objective=IPM()).norm(dim=1)
    assert radius[-1] > 10 * radius[0]
