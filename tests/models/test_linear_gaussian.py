"""Factor analysis and probabilistic PCA: the contract, the closed forms, and EM that reaches them."""

import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine
from sklearn.decomposition import PCA, FactorAnalysis
from torch import Tensor

from contracts import check_model, refuses, tensors_of
from pyro_dgm.datasets.linear_gaussian import ppca
from pyro_dgm.distributions import DiagonalNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import log_weights
from pyro_dgm.models.linear_gaussian import LinearGaussian
from pyro_dgm.nn import MLP, LocalModule

NOISES = ["isotropic", "diagonal"]

each_noise = pytest.mark.parametrize("noise", NOISES)


class WithContext(LocalModule):
    """Takes the context that the contract passes, and has no use for it."""

    def __init__(self, model: LocalModule) -> None:
        super().__init__()
        self.model = model

    def forward(self, x=None, c=None, *, num=None, data_size=None):
        return self.model(x, num=num, data_size=data_size)


def data(num: int = 200) -> Tensor:
    """Six features, three strong directions, unequal noise; float64."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(num, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(num, 6, generator=generator, dtype=torch.float64)
    return z @ weight.T + noise * torch.linspace(0.3, 1.0, 6).double() + 2.0


def random_model(noise: str, latent_features: int = 2) -> LinearGaussian:
    model = LinearGaussian(latent_features, 6, noise).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    return model


def covariance_of(model: LinearGaussian) -> Tensor:
    return model.weight @ model.weight.T + torch.diag((2 * model.log_scale).exp().expand(6))


def likelihood(model: LinearGaussian, x: Tensor) -> float:
    """The log evidence per datum."""
    return float(model.log_evidence(x).mean().detach())


@each_noise
def test_model_contract(noise):
    def build():
        model = LinearGaussian(2, 6, noise)
        return WithContext(model), AmortizedGuide(z=DiagonalNormal(MLP(6, 4, (16,), activation=torch.nn.Tanh)))

    check_model(build, 0.5 * data(16).float())


@each_noise
def test_the_evidence_is_that_of_the_dense_covariance(noise):
    model, x = random_model(noise), data(9)
    covariance, r = covariance_of(model), x - model.loc
    quadratic = (r @ torch.linalg.inv(covariance) * r).sum(-1)
    expected = -0.5 * (quadratic + torch.linalg.slogdet(covariance)[1] + 6 * math.log(2 * math.pi))
    torch.testing.assert_close(model.log_evidence(x), expected)


@each_noise
def test_the_posterior_turns_every_weight_into_the_evidence(noise):
    model, x = random_model(noise), data(9)

    class Exact(LocalModule):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", model.posterior(x))

    weights = log_weights(model, Exact(), x, num_particles=5).local
    torch.testing.assert_close(weights, model.log_evidence(x).expand(5, 9))


@each_noise
@pytest.mark.parametrize("latent_features", [1, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_em_raises_the_likelihood_at_every_step(noise, latent_features, seed):
    torch.manual_seed(seed)
    model, x = random_model(noise, latent_features), data()
    values = [model.em_step(x) for _ in range(100)]
    assert all(after >= before - 1e-10 for before, after in itertools.pairwise(values))
    assert values[-1] > values[0] + 1


def test_em_returns_the_likelihood_before_the_step():
    model, x = random_model("diagonal"), data()
    before = likelihood(model, x)
    assert model.em_step(x) == pytest.approx(before, rel=1e-12)
    assert model.em_step(x) > before


@pytest.mark.parametrize("latent_features", [1, 2, 4])
def test_em_reaches_the_closed_form(latent_features):
    x = data()
    exact, model = random_model("isotropic", latent_features), random_model("isotropic", latent_features)
    exact.fit_closed_form(x)
    for _ in range(3000):
        model.em_step(x)
    assert likelihood(model, x) == pytest.approx(likelihood(exact, x), abs=1e-9)
    torch.testing.assert_close(covariance_of(model), covariance_of(exact), rtol=1e-3, atol=1e-3)


def test_the_closed_form_is_a_fixed_point_of_em_with_zero_gradient():
    model, x = random_model("isotropic"), data()
    model.fit_closed_form(x)
    model.log_evidence(x).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter), rtol=0.0, atol=1e-10, msg=name)
    before = tensors_of(model)
    model.em_step(x)
    torch.testing.assert_close(tensors_of(model), before)


def test_the_closed_form_has_the_likelihood_of_sklearns_pca():
    """Sklearn divides the covariance by N - 1, so its data are scaled to have ours."""
    x, num = data(), 200
    model = random_model("isotropic")
    model.fit_closed_form(x)
    scaled = x.mean(0) + (x - x.mean(0)) * math.sqrt((num - 1) / num)
    theirs = PCA(2, svd_solver="full").fit(scaled.numpy())
    assert likelihood(model, x) == pytest.approx(theirs.score(x.numpy()), rel=1e-10)


def test_factor_analysis_reaches_the_likelihood_of_sklearn():
    """With noise added, since the maximum would explain the first feature whole otherwise, which EM finds slowly."""
    x = data()
    x += torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = random_model("diagonal")
    for _ in range(2000):
        model.em_step(x)
    theirs = FactorAnalysis(2, tol=1e-7, max_iter=5000, svd_method="lapack").fit(x.numpy())
    assert likelihood(model, x) == pytest.approx(theirs.score(x.numpy()), abs=1e-6)


def test_the_truth_is_found_again():
    """10,000 rows of the pPCA data: the fit is at least as good as the truth, and has its noise."""
    truth = ppca(6, 2, 0.5, num_train=10_000)
    x = truth.dataset.train.x.double()
    model = LinearGaussian(2, 6).double()
    model.fit_closed_form(x)
    gain = float((model.log_evidence(x) - truth.log_evidence(x)).mean().detach())
    assert 0 < gain < 0.01
    assert float(model.log_scale.detach().exp()) == pytest.approx(0.5, rel=0.02)


def test_a_feature_that_is_explained_whole_keeps_the_floor_as_its_noise():
    """A Heywood case: the last feature is the latent itself."""
    x = data()
    x[:, 5] = x[:, 0] - x[:, 1]
    model = LinearGaussian(5, 6, "diagonal", minimum_variance=1e-3).double()
    values = [model.em_step(x) for _ in range(300)]
    assert all(after >= before - 1e-10 for before, after in itertools.pairwise(values))
    assert (model.log_scale.exp().square() >= 1e-3 * (1 - 1e-9)).all()
    model = LinearGaussian(5, 6, minimum_variance=1e-3).double()
    model.fit_closed_form(x)
    assert float(model.log_scale.detach().exp().square()) == pytest.approx(1e-3)


@each_noise
def test_simulated_data_have_the_mean_and_covariance_of_the_model(noise):
    """20,000 draws, seed 0, five standard errors."""
    torch.manual_seed(0)
    model, num = random_model(noise), 20_000
    with torch.no_grad():
        x, covariance = model(num=num), covariance_of(model)
    spread = covariance.diagonal()
    assert ((x.mean(0) - model.loc).abs() < 5 * (spread / num).sqrt()).all()
    error = ((covariance**2 + torch.outer(spread, spread)) / num).sqrt()
    assert ((torch.cov(x.T) - covariance).abs() < 5 * error).all()


def test_sites_are_named_as_in_the_maths():
    trace = poutine.trace(LinearGaussian(2, 6)).get_trace(num=3)
    assert {name: trace.nodes[name]["value"].shape for name in ("z", "x")} == {"z": (3, 2), "x": (3, 6)}


BAD = [
    (lambda: LinearGaussian(0, 2), ValueError, ("latent_features", "got 0")),
    (lambda: LinearGaussian(2, True), ValueError, ("features", "got True")),
    (lambda: LinearGaussian(2, 2, "full"), ValueError, ("noise", "'full'")),
    (lambda: LinearGaussian(2, 2, minimum_variance=math.nan), ValueError, ("minimum_variance", "got nan")),
    (lambda: LinearGaussian(2, 6, "diagonal").fit_closed_form(data().float()), ValueError, ("diagonal", "em_step")),
    (lambda: LinearGaussian(6, 6).fit_closed_form(data().float()), ValueError, ("isotropic", "got", "em_step")),
    (lambda: LinearGaussian(2, 6)(torch.zeros(4, 3)), ValueError, ("(B, 6)", "(4, 3)")),
    (lambda: LinearGaussian(2, 6).posterior(torch.zeros(6)), ValueError, ("(B, 6)", "x.unsqueeze(0)")),
    (lambda: LinearGaussian(2, 6).em_step(torch.full((4, 6), math.nan)), ValueError, ("24 NaN",)),
    (lambda: LinearGaussian(2, 6).log_evidence(data()), TypeError, ("float32", "float64")),
]


@pytest.mark.parametrize(("call", "error", "parts"), BAD)
def test_bad_input_is_refused_with_the_cure(call, error, parts):
    with refuses(error, *parts):
        call()
