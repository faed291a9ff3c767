"""Critics: one score a row, packed or not, and what is done to their weights."""

import copy

import pytest
import torch
from torch import nn

from contracts import check_critic, refuses
from pyro_dgm.adversarial.critics import Critic, EnergyCritic, StandardizedCritic, spectrally_normalized
from pyro_dgm.nn import MLP, ConvDecoder, ConvEncoder


class AutoEncoder(nn.Module):
    """An autoencoder of vectors that may be given a label."""

    def __init__(self, features: int, context: int = 0) -> None:
        super().__init__()
        self.net = MLP(features + context, features, (4,), nn.Tanh)

    def forward(self, x, *context):
        return self.net(x, *context)


def small_encoder(channels: int, out: int = 1, **kwargs) -> ConvEncoder:
    return ConvEncoder((channels, 8, 8), out, channels=(4,), hidden_features=8, activation=nn.Tanh, **kwargs)


CRITICS = [
    pytest.param(lambda: Critic(MLP(2, 1, (8,), nn.Tanh)), [(2,)], id="vector"),
    pytest.param(lambda: Critic(MLP(1, 1, (8,), nn.Tanh)), [()], id="scalar"),
    pytest.param(lambda: Critic(MLP(6, 1, (8,), nn.Tanh)), [(2,), (3,), ()], id="joined"),
    pytest.param(lambda: Critic(small_encoder(1)), [(1, 8, 8)], id="image"),
    pytest.param(lambda: Critic(small_encoder(1, context_features=3)), [(1, 8, 8), (3,)], id="image-and-vector"),
    pytest.param(lambda: Critic(MLP(12, 1, (8,), nn.Tanh), pac=4), [(2,), ()], id="packed-vectors"),
    pytest.param(lambda: Critic(small_encoder(6), pac=2), [(3, 8, 8)], id="packed-images"),
    pytest.param(lambda: Critic(nn.Linear(4, 1), features=MLP(2, 4, (8,), nn.Tanh)), [(2,)], id="features"),
    pytest.param(lambda: Critic(nn.Linear(4, 1), small_encoder(2, 4), pac=2), [(1, 8, 8)], id="packed-features"),
    pytest.param(lambda: Critic(MLP(2, 1, (8,), nn.Tanh), clip=0.01), [(2,)], id="clipped"),
    pytest.param(lambda: Critic(nn.Sequential(MLP(2, 1, (8,), nn.Tanh), nn.Flatten(0))), [(2,)], id="flat"),
    pytest.param(lambda: EnergyCritic(AutoEncoder(3)), [(3,)], id="energy"),
    pytest.param(lambda: EnergyCritic(AutoEncoder(1), order=1), [()], id="absolute-energy"),
    pytest.param(lambda: EnergyCritic(AutoEncoder(3, 2)), [(3,), (2,)], id="conditional-energy"),
    pytest.param(
        lambda: EnergyCritic(nn.Sequential(small_encoder(1, 4), ConvDecoder(4, (1, 8, 8), (4,), 8))),
        [(1, 8, 8)],
        id="energy-of-images",
    ),
    pytest.param(lambda: StandardizedCritic(MLP(5, 1, (8,), nn.Tanh)), [(2,), (3,), (3,), (3,)], id="standardised"),
    pytest.param(
        lambda: StandardizedCritic(Critic(nn.Linear(4, 1), MLP(6, 4, (8,), nn.Tanh), pac=2, clip=0.1)),
        [(3,), (3,), (3,)],
        id="standardised-critic",
    ),
    pytest.param(lambda: Critic(spectrally_normalized(MLP(2, 1, (8,), nn.Tanh))), [(2,)], id="spectral"),
]


@pytest.mark.parametrize(("build", "shapes"), CRITICS)
def test_critic_contract(build, shapes):
    check_critic(build, *shapes)


def test_packing_joins_consecutive_rows():
    seen = []

    class Recording(nn.Module):
        def forward(self, *values):
            seen.append(values)
            return values[0].new_zeros(len(values[0]))

    x, y, z, s = torch.randn(7, 2), torch.randn(7), torch.randn(7, 3, 4, 5), torch.randn(7, 6, 2)
    assert Critic(Recording(), pac=3)(x, y, z, s).shape == (2,)
    (vectors, scalars, images, sequences), *_ = seen
    for pack, rows in enumerate(([0, 1, 2], [3, 4, 5])):
        assert torch.equal(vectors[pack], torch.cat([x[i] for i in rows]))
        assert torch.equal(scalars[pack], y[rows])
        assert torch.equal(images[pack], torch.cat([z[i] for i in rows]))
        assert torch.equal(sequences[pack], torch.cat([s[i] for i in rows], dim=-1))


def test_a_critic_with_features_scores_by_them():
    critic = Critic(nn.Linear(4, 1), features=MLP(5, 4, (8,), nn.Tanh))
    x, z = torch.randn(6, 2), torch.randn(6, 3)
    assert critic.features(x, z).shape == (6, 4)
    torch.testing.assert_close(critic(x, z), critic.net(critic.features(x, z)).squeeze(-1))


def test_a_step_clips_every_parameter_in_place():
    critic = Critic(nn.Linear(4, 1), features=MLP(2, 4), clip=0.01)
    parameters = list(critic.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.uniform_(-1, 1)
    before = [parameter.clone() for parameter in parameters]
    critic.after_step()
    for old, new, parameter in zip(before, critic.parameters(), parameters, strict=True):
        assert new is parameter
        assert torch.equal(new, old.clamp(-0.01, 0.01))
        assert new.abs().max() <= 0.01
    free = Critic(nn.Linear(2, 1))
    before = free.net.weight.clone()
    free.after_step()
    assert torch.equal(free.net.weight, before)


def test_energies_are_mean_reconstruction_errors():
    x = torch.randn(5, 2, 3, 3)
    squares, absolutes = (EnergyCritic(nn.ReLU(), order=order)(x) for order in (2, 1))
    for i in range(5):
        negative = [min(value, 0.0) for value in x[i].flatten().tolist()]
        assert squares[i].item() == pytest.approx(-sum(value**2 for value in negative) / 18)
        assert absolutes[i].item() == pytest.approx(sum(negative) / 18)


def test_a_standardised_critic_sees_latents_in_units_of_the_moments():
    net = MLP(5, 1)
    x, z, loc, scale = torch.randn(4, 2), torch.randn(4, 3), torch.randn(4, 3), torch.rand(4, 3) + 0.5
    critic = StandardizedCritic(net)
    torch.testing.assert_close(critic(x, z, loc, scale), net(x, (z - loc) / scale).squeeze(-1))
    torch.testing.assert_close(critic(x, loc + 2 * scale, loc, scale), net(x, torch.full((4, 3), 2.0)).squeeze(-1))


def test_spectral_normalisation_brings_every_layer_to_norm_one():
    """After 200 power iterations; a chain of such layers and slopes of at most 1 stretches no distance."""
    net = spectrally_normalized(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)))
    critic = Critic(net)
    for _ in range(200):
        critic(torch.randn(2, 3))
    critic.eval()
    for layer in (net[0], net[2]):
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1.0, abs=1e-4)
    x, y = torch.randn(500, 3), torch.randn(500, 3)
    assert ((critic(x) - critic(y)).abs() <= (x - y).norm(dim=1) * 1.0002).all()


def test_spectral_normalisation_finds_every_kind_of_layer_and_survives_a_checkpoint():
    net = spectrally_normalized(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 1, 3), nn.Flatten(), MLP(64, 1))
    )
    assert sum(name.endswith("original") for name, _ in net.named_parameters()) == 2 + 3
    x = torch.randn(3, 1, 8, 8)
    net(x)
    other = copy.deepcopy(net)
    net(x)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    with refuses(ValueError, "once", "Conv2d"):
        spectrally_normalized(net)
    with refuses(ValueError, "ReLU", "none"):
        spectrally_normalized(nn.ReLU())


def test_two_scores_of_a_normalised_critic_can_be_differentiated_together():
    critic = Critic(spectrally_normalized(MLP(2, 1)))
    (critic(torch.randn(4, 2)).mean() - critic(torch.randn(4, 2)).mean()).backward()
    assert all(parameter.grad is not None for parameter in critic.net.layers[0].parameters())


def test_bad_arguments_and_outputs_are_refused():
    with refuses(TypeError, "Critic", "function"):
        Critic(lambda x: x)
    with refuses(TypeError, "features of Critic", "int"):
        Critic(nn.Linear(2, 1), features=3)
    with refuses(ValueError, "pac", "0"):
        Critic(nn.Linear(2, 1), pac=0)
    with refuses(ValueError, "clip", "-1"):
        Critic(nn.Linear(2, 1), clip=-1.0)
    with refuses(ValueError, "order", "3"):
        EnergyCritic(nn.Linear(2, 2), order=3)
    with refuses(TypeError, "EnergyCritic", "str"):
        EnergyCritic("net")
    with refuses(TypeError, "StandardizedCritic", "str"):
        StandardizedCritic("net")
    with refuses(TypeError, "spectrally_normalized", "str"):
        spectrally_normalized("net")
    x = torch.randn(4, 2)
    with refuses(ValueError, "(4, 1)", "(4, 3)"):
        Critic(nn.Linear(2, 3))(x)
    with refuses(ValueError, "one number per row", "(8,)"):
        Critic(nn.Flatten(0))(x)
    with refuses(ValueError, "packs 5 rows", "got 4"):
        Critic(nn.Linear(10, 1), pac=5)(x)
    with refuses(ValueError, "give back", "(4, 3)"):
        EnergyCritic(nn.Linear(2, 3))(x)
    with refuses(ValueError, "loc, scale", "(4, 2)"):
        StandardizedCritic(nn.Linear(2, 1))(x, x)
    with refuses(ValueError, "loc, scale", "(4, 1)"):
        StandardizedCritic(nn.Linear(2, 1))(x, x[:, :1], x)
