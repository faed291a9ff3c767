"""The mixture of Gaussians: its contract, its exact evidence, and EM that never goes down."""

import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, config_enumerate
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch import Tensor

from contracts import (
    check_conditioning,
    check_copies,
    check_isolation,
    check_observing_and_simulating,
    check_particles,
    check_predictive,
    check_scaling,
    check_training,
    refuses,
    tensors_of,
)
from pyro_dgm.distributions import Categorical
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.models.mixture import GaussianMixture
from pyro_dgm.nn import MLP, LocalModule

COVARIANCES = ["diagonal", "full", "spherical"]
OF_SKLEARN = {"diagonal": "diag", "full": "full", "spherical": "spherical"}

each_covariance = pytest.mark.parametrize("covariance", COVARIANCES)


class WithContext(LocalModule):
    """Takes the context that the contract passes, and has no use for it."""

    def __init__(self, model: LocalModule) -> None:
        super().__init__()
        self.model = model

    def forward(self, x=None, c=None, *, num=None, data_size=None):
        return self.model(x, num=num, data_size=data_size)


def clusters(num: int = 300, features: int = 3) -> Tensor:
    """Three clusters of different widths, correlated, in float64."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(num, features, generator=generator, dtype=torch.float64)
    noise[:, 1] += 0.8 * noise[:, 0]
    centres = torch.tensor([[0.0, 0, 0], [4.0, -3, 1], [-3.0, 3, 5]]).double()
    which = torch.arange(num) % 3
    return centres[which] + torch.tensor([0.5, 1.0, 1.5]).double()[which, None] * noise


def random_mixture(covariance: str, components: int = 3, features: int = 3) -> GaussianMixture:
    """A mixture whose parameters all differ, in float64."""
    model = GaussianMixture(components, features, covariance).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    return model


def pair(covariance: str):
    def build():
        model = GaussianMixture(3, 2, covariance)
        return WithContext(model), AmortizedGuide(z=Categorical(MLP(2, 3, (16,), activation=torch.nn.Tanh)))

    return build


def likelihood(model: GaussianMixture, x: Tensor) -> float:
    """The log evidence per datum."""
    return float(model.log_evidence(x).mean().detach())


@each_covariance
def test_model_contract(covariance):
    """All of ``check_model`` but TraceMeanField_ELBO, which refuses discrete latents."""
    build = pair(covariance)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1)) + torch.tensor([2.0, -1.0])
    for check in (
        check_observing_and_simulating,
        check_conditioning,
        check_predictive,
        check_scaling,
        check_particles,
        check_copies,
    ):
        check(build, x)
    for local in (False, True):
        with pyro.settings.context(module_local_params=local):
            for objective in (Trace_ELBO, TraceGraph_ELBO):
                check_training(build, objective(), x)
                check_isolation(build, objective(), x)


@each_covariance
def test_evidence_and_responsibilities_are_those_of_a_loop(covariance):
    model, x = random_mixture(covariance), clusters(7)
    weights = model.logits.softmax(-1).tolist()
    for row, evidence, shares in zip(x, model.log_evidence(x), model.responsibilities(x), strict=True):
        joint = []
        for k in range(3):
            factor = torch.diag(model.log_scale[k].exp().expand(3))
            if covariance == "full":
                entries = iter(model.lower[k])
                for i in range(3):
                    for j in range(i):
                        factor[i, j] = next(entries)
            r = row - model.loc[k]
            sigma = factor @ factor.T
            quadratic = r @ torch.linalg.inv(sigma) @ r + torch.linalg.slogdet(sigma)[1] + 3 * math.log(2 * math.pi)
            joint.append(weights[k] * math.exp(-0.5 * float(quadratic.detach())))
        assert float(evidence.detach()) == pytest.approx(math.log(sum(joint)), rel=1e-10)
        assert shares.tolist() == pytest.approx([each / sum(joint) for each in joint], rel=1e-9)


@each_covariance
def test_a_step_is_that_of_sklearn(covariance):
    """Ten steps from the same start, without a floor on either side."""
    model, x = GaussianMixture(3, 3, covariance, minimum_variance=1e-12).double(), clusters()
    model.initialize(x)
    variance = (2 * model.log_scale.detach()).exp().numpy()
    precisions = {"diagonal": 1 / variance, "spherical": 1 / variance[:, 0]}
    if covariance == "full":
        factor = model._scale_tril().detach()
        precisions["full"] = torch.linalg.inv(factor @ factor.mT).numpy()
    theirs = SklearnMixture(
        3,
        covariance_type=OF_SKLEARN[covariance],
        weights_init=np.full(3, 1 / 3),
        means_init=model.loc.detach().numpy().copy(),
        precisions_init=precisions[covariance],
        reg_covar=0.0,
        max_iter=10,
        tol=0.0,
    )
    with pytest.warns(UserWarning, match="converge"):
        theirs.fit(x.numpy())
    for _ in range(10):
        model.em_step(x)
    np.testing.assert_allclose(model.loc.detach().numpy(), theirs.means_, rtol=1e-8)
    np.testing.assert_allclose(model.logits.softmax(-1).detach().numpy(), theirs.weights_, rtol=1e-8)
    np.testing.assert_allclose(model.log_evidence(x).detach().numpy(), theirs.score_samples(x.numpy()), rtol=1e-8)
    np.testing.assert_allclose(model.responsibilities(x).detach().numpy(), theirs.predict_proba(x.numpy()), atol=1e-8)


@each_covariance
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("components", [1, 3, 8])
def test_em_raises_the_likelihood_at_every_step(covariance, seed, components):
    torch.manual_seed(seed)
    model, x = random_mixture(covariance, components), clusters()
    values = [model.em_step(x) for _ in range(60)]
    assert values[-1] == pytest.approx(likelihood(model, x), abs=0.05)
    assert all(after >= before - 1e-10 for before, after in itertools.pairwise(values))
    assert values[-1] > values[0] + 0.1


def test_em_returns_the_likelihood_before_the_step():
    model, x = random_mixture("diagonal"), clusters()
    before = likelihood(model, x)
    assert model.em_step(x) == pytest.approx(before, rel=1e-12)
    assert model.em_step(x) > before


@each_covariance
def test_a_floor_keeps_components_from_collapsing_and_em_from_going_down(covariance):
    """Twelve copies of each of four data, in a plane: every component could become a point, and some must."""
    model = GaussianMixture(6, 3, covariance, minimum_variance=0.01).double()
    x = clusters(4).repeat(12, 1)
    x[:, 2] = 1.0
    model.initialize(x)
    values = [model.em_step(x) for _ in range(100)]
    assert all(after >= before - 1e-10 for before, after in itertools.pairwise(values))
    assert all(tensor.isfinite().all() for tensor in tensors_of(model))
    smallest = model.log_scale.exp().square().min() if covariance != "full" else smallest_eigenvalue(model)
    assert float(smallest.detach()) == pytest.approx(0.01, rel=1e-6)


def smallest_eigenvalue(model: GaussianMixture) -> Tensor:
    factor = model._scale_tril()
    return torch.linalg.eigvalsh(factor @ factor.mT).min()


def test_a_component_that_is_responsible_for_nothing_stays_where_it_is():
    model, x = random_mixture("full"), clusters()
    with torch.no_grad():
        model.loc[1] = 1e6
    before = model.loc[1].clone(), model._scale_tril()[1].clone()
    for _ in range(5):
        model.em_step(x)
    torch.testing.assert_close(model.loc[1], before[0], rtol=0.0, atol=0.0)
    torch.testing.assert_close(model._scale_tril()[1], before[1])
    assert float(model.logits.softmax(-1)[1].detach()) < 1e-100
    assert model.log_evidence(x).isfinite().all()


@each_covariance
def test_the_start_is_decided_by_the_seed_and_finds_the_clusters(covariance):
    x, found = clusters(), []
    for _ in range(2):
        torch.manual_seed(5)
        model = GaussianMixture(3, 3, covariance).double()
        model.initialize(x)
        found.append(tensors_of(model))
        rows = {tuple(row) for row in x.tolist()}
        assert all(tuple(centre) in rows for centre in model.loc.tolist())
    torch.testing.assert_close(*found, rtol=0.0, atol=0.0)
    for _ in range(200):
        model.em_step(x)
    best = SklearnMixture(3, covariance_type=OF_SKLEARN[covariance], n_init=10, random_state=0, tol=1e-10, max_iter=999)
    assert likelihood(model, x) == pytest.approx(best.fit(x.numpy()).score(x.numpy()), abs=1e-4)


def test_data_that_are_all_the_same_are_a_start_too():
    model = GaussianMixture(3, 2)
    model.initialize(torch.ones(5, 2))
    assert model.em_step(torch.ones(5, 2)) <= model.em_step(torch.ones(5, 2))


@each_covariance
def test_enumeration_gives_the_evidence_and_its_gradient(covariance):
    """Pyro's TraceEnum_ELBO sums z out; the guide has nothing to draw."""
    model, x = random_mixture(covariance), clusters(9)
    parameters = list(model.parameters())
    truth = -model.log_evidence(x).sum()
    expected = torch.autograd.grad(truth, parameters)
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    loss = objective.differentiable_loss(config_enumerate(model), lambda x: None, x)
    torch.testing.assert_close(loss, truth)
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), expected)


def test_a_large_component_number_underflows_nowhere():
    model, x = random_mixture("diagonal"), clusters() * 1e4
    assert model.log_evidence(x).isfinite().all()
    torch.testing.assert_close(model.responsibilities(x).sum(-1), torch.ones(len(x)).double())


def test_simulated_data_have_the_mean_and_covariance_of_the_mixture():
    """20,000 draws, seed 0, five standard errors."""
    torch.manual_seed(0)
    model, num = random_mixture("full"), 20_000
    with torch.no_grad():
        x = model(num=num)
        weights, factor = model.logits.softmax(-1), model._scale_tril()
        mean = weights @ model.loc
        spread = model.loc - mean
        covariance = torch.einsum("k,kij->ij", weights, factor @ factor.mT + spread.unsqueeze(-1) * spread.unsqueeze(1))
    assert ((x.mean(0) - mean).abs() < 5 * (covariance.diagonal() / num).sqrt()).all()
    products = (x - mean).unsqueeze(-1) * (x - mean).unsqueeze(1)
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / math.sqrt(num)).all()


def test_em_and_initialisation_leave_the_graph_and_the_store_alone():
    model, x = GaussianMixture(2, 3).double(), clusters()
    model.initialize(x)
    model.em_step(x)
    assert all(p.requires_grad and p.is_leaf and p.grad is None for p in model.parameters())
    assert len(pyro.get_param_store()) == 0


BAD = [
    (lambda: GaussianMixture(0, 2), ValueError, ("components", "got 0")),
    (lambda: GaussianMixture(2, 2.0), ValueError, ("features", "got 2.0")),
    (lambda: GaussianMixture(2, 2, "tied"), ValueError, ("covariance", "'tied'")),
    (lambda: GaussianMixture(2, 2, minimum_variance=0.0), ValueError, ("minimum_variance", "got 0.0")),
    (lambda: GaussianMixture(3, 2).initialize(torch.zeros(2, 2)), ValueError, ("3 components", "got 2")),
    (lambda: GaussianMixture(3, 2)(torch.zeros(4, 3)), ValueError, ("(B, 2)", "(4, 3)")),
    (lambda: GaussianMixture(3, 2)(torch.zeros(2)), ValueError, ("(B, 2)", "x.unsqueeze(0)")),
    (lambda: GaussianMixture(3, 2)(torch.full((4, 2), math.nan)), ValueError, ("8 NaN",)),
    (lambda: GaussianMixture(3, 2).em_step(torch.full((4, 2), math.inf)), ValueError, ("8 infinite",)),
    (lambda: GaussianMixture(3, 2).log_evidence(torch.zeros(4, 2).double()), TypeError, ("float32", "float64")),
    (lambda: GaussianMixture(3, 2).responsibilities(torch.zeros(0, 2)), ValueError, ("at least one datum",)),
]


@pytest.mark.parametrize(("call", "error", "parts"), BAD)
def test_bad_input_is_refused_with_the_cure(call, error, parts):
    with refuses(error, *parts):
        call()


def test_a_refused_step_changes_nothing():
    model = GaussianMixture(3, 2)
    before = tensors_of(model)
    with refuses(ValueError, "1 NaN"):
        model.em_step(torch.tensor([[0.0, 1.0], [math.nan, 0.0]]))
    torch.testing.assert_close(tensors_of(model), before, rtol=0.0, atol=0.0)
