"""The ELBO and its parts against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from contracts import refuses
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.evaluation import elbo_parts
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP


def test_the_exact_guide_has_the_evidence_for_its_elbo(linear):
    parts = elbo_parts(linear.model, linear.guide(), linear.x, num_particles=3)
    torch.testing.assert_close(parts.elbo, linear.truth(linear.x))


def test_parts_are_unbiased_and_add_up(linear):
    """K = 4000, seed 0: every datum within 5 standard errors of its closed form."""
    parts = elbo_parts(linear.model, linear.guide(1.3), linear.x, num_particles=4000)
    torch.testing.assert_close(parts.elbo, parts.log_likelihood["x"] - parts.kl["z"])
    one = torch.stack([elbo_parts(linear.model, linear.guide(1.3), linear.x, num_particles=1).elbo for _ in range(50)])
    error = one.std(0) / math.sqrt(4000)
    assert ((parts.elbo - linear.elbo(linear.x, 1.3)).abs() < 5 * error).all()
    assert list(parts.log_likelihood) == ["x"]
    assert (parts.num_elements, parts.num_particles) == (4, 4000)


def test_the_closed_form_of_a_kl_has_no_noise():
    """A diagonal guide, whose KL to the standard normal Pyro knows."""
    loc, scale = torch.randn(5, 3), torch.rand(5, 3) + 0.5

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    x = torch.randn(5)
    parts = elbo_parts(model, guide, x, num_particles=2, analytic_kl=True)
    torch.testing.assert_close(parts.kl["z"], (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum(-1))
    sampled = elbo_parts(model, guide, x, num_particles=2)
    assert not torch.allclose(sampled.kl["z"], parts.kl["z"])


def test_parts_agree_with_the_objective_that_trains(linear):
    for num_particles in (1, 5):
        torch.manual_seed(1)
        parts = elbo_parts(linear.model, linear.guide(1.2), linear.x, num_particles=num_particles)
        torch.manual_seed(1)
        loss = ELBO(num_particles).loss(linear.model, linear.guide(1.2), linear.x)
        assert float(parts.elbo.sum()) == pytest.approx(-float(loss))


def two_of_each(x: Tensor, y: Tensor) -> None:
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        pyro.deterministic("sum", a + b)
        pyro.sample("x", dist.Normal(b[..., None], 1.0).expand([*b.shape, 3]).to_event(1), obs=x)
        pyro.sample("y", dist.Bernoulli(logits=a), obs=y)
        pyro.factor("penalty", -(a**2))


def two_latents(x: Tensor, y: Tensor) -> None:
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(x.mean(-1), 1.0))
        pyro.sample("b", dist.Normal(a, 0.5))


def test_every_site_has_its_part():
    x, y = torch.randn(6, 3), torch.ones(6)
    torch.manual_seed(2)
    parts = elbo_parts(two_of_each, two_latents, x, y, num_particles=4)
    assert list(parts.kl) == ["a", "b"]
    assert list(parts.log_likelihood) == ["x", "y", "penalty"]
    total = sum(parts.log_likelihood.values()) - sum(parts.kl.values())
    torch.testing.assert_close(parts.elbo, total)
    assert all(part.shape == (6,) for part in [*parts.kl.values(), *parts.log_likelihood.values()])
    assert parts.num_elements == 3 + 1
    torch.manual_seed(2)
    assert float(parts.elbo.sum()) == pytest.approx(-float(ELBO(4).loss(two_of_each, two_latents, x, y)), rel=1e-5)


def test_masked_data_count_nothing(scalar_programs):
    x, mask = torch.randn(4), torch.tensor([True, False, True, False])

    def masked(program):
        return lambda x, mask: poutine.mask(program, mask=mask)(x)

    model, guide = map(masked, scalar_programs)
    parts = elbo_parts(model, guide, x, mask, max_rows=20)
    expected = dist.Normal(0, math.sqrt(2)).log_prob(x) * mask
    torch.testing.assert_close(parts.elbo, expected)
    assert (parts.log_likelihood["x"][~mask] == 0).all()


def test_a_uniform_eight_bit_model_takes_eight_bits_per_dimension():
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Categorical(logits=torch.zeros(256)).expand([3, 2, 2]).to_event(3), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    bits = elbo_parts(model, guide, torch.randint(256, (10, 3, 2, 2))).bits_per_dim
    assert bits.mean == pytest.approx(8, abs=1e-5)
    assert bits.standard_error == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("max_rows", [1, 4, 5, 30, 10_000])
def test_pieces_do_not_change_shapes_or_values(linear, max_rows):
    parts = elbo_parts(linear.model, linear.guide(), linear.x, num_particles=4, max_rows=max_rows)
    assert parts.elbo.shape == parts.kl["z"].shape == parts.log_likelihood["x"].shape == (12,)
    torch.testing.assert_close(parts.elbo, linear.truth(linear.x))  # the exact guide has no noise
    assert parts.num_elements == 4


def test_pieces_are_no_larger_than_asked_for(linear):
    drawn = []

    def guide(x: Tensor) -> None:
        loc, covariance = linear.posterior(x)
        with pyro.plate("rows", len(x)):
            drawn.append(pyro.sample("z", dist.MultivariateNormal(loc, covariance)).shape[:-1].numel())

    elbo_parts(linear.model, guide, linear.x, num_particles=4, max_rows=20)
    assert max(drawn) == 20
    assert sum(drawn) == 12 * 4 + 5  # and the first piece once more to count its plates


@pytest.mark.parametrize("broken", [False, True])
def test_modules_are_evaluated_and_put_back_into_their_modes(broken):
    dropout = nn.Dropout(0.5)
    model = LatentVariableModel(StandardNormal(2), Bernoulli(nn.Sequential(nn.Linear(2, 6), dropout)))
    guide = AmortizedGuide(z=DiagonalNormal(MLP(6, 4, (5,))))
    dropout.register_forward_hook(lambda module, *_: modes.append(module.training))
    modes: list[bool] = []
    x = torch.ones(4, 5 if broken else 6)
    if broken:
        with pytest.raises(ValueError, match="takes 6 features"):
            elbo_parts(model, guide, x)
    else:
        assert not elbo_parts(model, guide, x).elbo.requires_grad
        assert modes
        assert not any(modes)
    assert all(module.training for program in (model, guide) for module in program.modules())


def test_sites_of_no_datum_are_refused():
    def model(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with refuses(ValueError, "outside the data plate: ['w']"):
        elbo_parts(model, guide, torch.randn(3))


def test_bad_numbers_and_data_are_refused(scalar_programs):
    x = torch.randn(3)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        elbo_parts(*scalar_programs, x, num_particles=0)
    with pytest.raises(TypeError, match=r"must be an integer; got 2\.5"):
        elbo_parts(*scalar_programs, x, num_particles=2.5)
    with refuses(ValueError, "max_rows", "got -1"):
        elbo_parts(*scalar_programs, x, max_rows=-1)
    with refuses(ValueError, "got no tensor"):
        elbo_parts(*scalar_programs, [1.0, 2.0])
    with refuses(ValueError, "got an empty tensor"):
        elbo_parts(*scalar_programs, x[:0])
