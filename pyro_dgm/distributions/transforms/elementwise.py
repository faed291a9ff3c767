"""What an autoregressive transform or a coupling does to each element, given parameters for it."""

__all__ = ["Affine", "Elementwise", "Gated", "Spline"]

from typing import Protocol, final

from pyro.distributions.transforms.spline import ConditionedSpline
from torch import Tensor
from torch.distributions import AffineTransform, Transform
from torch.nn.functional import sigmoid, softmax, softplus, tanh

from pyro_dgm.nn.inputs import check_size

MAX_LOG_SCALE = 5.0
_ORDERS = ("linear", "quadratic")


class Elementwise(Protocol):
    """A family of increasing functions of one variable."""

    num_parameters: int

    def __call__(self, parameters: Tensor) -> Transform:
        """Returns the functions of parameters (*batch, D, num_parameters), which act on (*batch, D)."""


@final
class Affine:
    r""":math:`y = e^s x + m`, with s softly held between -5 and 5."""

    num_parameters = 2

    def __call__(self, parameters: Tensor) -> Transform:
        """Returns the affine functions."""
        m, s = parameters.unbind(-1)
        return AffineTransform(m, (MAX_LOG_SCALE * tanh(s / MAX_LOG_SCALE)).exp())


@final
class Gated:
    r""":math:`y = \sigma x + (1 - \sigma) m` with :math:`\sigma = \mathrm{sigmoid}(s + b)`, like an LSTM's update.

    With a positive forget bias b it begins near the identity. It shrinks alone, never stretches.

    Arguments:
        forget_bias: b.
    """

    num_parameters = 2

    def __init__(self, forget_bias: float) -> None:
        self.forget_bias = forget_bias

    def __call__(self, parameters: Tensor) -> Transform:
        """Returns the gated updates."""
        m, s = parameters.unbind(-1)
        gate = sigmoid(s + self.forget_bias)
        return AffineTransform((1 - gate) * m, gate)


@final
class Spline:
    """A monotone spline of rational functions on [-bound, bound], and the identity outside.

    Arguments:
        num_bins: pieces.
        bound: half the width of the interval.
        order: ``"linear"`` or ``"quadratic"``.
    """

    def __init__(self, num_bins: int, bound: float, order: str) -> None:
        self.num_bins = check_size("num_bins", num_bins)
        if not 0 < bound < float("inf"):
            raise ValueError(f"bound must be a positive number; got {bound}. 3 to 5 suits data of size about 1.")
        if order not in _ORDERS:
            raise ValueError(f"order must be one of {_ORDERS}; got {order!r}. 'quadratic' is the paper's.")
        self.bound, self.order = float(bound), order
        self.sizes = [num_bins, num_bins, num_bins - 1, *([num_bins] if order == "linear" else [])]
        self.num_parameters = sum(self.sizes)

    def __call__(self, parameters: Tensor) -> Transform:
        """Returns the splines."""
        widths, heights, slopes, *weights = parameters.split(self.sizes, dim=-1)
        own = (softmax(widths, -1), softmax(heights, -1), softplus(slopes), sigmoid(weights[0]) if weights else None)
        return ConditionedSpline(own, self.bound, self.order)
