"""Inference without densities on models whose answers are known: every adversarial method against a closed form.

The programs are linear and normal, in float64, and critics quadratic, which is the form of their exact log-ratios;
learning rates fall to nothing. Each test says its seed (0 unless it says so), its steps and its tolerance.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from linear_games import REAL, Numbers, Quadratic, adam, fit, quantiles, shuffled
from pyro_dgm.adversarial import (
    NWJ,
    R1,
    R2,
    AdversarialTrainer,
    Contrast,
    Critic,
    DonskerVaradhan,
    Logistic,
    Minimax,
    NonSaturating,
    ReverseKL,
    Steps,
)
from pyro_dgm.distributions import Implicit
from pyro_dgm.infer import DATA, KL, NLL, P, Q, RatioLikelihood, log_weights

MUTUAL_INFORMATION = -0.5 * math.log(1 - 0.8**2)  # of normal variables with correlation 0.8: 0.510826 nats


def standard(x):
    return dist.Normal(torch.zeros_like(x), 1.0)


# Adversarial variational Bayes


class Conjugate(Numbers):
    """z ~ N(0, 1), x | z ~ N(z, 1); the guide is z = a x + b noise, without a density."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard(x))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Implicit(self.a * x + self.b * torch.randn_like(x), 0))


def adversarial_bayes(programs, **options):
    contrast = Contrast(["x", "z"], P.observed(), Q, Critic(Quadratic(2)), objective=ReverseKL())
    terms = NLL("x", of="model", at=Q, through_draws=True) + contrast
    return AdversarialTrainer(programs.model, terms, adam(0.02), adam(0.05), programs.guide, **options)


def log_evidence(x):
    return dist.Normal(0.0, math.sqrt(2)).log_prob(x)


def test_adversarial_variational_bayes_finds_the_posterior():
    """The posterior is N(x / 2, 1 / 2), the evidence N(0, 2). 600 steps, 1000 data; 0.03 for a, b^2 and the evidence.

    The estimate of the evidence uses 20 draws for each datum: a standard error of about 0.005.
    """
    programs = Conjugate(a=0.0, b=1.0)
    x = quantiles(1000, sd=math.sqrt(2))
    trainer = fit(adversarial_bayes(programs), x, 600)
    a, b = programs.found()
    assert a == pytest.approx(0.5, abs=0.03)
    assert b**2 == pytest.approx(0.5, abs=0.03)
    estimate = -trainer.evaluate_loss(x.repeat(20))["loss"]
    assert estimate == pytest.approx(float(log_evidence(x).mean()), abs=0.03)


def test_a_ratio_estimate_of_the_evidence_is_no_bound():
    """With the exact posterior for a guide, half of the critic's iterates give more than the evidence (pitfall 32).

    The true value is the evidence itself. 200 steps of the critic alone on batches of 50; every tenth is judged on
    20000 draws, "more" and "less" being by 5 standard errors.
    """
    programs = Conjugate(a=0.5, b=math.sqrt(0.5))
    trainer = adversarial_bayes(programs, schedule=Steps(critic=1, player=0))
    (_, nll), (_, contrast) = trainer.terms.terms
    assert isinstance(nll, NLL)
    x = math.sqrt(2) * torch.randn(20_000, dtype=REAL)
    z = 0.5 * x + math.sqrt(0.5) * torch.randn_like(x)
    verdicts = []
    for step in range(200):
        trainer.step(math.sqrt(2) * torch.randn(50, dtype=REAL))
        if step >= 50 and step % 10 == 0:
            with torch.no_grad():
                estimate = dist.Normal(z, 1.0).log_prob(x) + contrast.log_ratio(x, z)
            excess = estimate - log_evidence(x)
            verdicts.append(float(excess.mean() / (excess.std() / len(x) ** 0.5)))
    assert max(verdicts) > 5
    assert min(verdicts) < -5


# Likelihood-free variational inference


class Shared(Numbers):
    """beta ~ N(0, 1) for all data, x_i = beta + noise without a density; or x_i = z_i + noise with z_i ~ N(beta, 1).

    The guide is normal in beta, and implicit in z: a x + d beta + e + b noise.
    """

    def __init__(self, num_data, is_local=False, **start):
        super().__init__(**start)
        self.num_data, self.is_local = num_data, is_local

    def plate(self, x):
        return pyro.plate("data", self.num_data, subsample_size=len(x), dim=-1)

    def model(self, x):
        beta = pyro.sample("beta", dist.Normal(torch.zeros((), dtype=REAL), 1.0))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(beta.expand(len(x)), 1.0)) if self.is_local else beta
            return pyro.sample("x", Implicit(z + torch.randn_like(x), 0), obs=x)

    def guide(self, x):
        beta = pyro.sample("beta", dist.Normal(self.m, self.log_s.exp()))
        if self.is_local:
            with self.plate(x):
                z = self.a * x + self.d * beta + self.e + self.b * torch.randn_like(x)
                pyro.sample("z", Implicit(z, 0))


@pytest.mark.parametrize(("num_data", "batch_size"), [(20, 20), (50, 25)])
def test_likelihood_free_inference_finds_the_posterior_of_a_global(num_data, batch_size):
    """The posterior is N(sum x / (N + 1), 1 / (N + 1)), from a minibatch too.

    800 steps; the mean within 0.3 posterior standard deviations, the standard deviation within 15 %. There is one draw
    of beta a step, which is what limits it.
    """
    x = quantiles(num_data, loc=1.0)
    programs = Shared(num_data, m=0.0, log_s=-1.0)
    contrast = Contrast(["x", "beta"], P.given("beta"), Q, Critic(Quadratic(2)), objective=ReverseKL())
    trainer = AdversarialTrainer(programs.model, KL("beta") + contrast, adam(0.02), adam(0.03), programs.guide)
    fit(trainer, lambda: shuffled(x)()[:batch_size], 800)
    m, log_s = programs.found()
    sd = (1 + num_data) ** -0.5
    assert m == pytest.approx(float(x.sum()) * sd**2, abs=0.3 * sd)
    assert math.exp(log_s) == pytest.approx(sd, rel=0.15)


def test_likelihood_free_inference_finds_the_posteriors_of_a_global_and_of_locals():
    """Local latents are paired with the data that were simulated from them (pitfall 29), in minibatches of 100 of 200.

    Beta's posterior has precision 1 + N / 2 and mean sum x / (2 + N), and z_i given both is N((x_i + beta) / 2, 1 / 2).
    1000 steps; 0.3 posterior standard deviations for the mean of beta and 15 % for its standard deviation, 0.05 for
    the slope of z, 0.1 for its mean at x = 0 and for its variance (beta hardly moves, so its slope alone is not known).
    """
    num_data = 200
    x = quantiles(num_data, loc=1.0, sd=math.sqrt(2))
    programs = Shared(num_data, is_local=True, m=0.0, log_s=-1.0, a=0.0, d=0.0, e=0.0, b=1.0)
    contrast = Contrast(["x", "z", "beta"], P.given("beta"), Q, Critic(Quadratic(3)), objective=ReverseKL())
    trainer = AdversarialTrainer(programs.model, KL("beta") + contrast, adam(0.02), adam(0.03), programs.guide)
    fit(trainer, lambda: shuffled(x)()[:100], 1000)
    m, log_s, a, d, e, b = programs.found()
    sd = (1 + num_data / 2) ** -0.5
    assert m == pytest.approx(float(x.sum()) / (2 + num_data), abs=0.3 * sd)
    assert math.exp(log_s) == pytest.approx(sd, rel=0.15)
    assert a == pytest.approx(0.5, abs=0.05)
    assert d * m + e == pytest.approx(m / 2, abs=0.1)
    assert b**2 == pytest.approx(0.5, abs=0.1)


# Adversarially learned inference


class Inverse(Numbers):
    """x = a + b z, and z = c + d x: a generator and an encoder without noise."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard(x))
            return pyro.sample("x", Implicit(self.a + self.b * z, 0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Implicit(self.c + self.d * x, 0))


@pytest.mark.parametrize("objective", [NonSaturating(), Minimax()], ids=lambda one: type(one).__name__)
def test_adversarially_learned_inference_inverts_the_generator(objective):
    """Data N(3, 4): a = 3, abs(b) = 2, and the encoder undoes it. 500 steps, 1000 data; 0.03 throughout."""
    programs = Inverse(a=0.0, b=1.0, c=0.0, d=0.7)
    contrast = Contrast(["x", "z"], Q, P, Critic(Quadratic(2)), objective=objective, penalties=[R1(0.5), R2(0.5)])
    trainer = AdversarialTrainer(programs.model, contrast, adam(0.03), adam(0.05), programs.guide)
    fit(trainer, quantiles(1000, 3.0, 2.0), 500)
    a, b, c, d = programs.found()
    assert [a, abs(b)] == pytest.approx([3.0, 2.0], abs=0.03)
    assert [b * d, c + a * d] == pytest.approx([1.0, 0.0], abs=0.03)


# Autoencoders, and what their critics measure


class Autoencoder(Numbers):
    """p(x | z) = N(m + s z, sd^2), and the encoder z = c + d x."""

    def __init__(self, sd, **start):
        super().__init__(**start)
        self.sd = sd

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard(x))
            return pyro.sample("x", dist.Normal(self.m + self.s * z, self.sd), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Implicit(self.c + self.d * x, 0))


@pytest.mark.parametrize(("sd", "weight"), [(1.0, 1.0), (math.sqrt(0.5), 10.0)], ids=["AAE", "WAE-GAN"])
def test_an_adversarial_autoencoder_gives_back_the_data_from_a_code_like_the_prior(sd, weight):
    """Data N(3, 4): the codes have mean 0 and standard deviation 1, and the decoder undoes the encoder.

    600 steps, 1000 data; 0.02. The adversarial autoencoder weighs both terms alike; in a Wasserstein autoencoder the
    cost is the squared error, which is what a variance of 1 / 2 makes of it, and the critic's term has weight 10.
    """
    programs = Autoencoder(sd, m=0.0, s=1.0, c=0.0, d=1.0)
    contrast = Contrast("z", P, Q, Critic(Quadratic(1)), penalties=[R1(0.3)])
    terms = NLL("x", of="model", at=Q, through_draws=True) + weight * contrast
    trainer = AdversarialTrainer(programs.model, terms, adam(0.04), adam(0.06), programs.guide)
    fit(trainer, quantiles(1000, 3.0, 2.0), 600)
    m, s, c, d = programs.found()
    assert [c + 3 * d, abs(2 * d)] == pytest.approx([0.0, 1.0], abs=0.02)
    assert [m + s * c, s * d] == pytest.approx([0.0, 1.0], abs=0.02)


def correlated(num):
    noise = torch.randn(num, 2, dtype=REAL)
    return torch.stack([noise[:, 0], 0.8 * noise[:, 0] + 0.6 * noise[:, 1]], 1)


def test_the_critic_of_a_factor_vae_measures_the_total_correlation():
    """Codes with correlation 0.8: - log(1 - 0.64) / 2 = 0.5108 nats. 400 steps on 2000 draws; 0.03 on 200000."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", standard(x).to_event(1))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Implicit(x, 1))

    factorized = Q.shuffled("z", each_feature=True)
    contrast = Contrast("z", factorized, Q, Critic(Quadratic(2)), objective=ReverseKL())
    trainer = AdversarialTrainer(model, contrast, None, adam(0.05), guide, schedule=Steps(critic=1, player=0))
    fit(trainer, lambda: correlated(2000), 400)
    found = trainer.evaluate_loss(correlated(200_000))["loss"]
    assert found == pytest.approx(MUTUAL_INFORMATION, abs=0.03)


# Ratio estimation


class Simulator(nn.Module):
    """theta ~ N(0, 1), x = 0.8 theta + 0.6 noise."""

    def forward(self, num, x=None):
        with pyro.plate("data", num):
            theta = pyro.sample("theta", dist.Normal(torch.zeros(num, dtype=REAL), 1.0))
            return pyro.sample("x", Implicit(0.8 * theta + 0.6 * torch.randn_like(theta), 0), obs=x)


@pytest.mark.parametrize("estimator", [Logistic(), NWJ(), DonskerVaradhan()], ids=lambda one: type(one).__name__)
def test_a_ratio_tells_the_information_and_the_posterior(estimator):
    """Correlation 0.8: an information of 0.510826 nats, and theta given x = 1 is N(0.8, 0.36).

    400 steps on 2000 simulations; the information (the mean log-ratio, and the critic's lower bound of the KL
    divergence if it has one) within 0.02 on 200000 more, the posterior's moments by importance weights on 20000
    particles within 0.03.
    """
    sites = ["x", "theta"]
    contrast = Contrast(sites, P, P.shuffled("theta"), Critic(Quadratic(2)), estimator)
    simulator = Simulator()
    fit(AdversarialTrainer(simulator, contrast, None, adam(0.05), schedule=Steps(critic=1, player=0)), 2000, 400)
    theta, x = correlated(200_000).unbind(1)
    with torch.no_grad():
        assert float(contrast.log_ratio(x, theta).mean()) == pytest.approx(MUTUAL_INFORMATION, abs=0.02)
        if estimator.divergence_name == "kl":
            scores = contrast.critic(x, theta), contrast.critic(x, theta[torch.randperm(len(theta))])
            assert float(estimator.divergence(*scores)) == pytest.approx(MUTUAL_INFORMATION, abs=0.02)

        kept = []

        def guide(num, x):
            with pyro.plate("data", num):
                kept.append(pyro.sample("theta", dist.Normal(torch.full((num,), 0.5, dtype=REAL), 1.0)))

        model = RatioLikelihood(simulator, contrast.log_ratio, sites)
        weights = log_weights(model, guide, 1, torch.ones(1, dtype=REAL), num_particles=20_000).local.softmax(0)
    drawn = kept[-1].reshape(weights.shape)
    mean = (weights * drawn).sum()
    variance = (weights * (drawn - mean).square()).sum()
    assert float(mean) == pytest.approx(0.8, abs=0.03)
    assert float(variance) == pytest.approx(0.36, abs=0.03)


# Codes and cycles


class Codes(nn.Module):
    """x = the point of a code, one of eight, + noise; the guide guesses the code from x."""

    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(0.3 * torch.randn(8, 2, dtype=REAL))
        self.log_sd = nn.Parameter(torch.tensor(-1.2, dtype=REAL))
        self.classifier = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 8)).double()

    def model(self, x):
        with pyro.plate("data", len(x)):
            prior = dist.OneHotCategorical(torch.full((8,), 1 / 8, dtype=REAL))
            c = pyro.sample("c", prior.expand([len(x)]))
            noise = self.log_sd.exp() * torch.randn_like(x)
            return pyro.sample("x", Implicit(c @ self.points + noise, 1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.OneHotCategorical(logits=self.classifier(x)))


def test_the_codes_of_an_infogan_are_the_modes():
    """Eight modes on a ring of radius 2, sd 0.1: each has a code, within 0.4, and the information is nearly log 8.

    400 steps on batches of 128. The bound log 8 - NLL of the code, on 4000 draws, exceeds 2.07 (log 8 = 2.0794). It
    says that codes are told apart, and not what they stand for: with seven modes found it is as near.
    """
    programs = Codes()
    angles = torch.arange(8, dtype=REAL) * math.pi / 4
    modes = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    width = 48
    net = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
    contrast = Contrast("x", DATA, P, Critic(net.double()), penalties=[R1(1.0)])
    information = NLL("c", of="guide", at=P, through_draws=True)
    trainer = AdversarialTrainer(programs.model, contrast + information, adam(0.02), adam(0.01), programs.guide)
    fit(trainer, lambda: modes[torch.randint(8, (128,))] + 0.1 * torch.randn(128, 2, dtype=REAL), 400)
    distances, nearest = torch.cdist(programs.points.detach(), modes).min(1)
    assert sorted(nearest.tolist()) == list(range(8))
    assert distances.max() < 0.4
    x = torch.zeros(4000, 2, dtype=REAL)
    bound = math.log(8) - float(information.loss(programs.model, programs.guide, x)) / len(x)
    assert 2.07 < bound <= math.log(8)


class Cycle(Numbers):
    """b = p + q a, and a = r + s b; the density by which either is scored is a Laplace distribution about it."""

    def model(self, a, b):
        with pyro.plate("data", len(a)):
            a = pyro.sample("a", Implicit(a, 0))
            there = self.p + self.q * a
            return pyro.sample("b", Implicit(there, 0, dist.Laplace(there, 1.0)), obs=b)

    def guide(self, a, b):
        with pyro.plate("data", len(b)):
            back = self.r + self.s * b
            pyro.sample("a", Implicit(back, 0, dist.Laplace(back, 1.0)))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_cycle_of_translations_finds_both_maps(sign):
    """N(0, 1) to N(3, 4) and back: x = 3 +- 2 z, the sign being that it starts with. 400 steps, 500 data; 0.05."""
    programs = Cycle(p=0.0, q=1.0 * sign, r=0.0, s=0.7 * sign)
    there = Contrast("b", DATA, P, Critic(Quadratic(1)), penalties=[R1(0.3)])
    back = Contrast("a", P, Q, Critic(Quadratic(1)), penalties=[R1(0.3)])
    cycles = NLL("b", of="model", at=Q, through_draws=True) + NLL("a", of="guide", at=P, through_draws=True)
    trainer = AdversarialTrainer(programs.model, there + back + 0.1 * cycles, adam(0.04), adam(0.05), programs.guide)
    fit(trainer, quantiles(500), 400, quantiles(500, 3.0, 2.0))
    p, q, r, s = programs.found()
    assert [p, q] == pytest.approx([3.0, 2.0 * sign], abs=0.05)
    assert [p + q * r, q * s] == pytest.approx([0.0, 1.0], abs=0.05)
