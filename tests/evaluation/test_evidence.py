"""Estimates of log p(x) against closed forms, and their errors against what they claim."""

import functools
import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from contracts import refuses
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.evaluation import Estimate, log_evidence, pareto_k
from pyro_dgm.evaluation.evidence import WeightSums
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

# With the exact posterior every weight is p(x)


@pytest.mark.parametrize("num_particles", [2, 100, 150])
def test_estimate_is_exact_when_the_guide_is(linear, num_particles):
    found = log_evidence(linear.model, linear.guide(), linear.x, num_particles=num_particles)
    torch.testing.assert_close(found.per_datum, linear.truth(linear.x))
    assert found.standard_error.max() < 1e-6
    assert found.num_particles == num_particles


def test_a_single_particle_has_no_error_and_gives_no_warning(linear):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = log_evidence(linear.model, linear.guide(), linear.x, num_particles=1)
    torch.testing.assert_close(found.per_datum, linear.truth(linear.x))
    assert found.standard_error.isnan().all()
    assert found.pareto_k.isposinf().all()
    assert math.isnan(found.monte_carlo_error)


def test_enumerated_latents_are_summed_out_exactly():
    """A mixture of three: the guide is its posterior."""
    logits, locs = torch.tensor([0.2, -1.0, 0.5]), torch.tensor([-2.0, 0.0, 3.0])

    def joint(x: Tensor) -> Tensor:
        return logits.log_softmax(-1) + dist.Normal(locs, 1.0).log_prob(x[:, None])  # (B, 3)

    def model(x: Tensor) -> None:
        with pyro.plate("points", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=logits))
            pyro.sample("x", dist.Normal(locs[k], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("points", len(x)):
            pyro.sample("k", dist.Categorical(logits=joint(x)))

    x = torch.randn(6) * 3
    found = log_evidence(model, guide, x, num_particles=50)
    torch.testing.assert_close(found.per_datum.float(), joint(x).logsumexp(-1), atol=1e-5, rtol=1e-5)


# With another guide it is within its errors


def test_estimate_is_within_its_error_of_the_truth(linear):
    """K = 4000, seed 0, a guide 1.3 times too wide; 5 standard errors of each of 12 data and of their mean."""
    found = log_evidence(linear.model, linear.guide(1.3), linear.x, num_particles=4000)
    error = found.per_datum - linear.truth(linear.x)
    assert (error.abs() < 5 * found.standard_error).all()
    assert abs(float(error.mean())) < 5 * found.monte_carlo_error
    assert 0 < found.standard_error.max() < 0.05
    assert found.pareto_k.max() < 0.7


def test_stated_errors_cover_the_truth_as_often_as_they_should(linear):
    """One standard error covers 68.3 %, two 95.4 %: 200 repetitions of K = 500, within 5 binomial standard errors."""
    x, guide = linear.x[:1], linear.guide(1.2)
    found = log_evidence(linear.model, guide, x.expand(200, -1), num_particles=500)
    z = (found.per_datum - linear.truth(x)) / found.standard_error
    for width, expected in ((1, 0.683), (2, 0.954)):
        share = float((z.abs() < width).double().mean())
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / 200)


def test_errors_are_those_of_the_delta_method(linear):
    log_w = torch.randn(1000, 5, dtype=torch.float64)
    w = log_w.exp()
    sums = WeightSums.of(log_w, 1000)
    torch.testing.assert_close(sums.log_mean(), w.mean(0).log())
    torch.testing.assert_close(sums.standard_error(), w.std(0) / w.mean(0) / math.sqrt(1000))


def test_a_narrow_guide_shows_in_pareto_k(linear):
    """At 0.3 of the posterior's standard deviation the tail's index is 1 - 0.3^2 = 0.91; K = 4000, seed 0."""
    narrow = log_evidence(linear.model, linear.guide(0.3), linear.x, num_particles=4000)
    assert narrow.pareto_k.mean() > 0.7


def test_estimate_tells_the_error_of_the_data_from_that_of_the_draws(linear):
    found = log_evidence(linear.model, linear.guide(1.2), linear.x, num_particles=100)
    assert found.estimate == Estimate.of(found.per_datum)
    assert found.estimate.mean == pytest.approx(found.per_datum.mean().item())
    assert found.estimate.standard_error == pytest.approx(found.per_datum.std().item() / math.sqrt(12))
    assert found.monte_carlo_error == pytest.approx(float((found.standard_error**2).mean().sqrt()) / math.sqrt(12))
    assert math.isnan(Estimate.of(torch.ones(1)).standard_error)
    assert str(Estimate(-1.234, 0.056)) == "-1.23 ± 0.06"


# In pieces


@pytest.mark.parametrize("cuts", [(1000,), (300, 700), (1, 998, 1), (5,) * 200])
def test_sums_do_not_depend_on_how_the_weights_come(cuts):
    log_w = 3 * torch.randn(1000, 4, dtype=torch.float64) - 700  # w alone would underflow
    whole = WeightSums.of(log_w, 1000)
    total = functools.reduce(WeightSums.plus, [WeightSums.of(part, 1000) for part in log_w.split(list(cuts))])
    torch.testing.assert_close(total.log_mean(), whole.log_mean())
    torch.testing.assert_close(total.standard_error(), whole.standard_error())
    torch.testing.assert_close(total.tail, whole.tail, atol=0, rtol=0)
    assert total.num_summed == 1000
    torch.testing.assert_close(total.pareto_k(), pareto_k(log_w), atol=0, rtol=0)


@pytest.mark.parametrize("max_rows", [1, 7, 64, 1000])
def test_memory_is_bounded_and_every_particle_is_drawn(linear, max_rows):
    drawn = []

    def guide(x: Tensor) -> None:
        loc, covariance = linear.posterior(x)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(loc, 1.2**2 * covariance))
        drawn.append(z.shape[:-1].numel())

    found = log_evidence(linear.model, guide, linear.x, num_particles=90, max_rows=max_rows)
    assert max(drawn) <= max_rows
    assert sum(drawn) == 12 * 90 + 12  # each piece runs once more to count its plates
    error = found.per_datum - linear.truth(linear.x)
    assert (error.abs() < 5 * found.standard_error).all()


def test_every_tensor_with_a_row_per_datum_is_cut(scalar_programs):
    model, guide = scalar_programs
    x, shift = torch.randn(9), torch.randn(9)
    truth = dist.Normal(shift, math.sqrt(2)).log_prob(x)
    for args, kwargs in [((x, shift), {}), ((x,), {"shift": shift}), ((), {"shift": shift, "x": x})]:
        found = log_evidence(model, guide, *args, num_particles=10, max_rows=20, **kwargs)
        torch.testing.assert_close(found.per_datum.float(), truth)


def test_scalars_and_other_values_are_passed_on(scalar_programs):
    def model(temperature: Tensor, x: Tensor, note: str) -> None:
        assert (temperature.shape, note) == ((), "as it is")
        scalar_programs[0](x)

    def guide(temperature: Tensor, x: Tensor, note: str) -> None:
        scalar_programs[1](x)

    x = torch.randn(5)
    found = log_evidence(model, guide, torch.tensor(2.0), x, num_particles=4, max_rows=8, note="as it is")
    torch.testing.assert_close(found.per_datum.float(), dist.Normal(0, math.sqrt(2)).log_prob(x))


def test_arguments_of_the_programs_that_have_our_names_are_bound_before(scalar_programs):
    def bind(program: Any) -> Any:
        def renamed(x: Tensor, num_particles: int) -> None:
            assert num_particles == 3
            program(x)

        return functools.partial(renamed, num_particles=3)

    model, guide = map(bind, scalar_programs)
    assert log_evidence(model, guide, torch.randn(4), num_particles=5).num_particles == 5


# Modules


class Recording(nn.Module):
    """A network that notes the mode it runs in, and may fail."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.modes, self.fails = net, [], False

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        if self.fails:
            raise RuntimeError("broken")
        return self.net(x)


@pytest.mark.parametrize("fails", [False, True])
def test_modules_are_evaluated_and_put_back_into_their_modes(fails):
    decoder = Recording(nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6)))
    model = LatentVariableModel(StandardNormal(2), Bernoulli(decoder))
    guide = AmortizedGuide(z=DiagonalNormal(MLP(6, 4, (5,))))
    decoder.net[1].eval()
    decoder.fails = fails
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.ones(8, 6)
    if fails:
        with pytest.raises(RuntimeError, match="broken"):
            log_evidence(model, guide, x, num_particles=1)
    else:
        found = log_evidence(model, guide, x, num_particles=1)
        assert not found.per_datum.requires_grad
    assert not any(decoder.modes)
    assert model.training
    assert guide.training
    assert decoder.net[0].training
    assert not decoder.net[1].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# Bad input


def test_numbers_of_particles_are_checked(scalar_programs):
    x = torch.randn(3)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        log_evidence(*scalar_programs, x, num_particles=0)
    for bad in (2.5, True, "5"):
        with pytest.raises(TypeError, match="must be an integer; got"):
            log_evidence(*scalar_programs, x, num_particles=bad)
    with refuses(ValueError, "max_rows", "got 0"):
        log_evidence(*scalar_programs, x, max_rows=0)


def test_data_that_are_not_there_are_missed(scalar_programs):
    with refuses(ValueError, "got an empty tensor"):
        log_evidence(*scalar_programs, torch.zeros(0))
    with refuses(ValueError, "got no tensor"):
        log_evidence(*scalar_programs)


def test_nan_data_are_refused_with_validation_on_and_off(scalar_programs, linear):
    x = linear.x.clone()
    x[3] = math.nan
    with pytest.raises(ValueError, match=r"NaN|nan"):
        log_evidence(linear.model, linear.guide(), x)
    with pyro.validation_enabled(False), refuses(ValueError, "for 1 of 12 data"):
        log_evidence(linear.model, linear.guide(), x, num_particles=3)


def test_impossible_data_have_no_evidence_and_no_error(scalar_programs):
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(z, z + 1, validate_args=False), obs=x)

    found = log_evidence(model, scalar_programs[1], torch.tensor([1e6]), num_particles=30)
    assert found.per_datum.isneginf().all()
    assert found.standard_error.isnan().all()


def with_global(x: Tensor) -> None:
    b = pyro.sample("b", dist.Uniform(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(b, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def global_guide(x: Tensor) -> None:
    b = pyro.sample("b", dist.Uniform(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x + b) / 2, math.sqrt(0.5)))


def test_latents_of_no_datum_are_refused_even_with_density_one_and_the_cure_works():
    x = torch.randn(4)
    with refuses(ValueError, "outside the data plate: ['b']"):
        log_evidence(with_global, global_guide, x, num_particles=3)
    values = {"b": torch.tensor(0.3)}
    model, guide = (
        poutine.block(poutine.condition(program, data=values), hide=list(values))
        for program in (with_global, global_guide)
    )
    found = log_evidence(model, guide, x, num_particles=3)
    torch.testing.assert_close(found.per_datum.float(), dist.Normal(0.3, math.sqrt(2)).log_prob(x))


def test_rows_that_are_not_the_data_are_refused(scalar_programs):
    """One vector without a plate, cut into pieces, or a plate that subsamples, would be silently wrong."""

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand(z.shape + x.shape).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(x.mean(), 1.0))

    with refuses(ValueError, "got 8 rows and 1 elements"):
        log_evidence(model, guide, torch.randn(8), num_particles=4)

    def subsampled(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def subsampled_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with refuses(ValueError, "got 8 rows and 2 elements"):
        log_evidence(subsampled, subsampled_guide, torch.randn(8), num_particles=4)


def test_programs_that_do_not_fit_are_refused(scalar_programs):
    def guide(x: Tensor) -> None:
        pass

    with pytest.raises(ValueError, match=r"without \['z'\]"):
        log_evidence(scalar_programs[0], guide, torch.randn(3))


def test_the_size_of_the_whole_data_does_not_change_the_evidence_of_one():
    model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6, (5,))))
    guide = AmortizedGuide(z=DiagonalNormal(MLP(6, 4, (5,))))
    x = torch.ones(3, 6)
    torch.manual_seed(1)
    plain = log_evidence(model, guide, x, num_particles=10)
    torch.manual_seed(1)
    scaled = log_evidence(model, guide, x, num_particles=10, data_size=3000)
    torch.testing.assert_close(plain.per_datum, scaled.per_datum)
