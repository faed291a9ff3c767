"""Convolutional networks for images of any size."""

__all__ = ["ConvDecoder", "ConvEncoder", "check_image_shape", "halved_sizes"]

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from pyro_dgm.nn.batched import Batched
from pyro_dgm.nn.inputs import check_dtype, check_features, check_size, concatenate
from pyro_dgm.nn.mlp import Activation


@final
class ConvEncoder(nn.Module):
    """Images to vectors: strided convolutions, each halving height and width, then fully connected layers.

    Arguments:
        image_shape: (channels, height, width) of one image; any height and width.
        out_features: length of the output.
        channels: channels after each convolution.
        hidden_features: width of the layer between the convolutions and the output.
        context_features: length of the vectors that may follow the image in the call, joined to its features.
        activation: makes the module between two layers.

    Raises:
        ValueError: at the call, when the image has another shape.
        TypeError: at the call, when the dtype differs from the parameters'.

    Example:
        >>> import torch
        >>> ConvEncoder((1, 28, 28), 10)(torch.zeros(3, 5, 1, 28, 28)).shape
        torch.Size([3, 5, 10])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int,
        channels: Sequence[int] = (32, 64),
        hidden_features: int = 200,
        context_features: int = 0,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        self.image_shape = check_image_shape(image_shape)
        self.out_features = check_size("out_features", out_features)
        channels = [check_size("channels", width) for width in channels]
        sizes = halved_sizes(self.image_shape, len(channels))
        layers: list[nn.Module] = []
        for before, after in zip((self.image_shape[0], *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1), activation()]
        width = (channels[-1] if channels else self.image_shape[0]) * sizes[-1][0] * sizes[-1][1]
        self.joint_features = width + context_features
        self.features = Batched(nn.Sequential(*layers, nn.Flatten()), event_dim=3)
        self.head = nn.Sequential(
            nn.Linear(self.joint_features, check_size("hidden_features", hidden_features)),
            activation(),
            nn.Linear(hidden_features, out_features),
        )

    def forward(self, image: Tensor, *context: Tensor) -> Tensor:
        """Maps (*batch, C, H, W), and context vectors if any, to (*batch, out_features)."""
        if tuple(image.shape[-3:]) != self.image_shape:
            raise ValueError(
                f"this ConvEncoder takes images of shape {self.image_shape}; got shape {tuple(image.shape)}. "
                "Reshape with x.reshape(*batch, channels, height, width)."
            )
        check_dtype(image, self, "this ConvEncoder")
        h = concatenate((self.features(image), *context))
        check_features(h, self.joint_features, "the fully connected part of this ConvEncoder, context included,")
        return self.head(h)


@final
class ConvDecoder(nn.Module):
    """Vectors to images: fully connected layers, then transposed convolutions, each doubling height and width.

    The mirror of ``ConvEncoder``; odd heights and widths come out exactly.

    Arguments:
        in_features: length of the input, context included.
        image_shape: (channels, height, width) of the output. The channels are whatever parameters the likelihood
            needs per pixel: 1 for Bernoulli pixels, 2 for a discretized logistic on grey images.
        channels: channels before each transposed convolution.
        hidden_features: width of the layer between the input and the convolutions.
        activation: makes the module between two layers.

    Raises:
        ValueError: at the call, when the last dimension is not ``in_features``.
        TypeError: at the call, when the dtype differs from the parameters'.

    Example:
        >>> import torch
        >>> ConvDecoder(10, (1, 27, 30))(torch.zeros(3, 5, 10)).shape
        torch.Size([3, 5, 1, 27, 30])
    """

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        hidden_features: int = 200,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        self.in_features = check_size("in_features", in_features)
        self.image_shape = check_image_shape(image_shape)
        channels = [check_size("channels", width) for width in channels]
        sizes = halved_sizes(self.image_shape, len(channels))[::-1]
        first = (channels[0] if channels else self.image_shape[0], *sizes[0])
        layers: list[nn.Module] = [nn.Unflatten(-1, first)]
        for before, after, small, large in zip(
            channels, (*channels[1:], self.image_shape[0]), sizes, sizes[1:], strict=False
        ):
            odd = (
                large[0] - 2 * small[0] + 1,
                large[1] - 2 * small[1] + 1,
            )  # 1 where the size doubles exactly
            layers += [
                activation(),
                nn.ConvTranspose2d(before, after, kernel_size=3, stride=2, padding=1, output_padding=odd),
            ]
        self.enter = nn.Sequential(
            nn.Linear(in_features, check_size("hidden_features", hidden_features)),
            activation(),
            nn.Linear(hidden_features, first[0] * first[1] * first[2]),
        )
        self.layers = Batched(nn.Sequential(*layers), event_dim=1)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Maps (*batch, in_features) to (*batch, C, H, W)."""
        x = concatenate(inputs)
        check_features(x, self.in_features, "this ConvDecoder")
        check_dtype(x, self, "this ConvDecoder")
        return self.layers(self.enter(x))


def check_image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns the shape of an image if it is (channels, height, width)."""
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"image_shape must be (channels, height, width); got {tuple(shape)}. A grey image has one channel."
        )
    return int(shape[0]), int(shape[1]), int(shape[2])


def halved_sizes(image_shape: tuple[int, int, int], num_halvings: int) -> list[tuple[int, int]]:
    """Height and width at the start and after each halving, rounded up."""
    sizes = [image_shape[1:]]
    for _ in range(num_halvings):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes
