"""What an autoregressive transform or a coupling does to each element, given parameters for it."""

__all__ = ["Affine", "Elementwise", "Gated", "Spline"]

import math
from typing import Protocol, final

import torch
from torch import Tensor
from torch.distributions import AffineTransform, Transform, constraints
from torch.nn.functional import pad, sigmoid, softmax, softplus, tanh

from pyro_dgm.nn.inputs import check_size

MAX_LOG_SCALE = 5.0
_LEAST = 1e-3  # share of the interval that a bin takes, and slope at a knot
_MAX_BINS = 500  # with which half the interval is still to be shared out


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
    r"""A monotone spline of rational quadratic functions on [-bound, bound], and the identity outside.

    Parameters of zero give the identity; a bin is at least 0.001 of the interval wide and high, a slope at least 0.001.

    References:
        Durkan, Bekasov, Murray and Papamakarios (2019), Neural Spline Flows, section 3.1, arXiv:1906.04032.

    Arguments:
        num_bins: pieces, at most 500.
        bound: half the width of the interval.

    Raises:
        ValueError: a number is not positive, or there are too many pieces.
    """

    def __init__(self, num_bins: int, bound: float) -> None:
        self.num_bins = check_size("num_bins", num_bins)
        if num_bins > _MAX_BINS:
            raise ValueError(f"num_bins must be at most {_MAX_BINS}; got {num_bins}. 8 to 32 are usual.")
        if not 0 < bound < float("inf"):
            raise ValueError(f"bound must be a positive number; got {bound}. 3 to 5 suits data of size about 1.")
        self.bound = float(bound)
        self.num_parameters = 3 * num_bins - 1

    def __call__(self, parameters: Tensor) -> Transform:
        """Returns the splines."""
        widths, heights, slopes = parameters.split([self.num_bins, self.num_bins, self.num_bins - 1], dim=-1)
        inner = _LEAST + softplus(slopes + math.log(math.expm1(1 - _LEAST)))
        return _RationalQuadratic(self._knots(widths), self._knots(heights), pad(inner, (1, 1), value=1.0), self.bound)

    def _knots(self, sizes: Tensor) -> Tensor:
        """The ends of the bins, from -bound to bound: (*batch, num_bins + 1)."""
        shares = _LEAST + (1 - _LEAST * self.num_bins) * softmax(sizes, -1)
        inner = self.bound * (2 * shares[..., :-1].cumsum(-1) - 1)
        return pad(pad(inner, (1, 0), value=-self.bound), (0, 1), value=self.bound)


class _RationalQuadratic(Transform):
    r"""The spline through given points with given slopes, equations 4-8 of Durkan et al. (2019).

    The inverse is their equation 6 with :math:`t = (y - y_k) / h`, whose discriminant, divided by h squared, is
    :math:`r^2 = g^2 + 4 s^2 t (1 - t)` with :math:`g = (1 - t) \delta_k - t \delta_{k+1}`: without a difference that
    could be negative for rounding. Its root is :math:`\xi = 2 s t / (2 s t + g + r)`.

    Arguments:
        x: knots, (*batch, K + 1).
        y: values at the knots, (*batch, K + 1).
        slopes: derivatives there, (*batch, K + 1), of which the first and last are 1.
        bound: the last knot, and the negative of the first.
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = 1

    def __init__(self, x: Tensor, y: Tensor, slopes: Tensor, bound: float) -> None:
        super().__init__()
        self.x, self.y, self.bound = x, y, bound
        self.bins = torch.stack(  # (*batch, 6, K)
            [x[..., :-1], x.diff(dim=-1), y[..., :-1], y.diff(dim=-1), slopes[..., :-1], slopes[..., 1:]], dim=-2
        )

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The logarithm of the slope at x, equation 5."""
        left, width, _, height, first, last = self._bin(x, self.x)
        xi = ((x - left) / width).clamp(0, 1)
        s, theta = height / width, xi * (1 - xi)
        log_slope = (last * xi.square() + 2 * s * theta + first * (1 - xi).square()).log()
        log_slope = log_slope + 2 * (s.log() - _denominator(xi, s, first, last).log())
        return torch.where(x.abs() <= self.bound, log_slope, torch.zeros_like(x))

    def _call(self, x: Tensor) -> Tensor:
        """Equation 4."""
        left, width, low, height, first, last = self._bin(x, self.x)
        xi = ((x - left) / width).clamp(0, 1)
        s = height / width
        rise = xi * (s * xi + first * (1 - xi)) / _denominator(xi, s, first, last)
        return torch.where(x.abs() <= self.bound, low + height * rise, x)

    def _inverse(self, y: Tensor) -> Tensor:
        """Equations 6-8."""
        left, width, low, height, first, last = self._bin(y, self.y)
        t = ((y - low) / height).clamp(0, 1)
        s, g = height / width, (1 - t) * first - t * last
        product = 4 * s.square() * t * (1 - t)
        r = (g.square() + product).sqrt()
        total = torch.where(g > 0, g + r, product / torch.where(g > 0, r, r - g))  # g + r, without cancellation
        xi = 2 * s * t / (2 * s * t + total)
        return torch.where(y.abs() <= self.bound, left + width * xi, y)

    def _bin(self, value: Tensor, knots: Tensor) -> tuple[Tensor, ...]:
        """Left end, width, lower end, height and the slopes at both ends of the bins that hold the values."""
        index = (value.unsqueeze(-1) >= knots[..., 1:-1]).sum(-1)[..., None, None]  # (*batch, 1, 1)
        found = self.bins.expand(*index.shape[:-2], -1, -1).gather(-1, index.expand(*index.shape[:-2], 6, 1))
        return found.squeeze(-1).unbind(-1)


def _denominator(xi: Tensor, s: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """That of equation 4, as a sum of positive terms."""
    return s * (xi.square() + (1 - xi).square()) + (first + last) * xi * (1 - xi)
