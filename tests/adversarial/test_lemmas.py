r"""The unified view of Hu et al. as code: GAN, VAE and wake-sleep as KL divergences over one model and guide.

Hu, Yang, Salakhutdinov and Xing (2018), On Unifying Deep Generative Models, arXiv:1706.00550. The indicator y is 1 for
data and 0 for what was generated, p(y) = 1 / 2, so that p(x | y = 1) is the law of the data and p(x | y = 0) that of
the generator; q(y | x) is the discriminator, any function of x, and q^r(y | x) = q(1 - y | x) the reversed one.
Expected values are sums over states, in float64, unless draws are named.
"""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linear_games import REAL, Numbers
from pyro_dgm.adversarial import Contrast, ForwardKL, Logistic, Minimax, NonSaturating, ReverseKL
from pyro_dgm.infer import DATA, ELBO, KL, NLL, P, Q
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.rows import read

STATES = 50


def kl(p, q):
    return (p * (p.log() - q.log())).sum()


def mean_of(objective, scores, p_data, p_model):
    """The expected value of a player's objective that is a mean over num plus one over den, of our own class.

    Arguments:
        objective: the player's.
        scores: of every state, (S,).
        p_data: probabilities of the states in num, (S,).
        p_model: those in den, (S,).
    """
    critic, nought = nn.Identity(), torch.zeros(1, dtype=REAL)

    def loss(num, den):
        return objective.loss(Logistic(), critic, (num.reshape(1),), (den.reshape(1),))

    of_num = torch.stack([loss(score, nought) for score in scores])
    of_den = torch.stack([loss(nought, score) for score in scores])
    return p_data @ of_num + p_model @ of_den - loss(nought, nought)


@pytest.fixture
def game():
    """Logits of a softmax generator, the data's probabilities, and scores of a discriminator that is nobody's best."""
    torch.manual_seed(0)
    logits, of_data, scores = torch.randn(3, STATES, dtype=REAL)
    return logits.requires_grad_(), of_data.softmax(0), 2 * scores


def gradient_of(value, parameter):
    return torch.autograd.grad(value, parameter)[0]


# Lemma 1


def reversed_posterior(scores, p_data, p_model):
    """q^r(x | y = 0), proportional to q(y = 1 | x) and to half the sum of the laws of data and generator."""
    weights = scores.sigmoid() * (p_data + p_model) / 2
    return (weights / weights.sum()).detach()


def jensen_shannon(p, q):
    mixture = (p + q) / 2
    return (kl(p, mixture) + kl(q, mixture)) / 2


def test_the_generators_gradient_is_that_of_a_kl_divergence_less_twice_the_jensen_shannon(game):
    """Lemma 1, for any discriminator: gap below 1e-12. Without the second divergence it is between 0.005 and 0.1.

    The lemma's objective is the mean over y, p(y) = 1 / 2, whose term at y = 1 has no gradient: half of the player's
    loss. So the lemma's KL - JSD is KL - 2 JSD here.
    """
    logits, p_data, scores = game
    p_model = logits.softmax(0)
    posterior = reversed_posterior(scores, p_data, p_model)
    ours = gradient_of(mean_of(NonSaturating(), scores, p_data, logits.softmax(0)), logits)
    divergence = gradient_of(kl(logits.softmax(0), posterior), logits)
    lemma = divergence - 2 * gradient_of(jensen_shannon(logits.softmax(0), p_data), logits)
    assert (ours - lemma).abs().max() < 1e-12
    assert ours.abs().max() > 0.01
    assert 0.005 < (ours - divergence).abs().max() < 0.1


def test_with_the_best_discriminator_the_posterior_is_the_data(game):
    """Then q^r(x | y = 0) is the law of the data, and the gradient that of KL(model || data) - 2 JSD."""
    logits, p_data, _ = game
    p_model = logits.softmax(0)
    best = (p_data.log() - p_model.log()).detach()
    torch.testing.assert_close(reversed_posterior(best, p_data, p_model), p_data)
    ours = gradient_of(mean_of(NonSaturating(), best, p_data, logits.softmax(0)), logits)
    expected = kl(logits.softmax(0), p_data) - 2 * jensen_shannon(logits.softmax(0), p_data)
    assert (ours - gradient_of(expected, logits)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("objective", "divergence"),
    [
        (Minimax(), lambda p, q: 2 * jensen_shannon(p, q)),
        (ReverseKL(), lambda p, q: kl(p, q)),
    ],
    ids=["minimax", "reverse KL"],
)
def test_other_players_follow_their_own_divergence(game, objective, divergence):
    """With the best discriminator: twice the Jensen-Shannon divergence, and KL(model || data); to 1e-12."""
    logits, p_data, _ = game
    best = (p_data.log() - logits.softmax(0).log()).detach()
    ours = gradient_of(mean_of(objective, best, p_data, logits.softmax(0)), logits)
    expected = gradient_of(divergence(logits.softmax(0), p_data), logits)
    assert (ours - expected).abs().max() < 1e-12


# Lemma 2


class Table(nn.Module):
    """z, one of four, and x given z, one of six; the guide z given x: tables of logits."""

    def __init__(self):
        super().__init__()
        self.prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=REAL)
        self.decoder = nn.Parameter(torch.randn(4, 6, dtype=REAL))
        self.encoder = nn.Parameter(torch.randn(6, 4, dtype=REAL))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(self.prior))
            pyro.sample("x", dist.Categorical(logits=self.decoder[z]), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=self.encoder[x]))


def test_the_bound_of_a_vae_is_a_kl_divergence_with_a_perfect_discriminator():
    r"""Lemma 2, with its constants: value and gradients to 1e-12.

    The perfect discriminator, reversed, says y = 0 of every datum, and log p(x | z, y) is the decoder's for y = 0 and
    the data's own law for y = 1. With q(z, y | x) = q(z | x) q^r(y | x) and p(z, y) = p(z) p(y),

        E_q log p(x | z, y) - KL(q(z, y | x) || p(z, y)) = ELBO(x) - log 2,

    and both are - KL(q(z, y | x) || p(z, y | x)) up to log p(x), the evidence of data and generator mixed, which the
    lemma's sign of proportion leaves out.
    """
    programs = Table()
    x = torch.arange(6)
    p_data = torch.tensor([0.05, 0.1, 0.15, 0.2, 0.2, 0.3], dtype=REAL)
    parameters = [programs.decoder, programs.encoder]

    elbo = ELBO(gradient="enumerate")
    bounds = [-elbo.differentiable_loss(programs.model, programs.guide, x[i : i + 1]) for i in range(6)]
    ours = p_data @ torch.stack(bounds)

    log_decoder = programs.decoder.log_softmax(-1)  # (z, x)
    log_x = torch.stack([log_decoder.T, p_data.log().unsqueeze(1).expand(6, 4)], -1)  # (x, z, y)
    is_generated = torch.tensor([1.0, 0.0], dtype=REAL)
    q = programs.encoder.softmax(-1).unsqueeze(-1) * is_generated  # (x, z, y)
    log_q = programs.encoder.log_softmax(-1).unsqueeze(-1)
    log_prior = programs.prior.log().unsqueeze(-1) - math.log(2)
    expected = (q * (log_x - (log_q - log_prior))).sum((1, 2))

    log_joint = log_x + log_prior
    log_mixture = log_joint.logsumexp((1, 2), keepdim=True)
    divergence = (q * (log_q - (log_joint - log_mixture))).sum((1, 2))

    assert abs(ours - math.log(2) - p_data @ expected) < 1e-12
    assert (expected + divergence - log_mixture.flatten()).abs().max() < 1e-12
    for one, other in zip(
        torch.autograd.grad(ours, parameters),
        torch.autograd.grad(p_data @ (log_mixture.flatten() - divergence), parameters),
        strict=True,
    ):
        assert (one - other).abs().max() < 1e-12


# One model, one guide, and each method a term


class Linear(Numbers):
    """z ~ N(0, 1), x | z ~ N(w z + b, 1 / 4), and the guide z | x ~ N(a x + c, 1 / 9)."""

    sd, scale = 0.5, 1 / 3

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            return pyro.sample("x", dist.Normal(self.w * z + self.b, self.sd), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.a * x + self.c, self.scale))


NAMES = ("w", "b", "a", "c")


@pytest.fixture
def programs():
    return Linear(w=1.3, b=-0.2, a=0.6, c=0.1)


@pytest.fixture
def x():
    torch.manual_seed(0)
    return 1 + torch.randn(7, dtype=REAL)


class Curved(nn.Module):
    """A fixed critic, s = 0.7 x - 0.2 x^2 + 0.1."""

    def forward(self, x):
        return 0.7 * x - 0.2 * x**2 + 0.1


def gradients(term, programs, x, seed=3):
    """A term's gradients by name, and the draws it had: z and x of the model, z of the guide."""
    torch.manual_seed(seed)
    draws = Draws(programs.model, programs.guide, (x,), {}, term.sampler())
    programs.zero_grad()
    term.loss_of(draws).backward()
    found = {name: getattr(programs, name).grad for name in NAMES}
    return found, draws


def assert_gradients(found, **expected):
    """Those given are equal to 1e-12; the others there are none of."""
    for name in NAMES:
        if name in expected:
            assert abs(found[name] - expected[name]) < 1e-11, name
        else:
            assert found[name] is None or not found[name].any(), name


def test_a_gan_moves_the_model_towards_what_the_critic_takes_for_data(programs, x):
    """By hand: the derivative of - log sigma(s(x)) along x = w z + b + sd noise."""
    found, draws = gradients(Contrast("x", DATA, P, Curved()), programs, x)
    z, drawn = (value.detach() for value in read(draws, P, ["z", "x"]))
    slope = -(0.7 - 0.4 * drawn) * torch.sigmoid(-Curved()(drawn))
    assert_gradients(found, w=(slope * z).sum(), b=slope.sum())


def test_a_vae_moves_the_model_towards_the_data_and_the_guide_towards_the_posterior(programs, x):
    """By hand: the reconstruction at z = a x + c + scale noise, and KL(q(z | x) || p(z)), in closed form or drawn."""
    reconstruction = NLL("x", of="model", at=Q, through_draws=True)
    for term, is_drawn in ((ELBO(), True), (ELBO(analytic_kl=True), False), (reconstruction + KL("z"), False)):
        found, draws = gradients(term, programs, x)
        z = draws.shared().runs[0].guide.nodes["z"]["value"].detach()
        w, b, a, c = (parameter.detach() for parameter in programs.parameters())
        residual = (w * z + b - x) / programs.sd**2
        of_loc = residual * w + (z if is_drawn else a * x + c)
        assert_gradients(found, w=(residual * z).sum(), b=residual.sum(), a=(of_loc * x).sum(), c=of_loc.sum())


def test_wake_sleep_moves_the_model_at_the_guides_draws_and_the_guide_at_the_models(programs, x):
    """By hand: two regressions, of x on the guide's z, and of the model's z on the model's x."""
    found, draws = gradients(NLL(of="model", at=Q), programs, x)
    z = draws.shared(is_cut=True).runs[0].guide.nodes["z"]["value"].detach()
    w, b, a, c = (parameter.detach() for parameter in programs.parameters())
    residual = (w * z + b - x) / programs.sd**2
    assert_gradients(found, w=(residual * z).sum(), b=residual.sum())

    found, draws = gradients(NLL(of="guide", at=P), programs, x)
    dreamt_z, dreamt_x = (value.detach() for value in read(draws, P, ["z", "x"]))
    residual = (a * dreamt_x + c - dreamt_z) / programs.scale**2
    assert_gradients(found, a=(residual * dreamt_x).sum(), c=residual.sum())


def test_the_three_add_up_in_one_run_of_the_programs(programs, x):
    """A sum of terms has the sum of their gradients at the draws they share."""
    gan, wake, sleep = Contrast("x", DATA, P, Curved()), NLL(of="model", at=Q), NLL(of="guide", at=P)
    draws = Draws(programs.model, programs.guide, (x,), {})
    (gan + 2.0 * wake + sleep).loss_of(draws).backward(retain_graph=True)
    found = {name: getattr(programs, name).grad for name in NAMES}
    programs.zero_grad()
    for weight, term in ((1.0, gan), (2.0, wake), (1.0, sleep)):
        (weight * term.loss_of(draws)).backward(retain_graph=True)
    for name in NAMES:
        torch.testing.assert_close(found[name], getattr(programs, name).grad)


# Importance-weighted GAN


def test_an_importance_weighted_gan_is_the_minimax_player_rescaled(programs, x):
    r"""Section 4 weighs the gradients of - log q^r(0 | x_i) = - log sigma(s_i) by normalised q^r(0 | x_i) / q(0 | x_i).

    The weights are e^s / sum e^s, and e^s times the derivative of log sigma(s) is that of softplus(s): so the update is
    the gradient of the minimax player's loss divided by the mean of e^s, which is 1 for the best critic.
    ``ForwardKL`` has the same weights, on the gradients of - s_i. To 1e-12.
    """
    torch.manual_seed(3)
    drawn = read(Draws(programs.model, programs.guide, (x,), {}), P, ["x"])[0]
    scores = Curved()(drawn)
    weights = scores.detach().softmax(0)
    wanted = functools.partial(torch.autograd.grad, inputs=[programs.w, programs.b], retain_graph=True)
    theirs = wanted(-(weights * F.logsigmoid(scores)).sum())

    rescale = 1 / (scores.detach().exp().mean() * len(x))
    found, _ = gradients(Contrast("x", DATA, P, Curved(), objective=Minimax()), programs, x)
    assert_gradients(found, **{name: value / rescale for name, value in zip("wb", theirs, strict=True)})

    found, _ = gradients(Contrast("x", DATA, P, Curved(), objective=ForwardKL()), programs, x)
    same_weights = wanted(-(weights * scores).sum())
    assert_gradients(found, **{name: len(x) * value for name, value in zip("wb", same_weights, strict=True)})
