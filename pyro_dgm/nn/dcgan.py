"""The two networks of a deep convolutional GAN."""

__all__ = ["DCCritic", "DCGenerator"]

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from pyro_dgm.nn.batched import Batched
from pyro_dgm.nn.convolutional import check_image_shape, halved_sizes
from pyro_dgm.nn.inputs import check_dtype, check_features, check_size, concatenate

SLOPE = 0.2  # of the leaky rectifiers
INITIAL_SD = 0.02


@final
class DCGenerator(nn.Module):
    """Vectors to images in [0, 1]: one linear layer, then transposed convolutions, each doubling height and width.

    All layers but the last are batch-normalised and rectified; the last ends in tanh, whose range [-1, 1] is brought to
    [0, 1]. Weights begin as normal draws of standard deviation 0.02. Odd heights and widths come out exactly. In
    training mode the draws of a batch depend on each other through its normalisation.

    References:
        Radford, Metz and Chintala (2016), Unsupervised Representation Learning with Deep Convolutional Generative
        Adversarial Networks, section 3, arXiv:1511.06434 (with kernels of 4 instead of 5, which double sizes evenly).

    Arguments:
        in_features: length of the input, all vectors together, such as noise and a class.
        image_shape: (channels, height, width) of the output.
        channels: channels before each transposed convolution.

    Raises:
        ValueError: at the call, when the last dimension is not ``in_features``.
        TypeError: at the call, when the dtype differs from the parameters'.

    Example:
        >>> DCGenerator(10, (1, 28, 28))(torch.zeros(3, 5, 10)).shape
        torch.Size([3, 5, 1, 28, 28])
    """

    def __init__(self, in_features: int, image_shape: Sequence[int], channels: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        self.in_features = check_size("in_features", in_features)
        self.image_shape = check_image_shape(image_shape)
        channels = _check_channels(channels)
        sizes = halved_sizes(self.image_shape, len(channels))[::-1]
        first = (channels[0], *sizes[0])
        layers: list[nn.Module] = [
            nn.Linear(in_features, first[0] * first[1] * first[2], bias=False),
            nn.Unflatten(1, first),
        ]
        for before, after, size in zip(channels, (*channels[1:], self.image_shape[0]), sizes[1:], strict=True):
            is_last = size is sizes[-1]
            layers += [nn.BatchNorm2d(before), nn.ReLU()]
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=is_last), _Cropped(size)]
        self.layers = Batched(nn.Sequential(*layers), event_dim=1)
        _initialise(self)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Maps (*batch, in_features) to (*batch, C, H, W)."""
        x = concatenate(inputs)
        check_features(x, self.in_features, "this DCGenerator")
        check_dtype(x, self, "this DCGenerator")
        return (self.layers(x).tanh() + 1) / 2


@final
class DCCritic(nn.Module):
    """Images in [0, 1] to one number, or to features: strided convolutions with leaky rectifiers.

    Pixels are brought to [-1, 1]. With batch normalisation all convolutions but the first have it; each side of a
    contrast is then normalised by itself, and no draw has a gradient of its own, so that penalties of gradients and
    spectral normalisation want ``normalize=False``. Vectors that follow the image in the call (a class, a latent)
    become constant channels beside it.

    References:
        Radford, Metz and Chintala (2016), arXiv:1511.06434; Mirza and Osindero (2014), Conditional Generative
        Adversarial Nets, arXiv:1411.1784.

    Arguments:
        image_shape: (channels, height, width) of one image; ``pac`` images packed have as many times the channels.
        out_features: length of the output.
        channels: channels after each convolution.
        context_features: length of the vectors that may follow the image.
        normalize: whether the convolutions are batch-normalised.

    Raises:
        ValueError: the image is too small to be halved so often; at the call, when it has another shape.
        TypeError: at the call, when the dtype differs from the parameters'.

    Example:
        >>> DCCritic((1, 28, 28), context_features=10)(torch.zeros(5, 1, 28, 28), torch.zeros(5, 10)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int = 1,
        channels: Sequence[int] = (64, 128),
        context_features: int = 0,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.image_shape = check_image_shape(image_shape)
        self.context_features = context_features if context_features == 0 else check_size("context", context_features)
        channels = _check_channels(channels)
        height, width = (size >> len(channels) for size in self.image_shape[1:])
        if min(height, width) < 1:
            raise ValueError(
                f"each convolution halves an image, down to one pixel at the least; got {self.image_shape} and "
                f"{len(channels)} convolutions. Use fewer channels=."
            )
        layers: list[nn.Module] = []
        for before, after in zip((self.image_shape[0] + context_features, *channels), channels, strict=False):
            has_norm = normalize and bool(layers)
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1, bias=not has_norm)]
            layers += [nn.BatchNorm2d(after)] * has_norm + [nn.LeakyReLU(SLOPE)]
        head = nn.Linear(channels[-1] * height * width, check_size("out_features", out_features))
        self.layers = Batched(nn.Sequential(*layers, nn.Flatten(), head), event_dim=3)
        _initialise(self)

    def forward(self, image: Tensor, *context: Tensor) -> Tensor:
        """Maps (*batch, C, H, W), and context vectors if any, to (*batch, out_features)."""
        if tuple(image.shape[-3:]) != self.image_shape:
            raise ValueError(
                f"this DCCritic takes images of shape {self.image_shape}; got shape {tuple(image.shape)}. Reshape with "
                "x.reshape(*batch, channels, height, width)."
            )
        check_dtype(image, self, "this DCCritic")
        image = 2 * image - 1
        if context:
            c = concatenate(context)
            check_features(c, self.context_features, "the context of this DCCritic")
            maps = c[..., None, None].expand(*image.shape[:-3], -1, *image.shape[-2:])
            image = torch.cat([image, maps], dim=-3)
        return self.layers(image)


class _Cropped(nn.Module):
    """The upper left of images that have come out a pixel too large."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Crops (N, C, H, W)."""
        return x[..., : self.size[0], : self.size[1]]


def _check_channels(channels: Sequence[int]) -> list[int]:
    if not channels:
        raise ValueError("a convolutional network needs a convolution; got channels=(). Use MLP for a linear map.")
    return [check_size("channels", width) for width in channels]


def _initialise(net: nn.Module) -> None:
    """Draws weights as the paper has them; offsets begin at zero."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, INITIAL_SD)
        elif isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, INITIAL_SD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
