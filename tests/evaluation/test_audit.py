"""The audit finds the bias and the noise that are there, and none that is not."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO

from contracts import refuses
from pyro_dgm.evaluation import gradient_audit
from pyro_dgm.infer import ELBO, IWAE, PIWAE, Baseline, Relaxation, ReweightedWakeSleep, WakeSleep

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
    before, remembered = program.slope.detach().clone(), copy.deepcopy(baseline.state_dict())
    gradient_audit(ELBO(gradient="nvil", baseline=baseline), program.model, program.guide, X, num_steps=3)
    assert torch.equal(program.slope, before)
    assert program.slope.grad == 7
    torch.testing.assert_close(baseline.state_dict(), remembered, atol=0.0, rtol=0.0, equal_nan=True)


def test_the_table_names_every_parameter_and_the_cost():
    program = Slope(0.2)
    text = str(gradient_audit(ELBO(), program.model, program.guide, X, num_steps=3, num_reference_steps=3))
    assert "model.slope" in text
    assert "3 steps of" in text


def test_a_nan_is_the_largest_of_all():
    """Wherever it stands, in the gradient or in the reference, in a row or among rows."""
    program = Bits()
    for name, i in (("model.prior", 0), ("model.rate", 1)):
        reference = program.exact()
        reference[name][i] = math.nan
        audit = gradient_audit(ELBO(2), program.model, program.guide, X, num_steps=5, reference=reference)
        assert math.isnan(audit.largest_z)
        assert [line.split()[1] == "nan" for line in str(audit).splitlines()[1:3]] == [
            name == own for own in program.exact()
        ]
    reference = program.exact()
    program.rate.register_hook(lambda gradient: math.nan * gradient)
    audit = gradient_audit(ELBO(2), program.model, program.guide, X, num_steps=5, reference=reference)
    assert math.isnan(audit.largest_z)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"num_steps": 1}, ("num_steps", "got 1")),
        ({"num_steps": 2.5}, ("num_steps", "got 2.5")),
        ({"num_reference_steps": 0}, ("num_reference_steps", "got 0")),
        ({"reference": {}}, ("every parameter", "slope")),
        ({"reference": "exact"}, ("'auto'", "exact")),
        ({"reference": 3}, ("'auto'", "got 3")),
        ({"reference": {"model.slope": torch.zeros(2)}}, ("shape", "model.slope: (2,) for ()")),
        ({"reference": {"model.slope": 1.0}}, ("tensor", "model.slope: 1.0")),
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


class Bits(pyro.nn.PyroModule):
    """Two bits per datum, of which x is a noisy sum; q(b | x) = Bernoulli(sigmoid(rate x + shift))."""

    def __init__(self, sites=None):
        super().__init__()
        self.prior = torch.nn.Parameter(torch.tensor([0.3, -0.6], dtype=torch.float64))
        self.rate = torch.nn.Parameter(torch.tensor([0.5, -0.4], dtype=torch.float64))
        self.sites = sites

    def model(self, x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=self.prior).to_event(1))
            pyro.sample("x", dist.Normal(b.sum(-1), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            logits = x.unsqueeze(-1) * self.rate
            pyro.sample("b", dist.Bernoulli(logits=logits).to_event(1), infer=self.sites or {})

    def exact(self, beta=1.0):
        """Gradient of minus the ELBO by a sum over the four values, written out."""
        values = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
        logits = X.unsqueeze(-1) * self.rate
        log_q = dist.Bernoulli(logits=logits).to_event(1).log_prob(values.unsqueeze(1))  # (4, B)
        log_prior = dist.Bernoulli(logits=self.prior).to_event(1).log_prob(values).unsqueeze(1)
        log_x = dist.Normal(values.sum(-1, keepdim=True), 1.0).log_prob(X)
        bound = (log_q.exp() * (log_x + beta * (log_prior - log_q))).sum()
        found = torch.autograd.grad(-bound, [self.prior, self.rate])
        return dict(zip(("model.prior", "model.rate"), found, strict=True))


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_reference_of_an_elbo_of_enumerable_latents_is_exact(beta):
    """An exact objective has then neither noise nor bias, and no reference step is taken by draws."""
    program = Bits()
    audit = gradient_audit(ELBO(gradient="enumerate", beta=beta), program.model, program.guide, X, num_steps=2)
    truth = program.exact(beta)
    for row in audit.rows:
        torch.testing.assert_close(row.mean, truth[row.name])
        assert float(row.variance.abs().max()) < 1e-20
        assert float(row.bias.abs().max()) < 1e-12
    noisy = gradient_audit(ELBO(2, gradient="loo", beta=beta), program.model, program.guide, X, num_steps=5)
    for row in noisy.rows:
        torch.testing.assert_close(row.mean - row.bias, truth[row.name])


def test_estimators_of_discrete_latents_are_judged_by_the_exact_gradient():
    """1000 steps, seed 0, 5 standard errors; the relaxed draws' bias is far more."""
    program = Bits()
    for gradient, is_biased in (("loo", False), ("rebar", False), ("gumbel", True)):
        objective = ELBO(2, gradient=gradient, relaxation=Relaxation().double())
        pyro.set_rng_seed(0)
        audit = gradient_audit(objective, program.model, program.guide, X.repeat(10), num_steps=1000)
        assert (audit.largest_z > 5) == is_biased, gradient


@pytest.mark.parametrize(
    ("objective", "sites"),
    [
        (IWAE(4), None),
        (ELBO(4, moves="guide"), None),
        (ELBO(4), {"pyro_dgm": {"gradient": "loo"}}),
        (IWAE(1, gradient="enumerate"), None),
    ],
)
def test_where_the_exact_gradient_is_not_to_be_had_the_reference_is_drawn(objective, sites):
    """400 steps, seed 0, 5 standard errors; its own error enters, so that a reference of few steps does not mislead."""
    program = Bits(sites)
    pyro.set_rng_seed(0)
    audit = gradient_audit(objective, program.model, program.guide, X, num_steps=400, num_reference_steps=100)
    assert audit.largest_z < 5
    assert max(float(row.bias.abs().max()) for row in audit.rows) > 1e-6


def test_programs_with_noise_of_their_own_have_no_exact_gradient():
    program = Bits()

    def guide(x):
        program.guide(torch.nn.functional.dropout(x, 0.5))

    pyro.set_rng_seed(0)
    audit = gradient_audit(ELBO(4), program.model, guide, X, num_steps=300, num_reference_steps=300)
    assert audit.largest_z < 5


def test_an_objective_that_is_no_bound_needs_a_reference():
    program = Bits()
    for objective in (PIWAE(4, 2), ReweightedWakeSleep(4), WakeSleep(), ELBO() + 0.5 * ELBO()):
        with refuses(ValueError, "reference must be given", type(objective).__name__):
            gradient_audit(objective, program.model, program.guide, X, num_steps=2)
