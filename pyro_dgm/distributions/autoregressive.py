"""The autoregressive Bernoulli: binary vectors whose bits depend on the bits before them."""

__all__ = [
    "AutoregressiveBernoulli",
    "AutoregressiveBernoulliDistribution",
    "binary_layer",
    "check_bits",
    "check_data_mean",
    "check_layers",
    "check_vectors",
]

from collections.abc import Sequence
from typing import Any, final

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn.functional import softplus

from pyro_dgm.distributions.conditional import ConditionalDistribution, check_net
from pyro_dgm.distributions.discrete import Bernoulli
from pyro_dgm.nn.inputs import check_features, check_size


class AutoregressiveBernoulliDistribution(TorchDistribution):
    r"""A binary vector whose i-th logit is linear in the bits before it.

    .. math:: P(x_i = 1 | x_{<i}) = \sigma\big(b_i + \textstyle\sum_{j < i} W_{ij} x_j\big).

    Scoring takes one matrix product; drawing goes through the bits in turn, D steps. It has no attribute ``logits``,
    since there is no logit of a bit before the earlier ones are known.

    References:
        Gregor, Danihelka, Mnih, Blundell and Wierstra (2014), Deep AutoRegressive Networks, arXiv:1310.8499.

    Arguments:
        bias: the logits when all earlier bits are 0, (*batch, D).
        weight: the couplings W, (D, D), of which only the entries below the diagonal are read.
    """

    arg_constraints = {"bias": constraints.real_vector, "weight": constraints.real_vector}  # noqa: RUF012 (torch's)
    support = constraints.independent(constraints.boolean, 1)
    has_rsample = False

    def __init__(self, bias: Tensor, weight: Tensor, validate_args: bool | None = None) -> None:
        features = bias.shape[-1] if bias.dim() else 0
        if not features or tuple(weight.shape) != (features, features):
            raise ValueError(
                "bias must have shape (*batch, D) and weight (D, D), of at least one bit; "
                f"got {tuple(bias.shape)} and {tuple(weight.shape)}. Make both as long as the vector."
            )
        self.bias = bias
        self.weight = weight.tril(-1)
        super().__init__(bias.shape[:-1], bias.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "AutoregressiveBernoulliDistribution":
        """Returns the same distribution with its batch shape expanded."""
        bias = self.bias.expand(torch.Size(batch_shape) + self.event_shape)
        return AutoregressiveBernoulliDistribution(bias, self.weight, self.__dict__.get("_validate_args"))

    def logits_given(self, value: Tensor) -> Tensor:
        """The logit of every bit given the bits of ``value`` before it, (*shape, D)."""
        return self.bias + value @ self.weight.mT

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-mass of each vector, in nats; (*shape, D) becomes (*shape)."""
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits_given(value)
        return (value * logits - softplus(logits)).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws vectors bit by bit, (*sample_shape, *batch, D)."""
        with torch.no_grad():
            x = self.bias.new_zeros(self._extended_shape(torch.Size(sample_shape)))
            for i in range(x.shape[-1]):
                logit = self.bias[..., i] + x[..., :i] @ self.weight[i, :i]
                x[..., i] = torch.bernoulli(logit.sigmoid())
            return x


@final
class AutoregressiveBernoulli(ConditionalDistribution):
    r"""Binary vectors, every bit of which also depends on the bits before it: a layer of a DARN.

    The i-th logit is a learned linear function of the earlier bits, added to what the network makes of the context,
    or to a learned bias if there is no network. The linear function starts at 0, as a factorised Bernoulli.

    References:
        Gregor, Danihelka, Mnih, Blundell and Wierstra (2014), Deep AutoRegressive Networks, arXiv:1310.8499.

    Arguments:
        net: maps the context to (*batch, features); None for a prior.
        features: length of the vector.

    Raises:
        TypeError: net is neither a module nor None.
        ValueError: features is not a positive integer, or, at the call, the network's output has another length.

    Example:
        >>> AutoregressiveBernoulli(None, 5)().sample((3,)).shape
        torch.Size([3, 5])
    """

    def __init__(self, net: nn.Module | None, features: int) -> None:
        super().__init__()
        self.features = check_size("features", features)
        self.net = None if net is None else check_net(net, "AutoregressiveBernoulli")
        if net is None:
            self.bias = nn.Parameter(torch.zeros(features))
        self.weight = nn.Parameter(torch.zeros(features, features))

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution of batch shape (*batch,), () without a network, and event shape (features,)."""
        bias = self.bias if self.net is None else self.net(*context)
        check_features(bias, self.features, "AutoregressiveBernoulli, as output of its network,")
        return AutoregressiveBernoulliDistribution(bias, self.weight)

    def check_data(self, x: Tensor) -> None:
        """Raises a ``ValueError`` unless every value is 0 or 1."""
        super().check_data(x)
        check_bits(x, "an AutoregressiveBernoulli likelihood")


def binary_layer(net: nn.Module, features: int, autoregressive: bool) -> ConditionalDistribution:
    """Bits given the layer beside them: independent of each other, or each given those before it."""
    return AutoregressiveBernoulli(net, features) if autoregressive else Bernoulli(net)


def check_bits(x: Tensor, name: str) -> None:
    """Raises a ``ValueError`` unless every value is 0 or 1."""
    if bool(((x == 0) | (x == 1)).all()):
        return
    raise ValueError(
        f"{name} takes values 0 and 1; got values from {float(x.min()):g} to {float(x.max()):g}. "
        "Binarise grey levels with datasets.binarize(x), pixels of 0-255 after x / 255."
    )


def check_vectors(x: Tensor, features: int) -> None:
    """Raises a ``ValueError`` unless x has shape (B, features)."""
    if x.dim() == 2 and x.shape[1] == features:
        return
    cure = "Reshape the data, or build model and guide for vectors of that length."
    if tuple(x.shape) == (features,):
        cure = "It looks like one datum: add the batch dimension with x.unsqueeze(0)."
    elif x.dim() > 2 and x.shape[1:].numel() == features:
        cure = "It looks like images: flatten them with x.flatten(1)."
    raise ValueError(f"x must have shape (B, {features}); got {tuple(x.shape)}. {cure}")


def check_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """Returns the widths of the hidden layers if there is one and all are positive integers."""
    is_sequence = isinstance(layers, Sequence) and not isinstance(layers, str)
    if is_sequence and len(layers) and all(type(width) is int and width > 0 for width in layers):
        return tuple(layers)
    raise ValueError(
        "layers must list the width of at least one hidden layer, each a positive integer, from the data upwards; "
        f"got {layers!r}. One layer of 200 bits is (200,)."
    )


def check_data_mean(data_mean: Tensor | None, features: int) -> Tensor | None:
    """Returns the mean of binary data if it is one: (features,), in [0, 1]."""
    if data_mean is None:
        return None
    if not isinstance(data_mean, Tensor) or not data_mean.is_floating_point():
        got = f"a tensor of {data_mean.dtype}" if isinstance(data_mean, Tensor) else type(data_mean).__name__
        raise TypeError(f"data_mean must be a floating-point tensor; got {got}. Pass x.mean(0) of the training data.")
    if tuple(data_mean.shape) != (features,):
        raise ValueError(
            f"data_mean must have shape ({features},), one value per bit; got {tuple(data_mean.shape)}. "
            "Pass x.mean(0) of the training data."
        )
    if not bool(((data_mean >= 0) & (data_mean <= 1)).all()):
        raise ValueError(
            "data_mean must lie in [0, 1], as the mean of bits does; got values from "
            f"{float(data_mean.min()):g} to {float(data_mean.max()):g}. Pass x.mean(0) of the binarised training data."
        )
    return data_mean
