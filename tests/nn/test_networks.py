"""Networks: any leading dimensions, copies, and errors that name the cure."""

import pytest
import torch
from torch import nn

from contracts import check_network, check_network_errors, refuses
from pyro_dgm.nn import MLP, Batched, ConvDecoder, ConvEncoder, DCCritic, DCGenerator, ResidualMLP


def small(*layers: int) -> dict[str, object]:
    return {"channels": layers, "hidden_features": 16}


NETWORKS = [
    pytest.param(lambda: MLP(6, 4), [(6,)], (4,), id="mlp"),
    pytest.param(lambda: MLP(6, 4, hidden_features=()), [(6,)], (4,), id="linear"),
    pytest.param(
        lambda: MLP(6, 4, hidden_features=(8,), activation=nn.Tanh), [(2,), (3,), (1,)], (4,), id="mlp-joined"
    ),
    pytest.param(lambda: ResidualMLP(6, 4, hidden_features=16), [(6,)], (4,), id="residual"),
    pytest.param(lambda: ResidualMLP(6, 4, 16, num_blocks=3), [(5,), (1,)], (4,), id="residual-joined"),
    pytest.param(lambda: ConvEncoder((1, 28, 28), 5, **small(4, 8)), [(1, 28, 28)], (5,), id="encoder-28"),
    pytest.param(lambda: ConvEncoder((3, 9, 14), 5, **small(4, 8)), [(3, 9, 14)], (5,), id="encoder-odd"),
    pytest.param(lambda: ConvEncoder((1, 1, 3), 5, **small(4, 4)), [(1, 1, 3)], (5,), id="encoder-tiny"),
    pytest.param(lambda: ConvEncoder((2, 5, 5), 5, **small()), [(2, 5, 5)], (5,), id="encoder-without-convolutions"),
    pytest.param(
        lambda: ConvEncoder((1, 8, 8), 5, context_features=3, **small(4)),
        [(1, 8, 8), (3,)],
        (5,),
        id="encoder-with-context",
    ),
    pytest.param(lambda: ConvDecoder(5, (1, 28, 28), **small(8, 4)), [(5,)], (1, 28, 28), id="decoder-28"),
    pytest.param(lambda: ConvDecoder(5, (3, 9, 14), **small(8, 4)), [(2,), (3,)], (3, 9, 14), id="decoder-odd"),
    pytest.param(lambda: ConvDecoder(5, (1, 1, 3), **small(4, 4)), [(5,)], (1, 1, 3), id="decoder-tiny"),
    pytest.param(lambda: ConvDecoder(5, (2, 5, 5), **small()), [(5,)], (2, 5, 5), id="decoder-without-convolutions"),
    pytest.param(lambda: DCGenerator(5, (1, 28, 28), (8, 4)), [(5,)], (1, 28, 28), id="generator-28"),
    pytest.param(lambda: DCGenerator(5, (3, 9, 14), (8, 4)), [(2,), (3,)], (3, 9, 14), id="generator-odd"),
    pytest.param(lambda: DCGenerator(5, (1, 32, 32), (8, 4, 4)), [(5,)], (1, 32, 32), id="generator-32"),
    pytest.param(lambda: DCCritic((1, 28, 28), 1, (4, 8)), [(1, 28, 28)], (1,), id="critic-28"),
    pytest.param(
        lambda: DCCritic((2, 9, 14), 5, (4, 8), context_features=3, normalize=False),
        [(2, 9, 14), (3,)],
        (5,),
        id="critic-with-context",
    ),
    pytest.param(
        lambda: Batched(nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()), event_dim=3),
        [(1, 8, 8)],
        (4, 6, 6),
        id="batched-batch-norm",
    ),
]


@pytest.mark.parametrize(("build", "input_shapes", "out_shape"), NETWORKS)
def test_network_contract(build, input_shapes, out_shape):
    check_network(build(), *input_shapes, out_shape=out_shape)


@pytest.mark.parametrize(
    ("net", "input_shape"),
    [
        (MLP(6, 4), (6,)),
        (ResidualMLP(6, 4), (6,)),
        (ConvEncoder((1, 8, 8), 4), (1, 8, 8)),
        (ConvDecoder(6, (1, 8, 8)), (6,)),
        (DCCritic((1, 8, 8)), (1, 8, 8)),
        (DCGenerator(6, (1, 8, 8)), (6,)),
    ],
    ids=["mlp", "residual", "encoder", "decoder", "critic", "generator"],
)
def test_network_refuses_another_shape_or_dtype(net, input_shape):
    check_network_errors(net, input_shape)


@pytest.mark.parametrize("size", range(1, 34))
@pytest.mark.parametrize("num_halvings", [1, 3])
def test_convolutions_fit_images_of_any_size(size, num_halvings):
    shape = (1, size, 34 - size)
    channels = (2,) * num_halvings
    x = ConvDecoder(3, shape, channels, hidden_features=4)(torch.randn(2, 3))
    assert x.shape == (2, *shape)
    assert ConvEncoder(shape, 3, channels, hidden_features=4)(x).shape == (2, 3)


def test_inputs_are_joined_in_order_and_broadcast():
    net = MLP(5, 2)
    x, context = torch.randn(7, 3, 4), torch.randn(3, 1)
    joined = torch.cat([x, context.expand(7, 3, 1)], dim=-1)
    torch.testing.assert_close(net(x, context), net(joined))
    with refuses(ValueError, "(7, 3, 4)", "(2, 1)", "one row per datum"):
        net(x, torch.randn(2, 1))
    with refuses(ValueError, "at least one input"):
        net()


def test_batched_keeps_what_a_batch_norm_sees_together():
    norm = nn.BatchNorm1d(3)
    x = torch.randn(4, 5, 3)
    y = Batched(norm, event_dim=1)(x)
    torch.testing.assert_close(y.mean(dim=(0, 1)), torch.zeros(3), atol=1e-6, rtol=0.0)


def test_an_image_into_an_mlp_is_told_to_flatten():
    with refuses(ValueError, "784 features", "(5, 1, 28, 28)", "x.flatten(-3)"):
        MLP(784, 10)(torch.zeros(5, 1, 28, 28))


def test_a_scalar_is_no_vector():
    with refuses(ValueError, "6 features", "()"):
        MLP(6, 4)(torch.tensor(1.0))
    with refuses(ValueError, "3 dimensions", "(8, 8)"):
        Batched(nn.Conv2d(1, 4, 3), event_dim=3)(torch.zeros(8, 8))


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "3"])
def test_sizes_are_positive_integers(size):
    with refuses(ValueError, "in_features", repr(size)):
        MLP(size, 4)
    with refuses(ValueError, "out_features", repr(size)):
        MLP(4, size)
    with refuses(ValueError, "hidden_features", repr(size)):
        MLP(4, 4, hidden_features=(size,))
    with refuses(ValueError, "hidden_features", repr(size)):
        ResidualMLP(4, 4, hidden_features=size)
    with refuses(ValueError, "num_blocks", repr(size)):
        ResidualMLP(4, 4, num_blocks=size)
    with refuses(ValueError, "out_features", repr(size)):
        ConvEncoder((1, 8, 8), size)
    with refuses(ValueError, "in_features", repr(size)):
        ConvDecoder(size, (1, 8, 8))
    with refuses(ValueError, "channels", repr(size)):
        ConvDecoder(4, (1, 8, 8), channels=(4, size))
    with refuses(ValueError, "event_dim", repr(size)):
        Batched(nn.Identity(), event_dim=size)


@pytest.mark.parametrize("image_shape", [(8, 8), (1, 0, 8), (1, 1, 8, 8)])
def test_image_shapes_are_channels_height_width(image_shape):
    with refuses(ValueError, "(channels, height, width)", str(image_shape)):
        ConvEncoder(image_shape, 4)
    with refuses(ValueError, "(channels, height, width)", str(image_shape)):
        ConvDecoder(4, image_shape)


def test_autocast_may_change_the_dtype():
    net = MLP(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.randn(3, 6).bfloat16()).dtype is torch.bfloat16


def test_a_deep_convolutional_gan_keeps_to_grey_levels_and_begins_as_the_paper_has_it():
    torch.manual_seed(0)
    generator, critic = DCGenerator(20, (1, 16, 16), (64, 32)), DCCritic((1, 16, 16), channels=(32, 64))
    images = generator(10 * torch.randn(50, 20)).detach()
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    for net in (generator, critic):
        for layer in net.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and layer.weight.numel() > 2000:
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
    norms = [sum(isinstance(layer, nn.BatchNorm2d) for layer in net.modules()) for net in (generator, critic)]
    assert norms == [2, 1]  # all but the last of the one, all but the first of the other


def test_networks_of_a_deep_convolutional_gan_refuse_what_they_cannot_be():
    with refuses(ValueError, "channels=()"):
        DCGenerator(5, (1, 8, 8), ())
    with refuses(ValueError, "(1, 3, 8)", "2 convolutions"):
        DCCritic((1, 3, 8), channels=(4, 8))
    with refuses(ValueError, "2 features", "(4, 3)"):
        DCCritic((1, 8, 8), channels=(4,), context_features=2)(torch.zeros(4, 1, 8, 8), torch.zeros(4, 3))
