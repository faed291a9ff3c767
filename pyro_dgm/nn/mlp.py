"""Fully connected networks."""

__all__ = ["MLP", "ResidualMLP"]

from collections.abc import Callable, Sequence
from typing import final

from torch import Tensor, nn

from pyro_dgm.nn.inputs import check_dtype, check_features, check_size, concatenate

Activation = Callable[[], nn.Module]


@final
class MLP(nn.Module):
    """A multilayer perceptron over the last dimension.

    Called with several tensors it joins them along the last dimension first, their leading dimensions broadcast:
    ``net(z, context)`` conditions a decoder.

    Arguments:
        in_features: length of the input, all inputs together.
        out_features: length of the output.
        hidden_features: width of each hidden layer; empty for a linear map.
        activation: makes the module between two layers.

    Raises:
        ValueError: at the call, when the last dimension is not ``in_features``.
        TypeError: at the call, when the dtype differs from the parameters'.

    Example:
        >>> import torch
        >>> MLP(784, 10, hidden_features=(200,))(torch.zeros(3, 5, 784)).shape
        torch.Size([3, 5, 10])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: Sequence[int] = (200, 200),
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        layers: list[nn.Module] = []
        width = in_features
        for hidden in hidden_features:
            layers += [nn.Linear(width, check_size("hidden_features", hidden)), activation()]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, out_features))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Maps (*batch, in_features) to (*batch, out_features)."""
        x = concatenate(inputs)
        check_features(x, self.in_features, "this MLP")
        check_dtype(x, self, "this MLP")
        return self.layers(x)


@final
class ResidualMLP(nn.Module):
    """A multilayer perceptron with residual blocks: ``h + W2 f(W1 f(norm(h)))``.

    Deep versions train where a plain one stalls; with several tensors it joins them as ``MLP`` does.

    References:
        He, Zhang, Ren and Sun (2016), Identity Mappings in Deep Residual Networks, arXiv:1603.05027.

    Arguments:
        in_features: length of the input, all inputs together.
        out_features: length of the output.
        hidden_features: width of the residual stream.
        num_blocks: number of residual blocks, two layers each.
        activation: makes the module between two layers.

    Raises:
        ValueError: at the call, when the last dimension is not ``in_features``.
        TypeError: at the call, when the dtype differs from the parameters'.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int = 200,
        num_blocks: int = 2,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        width = check_size("hidden_features", hidden_features)
        self.enter = nn.Linear(in_features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                activation(),
                nn.Linear(width, width),
                activation(),
                nn.Linear(width, width),
            )
            for _ in range(check_size("num_blocks", num_blocks))
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), activation(), nn.Linear(width, out_features))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Maps (*batch, in_features) to (*batch, out_features)."""
        x = concatenate(inputs)
        check_features(x, self.in_features, "this ResidualMLP")
        check_dtype(x, self, "this ResidualMLP")
        h = self.enter(x)
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h)
