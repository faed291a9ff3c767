"""Predictability minimisation: the best predictor of normal codes in closed form, and what encoders make of it."""

import functools

import pyro
import pytest
import torch
from torch import nn

from contracts import refuses
from pyro_dgm.adversarial import AdversarialTrainer, LeaveOneOutPredictor, Predictability, Steps
from pyro_dgm.distributions import Implicit
from pyro_dgm.infer import DATA, NLL, P, Q
from pyro_dgm.infer.draws import Draws

N, D = 400, 3


class Linear(nn.Module):
    """The code y = W x, and the model, which gives x back from it in the mean square."""

    def __init__(self, weight):
        super().__init__()
        self.encoder = nn.Parameter(weight.clone())
        self.decoder = nn.Parameter(torch.eye(D, dtype=torch.float64))

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", pyro.distributions.Normal(torch.zeros(len(x), D, dtype=x.dtype), 1.0).to_event(1))
            mean = y @ self.decoder.T
            return pyro.sample("x", pyro.distributions.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", Implicit(x @ self.encoder.T, 1))


@pytest.fixture
def x():
    """Correlated normal data whose second moments are exactly those given."""
    torch.manual_seed(0)
    raw = torch.randn(N, D, dtype=torch.float64)
    raw = raw - raw.mean(0)
    white = raw @ torch.linalg.inv(torch.linalg.cholesky(raw.T @ raw / N)).T
    covariance = torch.tensor([[1.0, 0.6, 0.3], [0.6, 2.0, -0.4], [0.3, -0.4, 1.5]], dtype=torch.float64)
    return white @ torch.linalg.cholesky(covariance).T


def covariance_of(code):
    return (code - code.mean(0)).T @ (code - code.mean(0)) / len(code)


def best(predictor, code):
    """Puts the least-squares regressions into a linear predictor, intercepts included."""
    with torch.no_grad():
        for i in range(code.shape[1]):
            others = torch.cat([code[:, predictor.others[i]], torch.ones(len(code), 1, dtype=code.dtype)], 1)
            solution = torch.linalg.lstsq(others, code[:, i : i + 1]).solution
            predictor.weights[0][i] = solution[:-1]
            predictor.biases[0][i] = solution[-1:]
    return predictor


@pytest.mark.parametrize("hidden", [(), (5,), (6, 4)])
def test_a_guess_does_not_see_what_it_guesses(hidden):
    predictor = LeaveOneOutPredictor(4, hidden).double()
    code = torch.randn(4, dtype=torch.float64)
    slopes = torch.autograd.functional.jacobian(lambda row: predictor(row[None])[0], code)
    assert not slopes.diagonal().any()
    assert (slopes + torch.eye(4)).all()
    predictor(code[None]).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in predictor.parameters())


def test_each_feature_has_a_network_of_its_own():
    predictor = LeaveOneOutPredictor(3, (4,)).double()
    code = torch.randn(5, 3, dtype=torch.float64)
    for i in range(3):
        hidden = (code[:, predictor.others[i]] @ predictor.weights[0][i] + predictor.biases[0][i]).tanh()
        expected = (hidden @ predictor.weights[1][i] + predictor.biases[1][i])[:, 0]
        torch.testing.assert_close(predictor(code)[:, i], expected)


@pytest.mark.parametrize("standardized", [False, True])
def test_the_least_error_of_a_normal_code_is_the_inverse_of_its_precision(x, standardized):
    predictor = LeaveOneOutPredictor(D).double()
    scale = covariance_of(x).diagonal().sqrt() if standardized else torch.ones(D, dtype=x.dtype)
    best(predictor, x / scale)
    term = Predictability("y", predictor=predictor, standardized=standardized)
    programs = Linear(torch.eye(D, dtype=torch.float64))
    readings = term.readings(Draws(programs.model, programs.guide, (x,), {}))
    loss, facts = term.critic_loss(readings)
    covariance = covariance_of(x / scale)
    expected = (1 / covariance.inverse().diagonal()).sum()
    torch.testing.assert_close(loss.detach(), expected)
    torch.testing.assert_close(facts["predictability"], 1 - expected / covariance.trace())
    predictor.requires_grad_(False)
    torch.testing.assert_close(
        term.loss_of(Draws(programs.model, programs.guide, (x,), {})).detach(), -N * loss.detach()
    )


def test_the_critic_learns_the_regressions(x):
    """Adam, 400 steps at 0.03: the error is the least one to 1e-3; full batches, so there is no noise but the start."""
    predictor = LeaveOneOutPredictor(D).double()
    programs = Linear(torch.eye(D, dtype=torch.float64))
    adam = functools.partial(torch.optim.Adam, lr=0.03)
    trainer = AdversarialTrainer(
        programs.model,
        Predictability("y", predictor=predictor),
        None,
        adam,
        programs.guide,
        schedule=Steps(critic=1, player=0),
    )
    for _ in range(400):
        found = trainer.step(x)
    expected = (1 / covariance_of(x).inverse().diagonal()).sum()
    assert found["critic_loss"] == pytest.approx(float(expected), abs=1e-3)


def test_the_gradient_is_that_of_the_conditional_variances(x):
    """The envelope theorem: with the best predictor held still the encoder's gradient is that of sum_i 1 / P_ii."""
    weight = torch.tensor([[1.0, 0.2, 0.0], [-0.3, 1.0, 0.5], [0.1, 0.0, 0.8]], dtype=torch.float64)
    programs = Linear(weight)
    predictor = best(LeaveOneOutPredictor(D).double(), x @ weight.T).requires_grad_(False)
    term = Predictability("y", predictor=predictor, weight=0.5)
    term.differentiable_loss(programs.model, programs.guide, x).backward()
    free = weight.clone().requires_grad_()
    (0.5 * N * (1 / covariance_of(x @ free.T).inverse().diagonal()).sum()).backward()
    torch.testing.assert_close(programs.encoder.grad, -free.grad)


def test_an_encoder_decorrelates_what_it_reads(x):
    """Seed 0, 400 steps of Adam at 0.02, two of the predictors to one: correlations from 0.42 to below 0.01."""
    torch.manual_seed(0)
    programs = Linear(torch.eye(D, dtype=torch.float64))
    trainer = AdversarialTrainer(
        programs.model,
        Predictability("y", predictor=LeaveOneOutPredictor(D).double(), standardized=True),
        functools.partial(torch.optim.Adam, lr=0.02, betas=(0.5, 0.9)),
        functools.partial(torch.optim.Adam, lr=0.05, betas=(0.5, 0.9)),
        programs.guide,
        schedule=Steps(critic=2),
    )
    assert correlations(x).abs().max() > 0.4
    for step in range(400):
        trainer.optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 400)
        trainer.step(x)
    code = x @ programs.encoder.detach().T
    assert correlations(code).abs().max() < 0.01
    assert torch.linalg.det(covariance_of(code)) > 0.1  # no feature was given up


def test_a_reconstruction_beside_it_keeps_the_code_informative(x):
    """Seed 0, 400 steps: the code's correlations fall below 0.02 and x is given back to 1 % of its variance."""
    torch.manual_seed(0)
    programs = Linear(torch.eye(D, dtype=torch.float64))
    trainer = AdversarialTrainer(
        programs.model,
        NLL("x", of="model", at=Q, through_draws=True)
        + Predictability("y", predictor=LeaveOneOutPredictor(D).double(), standardized=True),
        functools.partial(torch.optim.Adam, lr=0.02, betas=(0.5, 0.9)),
        functools.partial(torch.optim.Adam, lr=0.05, betas=(0.5, 0.9)),
        programs.guide,
        schedule=Steps(critic=2),
    )
    for step in range(400):
        trainer.optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 400)
        trainer.step(x)
    code = x @ programs.encoder.detach().T
    assert correlations(code).abs().max() < 0.02
    assert (code @ programs.decoder.detach().T - x).square().sum() < 0.01 * x.square().sum()


def correlations(code):
    """Those of different features."""
    found = torch.corrcoef(code.T)
    return found[~torch.eye(len(found), dtype=torch.bool)]


class Peeking(nn.Module):
    def forward(self, code):
        return 0.5 * code + code.roll(1, 1)


class Narrow(nn.Module):
    def forward(self, code):
        return code[:, :1]


@pytest.mark.parametrize(
    ("predictor", "parts"),
    [(Peeking(), ("guess 0", "feature 0", "LeaveOneOutPredictor")), (Narrow(), ("one guess for each", "(400, 1)"))],
)
def test_a_predictor_that_peeks_or_says_too_little_is_refused(x, predictor, parts):
    programs = Linear(torch.eye(D, dtype=torch.float64))
    with refuses(ValueError, *parts):
        Predictability("y", predictor=predictor).loss(programs.model, programs.guide, x)


def test_a_predictor_that_moves_with_the_encoder_is_refused(x):
    programs = Linear(torch.eye(D, dtype=torch.float64))
    with refuses(ValueError, "critic.weights.0", "AdversarialTrainer"):
        Predictability("y", predictor=LeaveOneOutPredictor(D).double()).differentiable_loss(
            programs.model, programs.guide, x
        )


@pytest.mark.parametrize(
    ("error", "make", "parts"),
    [
        (TypeError, lambda: Predictability(["y"], predictor=Peeking()), ("a name", "['y']")),
        (TypeError, lambda: Predictability("y", "Q", predictor=Peeking()), ("P or Q", "'Q'")),
        (ValueError, lambda: Predictability("y", DATA, predictor=Peeking()), ("DATA", "Use Q")),
        (TypeError, lambda: Predictability("y", predictor=len), ("torch.nn.Module", "builtin")),
        (ValueError, lambda: Predictability("y", P, predictor=Peeking(), weight=-1.0), ("at least 0", "-1")),
        (TypeError, lambda: Predictability("y", predictor=Peeking(), standardized=1), ("a bool", "got 1")),
        (ValueError, lambda: LeaveOneOutPredictor(1), ("at least 2", "got 1")),
        (ValueError, lambda: LeaveOneOutPredictor(3, (0,)), ("positive integer", "got 0")),
        (ValueError, lambda: LeaveOneOutPredictor(3)(torch.zeros(2, 4)), ("3 features", "(2, 4)")),
    ],
)
def test_bad_options_are_refused(error, make, parts):
    with refuses(error, *parts):
        make()


def test_a_code_of_one_feature_is_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", Implicit(x, 0))

    with refuses(ValueError, "two features", "(4,)"):
        Predictability("y", predictor=Peeking()).loss(guide, guide, torch.zeros(4))
