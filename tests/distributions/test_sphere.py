"""The power spherical distribution against grids of the circle and the sphere, closed forms and draws."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from contracts import refuses
from pyro_dgm.distributions import (
    PowerSpherical,
    PowerSphericalDistribution,
    SphericalUniform,
    SphericalUniformDistribution,
)

DTYPES = [torch.float32, torch.float64]
KAPPAS = [0.0, 0.5, 3.0, 30.0, 1e3]


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def directions(d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Both ends of the first axis, where reflections are undefined, the second axis, the diagonal, and two others."""
    first, second = torch.eye(d, dtype=dtype)[:2]
    generator = torch.Generator().manual_seed(0)
    others = torch.randn(2, d, generator=generator, dtype=dtype)
    return unit(torch.stack([first, -first, second, torch.ones(d, dtype=dtype), *others]))


def family(d: int, kappa: float, dtype: torch.dtype = torch.float64) -> PowerSphericalDistribution:
    loc = directions(d, dtype)
    return PowerSphericalDistribution(loc, torch.full((len(loc),), kappa, dtype=dtype))


def uniform(d: int, dtype: torch.dtype = torch.float64) -> SphericalUniformDistribution:
    return SphericalUniformDistribution(torch.zeros(d, dtype=dtype))


def circle(num: int = 20_000) -> tuple[Tensor, Tensor]:
    """Points of the circle, (num, 2), and the length that each stands for."""
    angle = 2 * math.pi * (torch.arange(num, dtype=torch.float64) + 0.5) / num
    return torch.stack([angle.cos(), angle.sin()], dim=-1), torch.full((num,), 2 * math.pi / num).double()


def ball(num: int = 700) -> tuple[Tensor, Tensor]:
    """Points of the sphere in three dimensions, equally spaced in height and longitude, which is equal in area."""
    height = 2 * (torch.arange(num, dtype=torch.float64) + 0.5) / num - 1
    angle = 2 * math.pi * (torch.arange(num, dtype=torch.float64) + 0.5) / num
    h, phi = torch.meshgrid(height, angle, indexing="ij")
    r = (1 - h.square()).sqrt()
    points = torch.stack([r * phi.cos(), r * phi.sin(), h], dim=-1).reshape(-1, 3)
    return unit(points), torch.full((num * num,), 4 * math.pi / num**2).double()


GRIDS = {2: circle, 3: ball}


@pytest.mark.parametrize("d", GRIDS)
@pytest.mark.parametrize("kappa", [0.0, 0.5, 3.0, 30.0])
def test_mass_entropy_mean_variance_and_divergence_are_those_of_a_grid(d, kappa):
    points, area = GRIDS[d]()
    q, p = family(d, kappa), uniform(d)
    log_q = q.log_prob(points.unsqueeze(1))
    mass = log_q.exp() * area.unsqueeze(-1)  # (points, 6)
    close = {"atol": 1e-3, "rtol": 1e-3}
    torch.testing.assert_close(mass.sum(0), torch.ones(6, dtype=torch.float64), **close)
    torch.testing.assert_close(q.entropy(), -(mass * log_q).sum(0), **close)
    mean = mass.T @ points
    torch.testing.assert_close(q.mean, mean, **close)
    torch.testing.assert_close(q.variance, mass.T @ points.square() - mean.square(), **close)
    divergence = (mass * (log_q - p.log_prob(points).unsqueeze(-1))).sum(0)
    torch.testing.assert_close(kl_divergence(q, p), divergence, **close)
    torch.testing.assert_close((p.log_prob(points).exp() * area).sum().item(), 1.0)
    torch.testing.assert_close(p.variance, torch.full((d,), 1 / d).double())


@pytest.mark.parametrize("d", [5, 50])
@pytest.mark.parametrize("kappa", [0.5, 30.0])
def test_in_many_dimensions_the_mass_is_that_of_circles_of_latitude(d, kappa):
    """The surface between two heights t is that of the sphere one dimension below times (1 - t^2)^((d - 3) / 2)."""
    num = 200_000
    t = 2 * (torch.arange(num, dtype=torch.float64) + 0.5) / num - 1
    x = torch.zeros(num, d, dtype=torch.float64)
    x[:, 0], x[:, 1] = t, (1 - t.square()).sqrt()
    q = PowerSphericalDistribution(torch.eye(d, dtype=torch.float64)[0], torch.tensor(kappa, dtype=torch.float64))
    log_area = uniform(d - 1).entropy() + 0.5 * (d - 3) * torch.log1p(-t.square())
    for own in (q, uniform(d)):
        assert ((own.log_prob(x) + log_area).exp().sum() * 2 / num).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("d", [2, 3, 20])
def test_without_concentration_it_is_uniform(d):
    q, p = family(d, 0.0), uniform(d)
    x = p.sample((7, 6))
    torch.testing.assert_close(q.log_prob(x), p.log_prob(x))
    torch.testing.assert_close(kl_divergence(q, p), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0.0)
    torch.testing.assert_close(q.entropy(), p.entropy().expand(6))


@pytest.mark.parametrize("d", [2, 3, 20])
@pytest.mark.parametrize("kappa", KAPPAS)
def test_draws_lie_on_the_sphere_and_have_its_mean_variance_and_divergence(d, kappa):
    """Seed 0, 20,000 draws about each of 6 directions, 5 standard errors."""
    torch.manual_seed(0)
    q, p, num = family(d, kappa), uniform(d), 20_000
    x = q.expand((2, 6)).sample((num // 2,)).reshape(num, 6, d)
    assert q.support.check(x).all()
    assert ((x.mean(0) - q.mean).abs() < 5 * x.std(0) / math.sqrt(num)).all()
    square = (x - q.mean).square()
    assert ((square.mean(0) - q.variance).abs() < 5 * square.std(0) / math.sqrt(num)).all()
    ratio = q.log_prob(x) - p.log_prob(x)
    assert ((ratio.mean(0) - kl_divergence(q, p)).abs() < 5 * ratio.std(0) / math.sqrt(num) + 1e-9).all()


def test_uniform_draws_have_no_direction():
    """Seed 0, 20,000 draws, 5 standard errors; also of each octant."""
    torch.manual_seed(0)
    x = uniform(3).expand((2,)).sample((10_000,)).reshape(-1, 3)
    assert (x.mean(0).abs() < 5 * math.sqrt(1 / 3 / 20_000)).all()
    octants = ((x > 0).double() @ torch.tensor([4.0, 2.0, 1.0]).double()).long().bincount(minlength=8) / 20_000
    assert ((octants - 1 / 8).abs() < 5 * math.sqrt(1 / 8 * 7 / 8 / 20_000)).all()


@pytest.mark.parametrize("d", [2, 3, 10])
@pytest.mark.parametrize("kappa", KAPPAS)
def test_the_gradient_through_draws_is_that_of_the_mean(d, kappa):
    """Of an unnormalised direction and of kappa, with the first axis among the directions.

    Seed 0, 5,000 draws each, 5 standard errors.
    """
    torch.manual_seed(0)
    num = 5000
    weight = unit(torch.arange(1.0, d + 1, dtype=torch.float64))

    def leaves(*shape: int) -> list[Tensor]:
        loc = 1.7 * directions(d).expand(*shape, 6, d)
        return [loc.clone().requires_grad_(), torch.full((*shape, 6), kappa).double().requires_grad_()]

    def gradients(given: list[Tensor], draw: bool) -> tuple[Tensor, ...]:
        q = PowerSphericalDistribution(unit(given[0]), given[1])
        return torch.autograd.grad(((q.rsample() if draw else q.mean) * weight).sum(), given)

    for found, truth in zip(gradients(leaves(num), True), gradients(leaves(), False), strict=True):
        assert ((found.mean(0) - truth).abs() < 5 * found.std(0) / math.sqrt(num) + 1e-9).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kappa", [0.0, 1e-4, 1e4, 1e6])
def test_draws_densities_and_gradients_are_finite_and_right_however_extreme_the_concentration(dtype, kappa):
    """Densities and divergences to 1e-3 nats of float64's, in float32 as well."""
    for d in (2, 3, 50):
        loc = directions(d, dtype).expand(100, 6, d).clone().requires_grad_()
        concentration = torch.full((100, 6), kappa, dtype=dtype, requires_grad=True)
        q = PowerSphericalDistribution(unit(loc), concentration)
        x = q.rsample()
        assert q.support.check(x).all()
        log_prob, divergence = q.log_prob(x), kl_divergence(q, uniform(d, dtype))
        total = x.sum() + log_prob.sum() + divergence.sum()
        assert all(g.isfinite().all() for g in torch.autograd.grad(total, (loc, concentration)))
        exact = PowerSphericalDistribution(unit(unit(loc).double()), concentration.double())
        y = unit(x.double())
        torch.testing.assert_close(log_prob.double(), exact.log_prob(y), atol=1e-3, rtol=0.0)
        torch.testing.assert_close(divergence.double(), kl_divergence(exact, uniform(d)), atol=1e-3, rtol=0.0)


def test_the_opposite_pole_has_a_finite_density_and_gradient():
    loc = torch.eye(3)[0].requires_grad_()
    for kappa in (0.0, 2.0):
        log_prob = PowerSphericalDistribution(unit(loc), torch.tensor(kappa)).log_prob(-torch.eye(3)[0])
        assert log_prob.isfinite()
        assert torch.autograd.grad(log_prob, loc)[0].isfinite().all()


def test_shapes_are_those_of_every_distribution():
    q = family(3, 2.0).expand((4, 1, 6))
    assert (q.batch_shape, q.event_shape) == ((4, 1, 6), (3,))
    assert q.rsample((5, 2)).shape == (5, 2, 4, 1, 6, 3)
    assert q.log_prob(torch.eye(3)[0].double()).shape == (4, 1, 6)
    assert q.mean.shape == q.variance.shape == q.mode.shape == (4, 1, 6, 3)
    assert kl_divergence(q, uniform(3)).shape == kl_divergence(q, uniform(3).expand((4, 1, 6))).shape == (4, 1, 6)
    p = uniform(3).expand((4, 6))
    assert p.rsample((5,)).shape == (5, 4, 6, 3)
    assert p.log_prob(torch.eye(3)[0].double()).shape == p.entropy().shape == (4, 6)
    assert not p.mean.any()


def test_the_network_gives_the_direction_and_then_the_concentration():
    parameters = torch.randn(5, PowerSpherical.num_parameters(3))
    q = PowerSpherical(nn.Identity())(parameters)
    torch.testing.assert_close(q.loc, unit(parameters[:, :3]))
    torch.testing.assert_close(q.concentration, 1 + torch.nn.functional.softplus(parameters[:, 3]))


@pytest.mark.parametrize("size", [0.0, 1e-35, 1e30])
def test_a_direction_of_any_length_is_normalised(size):
    parameters = torch.tensor([size, 0.0, size, 0.5], requires_grad=True)
    q = PowerSpherical(nn.Identity())(parameters)
    expected = [1.0, 0.0, 0.0] if size == 0 else [math.sqrt(0.5), 0.0, math.sqrt(0.5)]
    torch.testing.assert_close(q.loc, torch.tensor(expected))
    assert torch.autograd.grad(q.rsample().sum(), parameters)[0].isfinite().all()


def test_the_prior_does_not_look_at_the_context_and_has_no_state():
    prior = SphericalUniform(4)
    assert prior(torch.zeros(5, 3)).batch_shape == ()
    assert not prior.state_dict()
    assert prior.double()().sample().dtype is torch.float64


# Bad input


@pytest.mark.parametrize("features", [1, 0, 3.0, True])
def test_a_sphere_has_two_dimensions(features):
    with refuses(ValueError, "features", "at least 2", repr(features)):
        SphericalUniform(features)


def test_a_network_is_a_module_of_three_outputs():
    with refuses(TypeError, "PowerSpherical", "torch.nn.Module"):
        PowerSpherical(784)
    with refuses(ValueError, "PowerSpherical", "(4, 2)", "num_parameters"):
        PowerSpherical(nn.Identity())(torch.zeros(4, 2))


@pytest.mark.parametrize("x", [torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2)])
def test_data_have_length_one(x):
    for conditional in (SphericalUniform(2), PowerSpherical(nn.Identity())):
        with refuses(ValueError, type(conditional).__name__, "length 1", "x.norm"):
            conditional.check_data(x)


def test_validation_notices_a_direction_that_is_none():
    with pytest.raises(ValueError, match="loc"):
        PowerSphericalDistribution(torch.ones(3), torch.tensor(1.0))
    with pytest.raises(ValueError, match="within the support"):
        family(3, 1.0).log_prob(torch.ones(3).double())
