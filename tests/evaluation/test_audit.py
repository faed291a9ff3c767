"""The audit finds the bias and the noise that are there, and none that is not."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO

from contracts import refuses
from pyro_dgm.evaluation import gradient_audit
from pyro_dgm.infer import ELBO, IWAE, Baseline

X = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


class Slope(pyro.nn.PyroModule):
    """z ~ N(0, 1), x ~ N(z, 1), q(z | x) = N(slope x, 1): its ELBO and that of its gradient are known."""

    def __init__(self, slope):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, 1.0))

    def exact(self):
        """Gradient of minus the ELBO: d/ds of (1 - s)^2 x^2 / 2 + s^2 x^2 / 2, summed."""
        return {"model.slope": ((2 * self.slope - 1) * X.square()).sum().detach()}


def test_an_unbiased_estimator_is_found_unbiased_against_the_exact_gradient():
    """500 steps, seed 0, 5 standard errors."""
    program = Slope(0.2)
    for gradient in ("reparam", "stl", "score"):
        audit = gradient_audit(
            ELBO(gradient=gradient), program.model, program.guide, X, num_steps=500, reference=program.exact()
        )
        assert audit.largest_z < 5, gradient


def test_a_wrong_gradient_is_found_out():
    program = Slope(0.2)
    wrong = {name: 1.2 * gradient for name, gradient in program.exact().items()}
    audit = gradient_audit(ELBO(), program.model, program.guide, X, num_steps=2000, reference=wrong)
    assert audit.largest_z > 5


def test_a_bias_is_found_against_the_librarys_own_reference():
    program = Slope(0.2)
    audit = gradient_audit(IWAE(8, gradient="stl"), program.model, program.guide, X.repeat(50), num_steps=300)
    assert audit.largest_z > 5
    audit = gradient_audit(IWAE(8, gradient="dreg"), program.model, program.guide, X.repeat(50), num_steps=300)
    assert audit.largest_z < 5


def test_variance_and_signal_to_noise_are_those_of_the_gradient():
    """The reparameterised gradient at x is x (2 s x - x + 2 e), of variance 4 x^2; 4000 steps, 5 standard errors."""
    program = Slope(0.2)
    row = gradient_audit(ELBO(), program.model, program.guide, X, num_steps=4000, reference=program.exact()).rows[0]
    truth = 4 * X.square().sum().item()
    assert abs(row.variance.item() - truth) < 5 * truth * math.sqrt(2 / 4000)
    assert row.signal_to_noise == pytest.approx(abs(row.mean.item()) / math.sqrt(row.variance.item()))


def test_an_exact_guide_has_neither_bias_nor_noise_by_sticking_the_landing():
    program = Slope(0.5)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(program.slope * x, math.sqrt(0.5)))

    row = gradient_audit(ELBO(gradient="stl"), program.model, guide, X, num_steps=20, reference=ELBO()).rows[0]
    assert row.variance < 1e-20
    assert row.mean.abs() < 1e-12
    assert row.z.abs() < 5


def test_pyros_own_objectives_are_audited_too():
    program = Slope(0.2)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.2, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, 1.0))

    exact = {"slope": program.exact()["model.slope"], "model.slope": torch.zeros(())}
    audit = gradient_audit(Trace_ELBO(), program.model, guide, X, reference=exact, num_steps=500)
    assert audit.largest_z < 5


def test_parameters_of_the_store_are_audited_by_name():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.3).double()), 1.0), obs=x)

    audit = gradient_audit(ELBO(), model, lambda x: None, X, num_steps=3)
    row = audit.rows[0]
    assert row.name == "loc"
    torch.testing.assert_close(row.mean, (0.3 - X).sum().to(row.mean), atol=1e-6, rtol=0.0)
    assert row.variance == 0
    assert row.z == 0
    assert row.signal_to_noise == math.inf


def test_nothing_is_left_behind():
    program, baseline = Slope(0.2), Baseline()
    program.slope.grad = torch.tensor(7.0, dtype=torch.float64)
    before = program.slope.detach().clone()
    gradient_audit(ELBO(gradient="nvil", baseline=baseline), program.model, program.guide, X, num_steps=3)
    assert torch.equal(program.slope, before)
    assert program.slope.grad == 7
    assert baseline.is_new


def test_the_table_names_every_parameter_and_the_cost():
    program = Slope(0.2)
    text = str(gradient_audit(ELBO(), program.model, program.guide, X, num_steps=3, num_reference_steps=3))
    assert "model.slope" in text
    assert "3 steps of" in text


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"num_steps": 1}, ("num_steps", "got 1")),
        ({"num_steps": 2.5}, ("num_steps", "got 2.5")),
        ({"num_reference_steps": 0}, ("num_reference_steps", "got 0")),
        ({"reference": {}}, ("every parameter", "slope")),
    ],
)
def test_bad_arguments_are_refused(options, parts):
    program = Slope(0.2)
    with refuses(ValueError, *parts):
        gradient_audit(ELBO(), program.model, program.guide, X, **{"num_steps": 2, **options})


def test_a_foreign_objective_needs_a_reference():
    program = Slope(0.2)
    with refuses(ValueError, "reference must be given", "RenyiELBO"):
        gradient_audit(RenyiELBO(), program.model, program.guide, X, num_steps=2)
