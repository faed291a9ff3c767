"""Codes, reconstructions, samples and paths, of our programs and of a stranger's."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from contracts import refuses
from pyro_dgm.distributions import Bernoulli, Categorical, DiagonalNormal, StandardNormal
from pyro_dgm.evaluation import decode, encode, interpolate, latent_arithmetic, reconstruct, simulate
from pyro_dgm.evaluation.prediction import _slerp
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

B, D, X, C = 6, 3, 8, 2  # rows, latents, features, context


@pytest.fixture
def vae() -> tuple[LatentVariableModel, AmortizedGuide]:
    model = LatentVariableModel(StandardNormal(D), Bernoulli(MLP(D, X, (7,))))
    return model, AmortizedGuide(z=DiagonalNormal(MLP(X, 2 * D, (7,))))


@pytest.fixture
def cvae() -> tuple[LatentVariableModel, AmortizedGuide]:
    model = LatentVariableModel(StandardNormal(D), Bernoulli(MLP(D + C, X, (7,))))
    return model, AmortizedGuide(z=DiagonalNormal(MLP(X + C, 2 * D, (7,))))


def binary(*shape: int) -> Tensor:
    return torch.rand(*shape).round()


def logits_of(model: LatentVariableModel, *inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model.likelihood.net(*inputs)


# A stranger's programs: two latents, the second given the first, and two observations


def chain_model(x: Tensor, y: Tensor) -> None:
    with pyro.plate("people", len(x)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(a[..., None].expand(*a.shape, 2), 1.0).to_event(1))
        pyro.deterministic("sum", a + b.sum(-1))
        pyro.sample("x", dist.Normal(b * 10, 0.1).to_event(1), obs=x)
        pyro.sample("y", dist.Categorical(logits=torch.stack([a, -a, 0 * a], dim=-1)), obs=y)


def chain_guide(x: Tensor, y: Tensor) -> None:
    with pyro.plate("people", len(x)):
        a = pyro.sample("a", dist.Normal(x.sum(-1), 0.3))
        pyro.sample("b", dist.Normal(a[..., None] + x, 0.3).to_event(1))


def chain_data() -> tuple[Tensor, Tensor]:
    return torch.randn(B, 2), torch.randint(3, (B,))


# encode


def test_codes_are_the_means_of_the_guide(vae):
    _, guide = vae
    x = binary(B, X)
    codes = encode(guide, x)
    with torch.no_grad():
        torch.testing.assert_close(codes["z"], guide.sites.z(x).mean, atol=0, rtol=0)
    assert list(codes) == ["z"]
    assert not codes["z"].requires_grad
    torch.testing.assert_close(encode(guide, x)["z"], codes["z"], atol=0, rtol=0)


def test_codes_can_be_drawn(vae):
    _, guide = vae
    x = binary(1, X).expand(4000, X)
    draws = encode(guide, x, sample=True)["z"]
    with torch.no_grad():
        posterior = guide.sites.z(x[:1])
    error = posterior.stddev[0] / math.sqrt(4000)
    assert ((draws.mean(0) - posterior.mean[0]).abs() < 5 * error).all()  # seed 0
    torch.testing.assert_close(draws.std(0), posterior.stddev[0], rtol=0.1, atol=0)


def test_a_later_latent_is_encoded_given_the_mean_of_an_earlier_one():
    x, y = chain_data()
    codes = encode(chain_guide, x, y)
    torch.testing.assert_close(codes["a"], x.sum(-1))
    torch.testing.assert_close(codes["b"], x.sum(-1, keepdim=True) + x)


def test_codes_see_the_context(cvae):
    _, guide = cvae
    x, context = binary(B, X), torch.randn(B, C)
    codes = encode(guide, x, context)["z"]
    assert not torch.allclose(codes, encode(guide, x, context + 1)["z"])


# decode and reconstruct


def test_latents_are_decoded_to_the_means_of_the_likelihood(vae):
    model, _ = vae
    z = torch.randn(B, D)
    decoded = decode(model, {"z": z}, num=B)
    assert list(decoded) == ["x"]
    torch.testing.assert_close(decoded["x"], logits_of(model, z).sigmoid())
    drawn = decode(model, {"z": z}, num=B, sample=True)["x"]
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(decode(model, {"z": z}, binary(B, X))["x"], decoded["x"])  # data give the shape only


def test_classes_are_decoded_to_the_most_probable_one():
    net = nn.Sequential(nn.Linear(D, 5 * 4), nn.Unflatten(-1, (5, 4)))
    model = LatentVariableModel(StandardNormal(D), Categorical(net, event_dim=1))
    z = torch.randn(B, D)
    x = decode(model, {"z": z}, num=B)["x"]
    assert x.dtype == torch.int64
    assert torch.equal(x, logits_of(model, z).argmax(-1))


def test_reconstructions_are_decoded_codes(vae, cvae):
    x, context = binary(B, X), torch.randn(B, C)
    for (model, guide), args in ((vae, (x,)), (cvae, (x, context))):
        rebuilt = reconstruct(model, guide, *args)["x"]
        torch.testing.assert_close(rebuilt, logits_of(model, encode(guide, *args)["z"], *args[1:]).sigmoid())
        assert not torch.equal(reconstruct(model, guide, *args, sample=True)["x"], rebuilt)


def test_a_strangers_data_are_reconstructed():
    x, y = chain_data()
    rebuilt = reconstruct(chain_model, chain_guide, x, y)
    assert sorted(rebuilt) == ["x", "y"]
    torch.testing.assert_close(rebuilt["x"], 10 * encode(chain_guide, x, y)["b"])
    assert torch.equal(rebuilt["y"] == 0, x.sum(-1) > 0)


def test_what_no_site_has_or_has_no_mean_is_refused(vae):
    model, _ = vae
    with refuses(ValueError, "got ['w']", "the model has ['z', 'x']"):
        decode(model, {"w": torch.zeros(B, D)}, num=B)

    def flowing(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            base = dist.Normal(x, torch.ones_like(x))
            pyro.sample("z", dist.TransformedDistribution(base, [dist.transforms.TanhTransform()]))

    with refuses(ValueError, "'z'", "TransformedDistribution", "sample=True"):
        encode(flowing, torch.zeros(3))
    assert encode(flowing, torch.zeros(3), sample=True)["z"].shape == (3,)


# simulate


def test_simulation_gives_every_site(vae, cvae):
    draws = simulate(vae[0], num=5)
    assert {name: tuple(value.shape) for name, value in draws.items()} == {"z": (5, D), "x": (5, X)}
    assert set(draws["x"].unique().tolist()) <= {0.0, 1.0}
    assert simulate(cvae[0], None, torch.randn(4, C))["x"].shape == (4, X)
    assert sorted(simulate(chain_model, *chain_data())) == ["a", "b", "x", "y"]


def test_simulation_can_end_with_a_mean(vae):
    model, _ = vae
    drawn = simulate(model, num=5, means=True)
    torch.testing.assert_close(drawn["x"], logits_of(model, drawn["z"]).sigmoid())
    assert drawn["z"].std() > 0.3


def test_simulation_does_not_look_at_the_data():
    x = torch.full((2000, 2), 100.0)
    drawn = simulate(chain_model, x, torch.zeros(2000).long())
    assert drawn["x"].mean().abs() < 5 * math.sqrt(150 / 2000)  # seed 0: the mean of x is 0


# interpolate


@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_a_path_begins_and_ends_at_the_reconstructions(vae, cvae, kind):
    start, end, context = binary(B, X), binary(B, X), torch.randn(B, C)
    for (model, guide), given in ((vae, ()), (cvae, (context,))):
        path = interpolate(model, guide, start, end, 5, kind, *given)["x"]
        assert path.shape == (B, 5, X)
        torch.testing.assert_close(path[:, 0], reconstruct(model, guide, start, *given)["x"])
        torch.testing.assert_close(path[:, -1], reconstruct(model, guide, end, *given)["x"])


def test_a_straight_path_is_straight(vae):
    model, guide = vae
    start, end = binary(B, X), binary(B, X)
    path = interpolate(model, guide, start, end, num_steps=3)["x"]
    middle = (encode(guide, start)["z"] + encode(guide, end)["z"]) / 2
    torch.testing.assert_close(path[:, 1], decode(model, {"z": middle}, num=B)["x"])


def test_a_strangers_programs_of_scalar_latents_are_walked_through():
    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    start, end = torch.tensor([0.0, -1.0]), torch.tensor([4.0, 1.0])
    for kind in ("linear", "spherical"):
        path = interpolate(model, guide, start, end, 3, kind)["x"]
        torch.testing.assert_close(path, 2 * torch.tensor([[0.0, 2.0, 4.0], [-1.0, 0.0, 1.0]]))


def test_integer_data_are_walked_between():
    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Poisson(z.exp()), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x.float().log(), 1.0))

    path = interpolate(model, guide, torch.tensor([1]), torch.tensor([100]), 3)["x"]
    torch.testing.assert_close(path, torch.tensor([[1.0, 10.0, 100.0]]))


def test_a_turn_keeps_the_norm_and_the_speed():
    z0, z1 = (nn.functional.normalize(torch.randn(50, 4, dtype=torch.float64), dim=-1) * 3 for _ in range(2))
    path = torch.stack([_slerp(z0, z1, t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)])
    torch.testing.assert_close(path.norm(dim=-1), torch.full((5, 50), 3.0).double())
    speeds = (path[1:] - path[:-1]).norm(dim=-1)
    torch.testing.assert_close(speeds, speeds[:1].expand_as(speeds))
    torch.testing.assert_close(path[0], z0)
    torch.testing.assert_close(path[-1], z1)


def test_a_turn_takes_all_dimensions_of_an_event_together():
    z0, z1 = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    turned = _slerp(z0, z1, 0.3)
    torch.testing.assert_close(turned.flatten(1), _slerp(z0.flatten(1), z1.flatten(1), 0.3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_turn_is_accurate_at_small_and_at_large_angles(dtype):
    for angle in (1e-3, 0.01, math.pi - 0.01):
        z0 = torch.tensor([[1.0, 0.0]], dtype=dtype)
        z1 = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=dtype)
        expected = torch.tensor([[math.cos(angle / 2), math.sin(angle / 2)]], dtype=dtype)
        torch.testing.assert_close(_slerp(z0, z1, 0.5), expected, atol=1e-4, rtol=0)


def test_where_there_is_no_plane_to_turn_in_the_way_is_straight():
    z = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(_slerp(z, 2 * z, 0.5), 1.5 * z)
    torch.testing.assert_close(_slerp(z, z, 0.5), z)
    torch.testing.assert_close(_slerp(z, -z, 0.5), 0 * z)
    torch.testing.assert_close(_slerp(0 * z, 0 * z, 0.5), 0 * z)
    assert _slerp(0 * z, z, 0.5).isfinite().all()


def test_paths_that_cannot_be_walked_are_refused(vae):
    model, guide = vae
    x = binary(B, X)
    with refuses(ValueError, "one shape", f"({B}, {X}) and (2, {X})"):
        interpolate(model, guide, x, x[:2])
    with refuses(ValueError, "'linear' or 'spherical'; got 'cubic'"):
        interpolate(model, guide, x, x, kind="cubic")
    for bad in (1, 0, -3):
        with refuses(ValueError, f"at least 2, the two ends; got {bad}"):
            interpolate(model, guide, x, x, num_steps=bad)

    def discrete(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Categorical(logits=torch.zeros(len(x), 3)))

    with refuses(ValueError, "['k']"):
        interpolate(discrete, discrete, x, x)


# latent_arithmetic


def test_latents_are_subtracted_and_added(vae, cvae):
    a, b, c, context = binary(B, X), binary(B, X), binary(B, X), torch.randn(B, C)
    for (model, guide), given in ((vae, ()), (cvae, (context,))):
        z_a, z_b, z_c = (encode(guide, x, *given)["z"] for x in (a, b, c))
        expected = decode(model, {"z": z_a - z_b + z_c}, c, *given)["x"]
        torch.testing.assert_close(latent_arithmetic(model, guide, a, b, c, *given)["x"], expected)
        torch.testing.assert_close(
            latent_arithmetic(model, guide, a, a, c, *given)["x"], reconstruct(model, guide, c, *given)["x"]
        )


def test_arithmetic_that_cannot_be_done_is_refused(vae):
    model, guide = vae
    x = binary(B, X)
    with refuses(ValueError, "one shape", f"({B}, {X}), (2, {X}) and ({B}, {X})"):
        latent_arithmetic(model, guide, x, x[:2], x)

    def discrete(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Categorical(logits=torch.zeros(len(x), 3)))

    with refuses(ValueError, "['k']"):
        latent_arithmetic(discrete, discrete, x, x, x)


# Modules


def test_modules_are_evaluated_and_put_back_into_their_modes():
    dropout = nn.Dropout(0.5)
    model = LatentVariableModel(StandardNormal(D), Bernoulli(nn.Sequential(nn.Linear(D, X), dropout)))
    guide = AmortizedGuide(z=DiagonalNormal(nn.Sequential(nn.Linear(X, 2 * D), nn.BatchNorm1d(2 * D))))
    x = binary(B, X)
    first = reconstruct(model, guide, x)["x"]
    torch.testing.assert_close(reconstruct(model, guide, x)["x"], first, atol=0, rtol=0)
    simulate(model, num=3)
    interpolate(model, guide, x, x)
    with pytest.raises(ValueError, match="sites of the model"):
        decode(model, {"w": x}, num=B)
    assert all(module.training for program in (model, guide) for module in program.modules())
    assert guide.sites.z.net[1].num_batches_tracked == 0
