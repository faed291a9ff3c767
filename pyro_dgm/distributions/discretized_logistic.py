"""The discretized logistic: a probability for each of the 256 levels of an 8-bit pixel, and mixtures of it."""

__all__ = ["DiscretizedLogistic", "DiscretizedLogisticDistribution", "DiscretizedLogisticMixture"]

import math
from typing import Any, final

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from pyro_dgm.distributions.conditional import (
    ConditionalDistribution,
    check_event_dim,
    check_net,
    split_parameters,
)

_MIN_LOG_SCALE = -7.0  # a scale of a quarter of a level: narrower ones only make the gradient vanish


class _Levels(constraints.Constraint):
    """The values 0, 1 / (levels - 1), ..., 1."""

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        steps = value * (self.levels - 1)
        return ((steps - steps.round()).abs() < 1e-2) & (value >= -1e-6) & (value <= 1 + 1e-6)


class DiscretizedLogisticDistribution(TorchDistribution):
    r"""A logistic distribution rounded to ``levels`` equally spaced values of [0, 1].

    The probability of a level is the logistic's mass within half a step of it; the two outer levels take the
    tails, so the masses sum to one:

    .. math:: P(x) = \sigma\big((x + h - \mu) / s\big) - \sigma\big((x - h - \mu) / s\big), \quad
        h = \tfrac{1}{2 (\mathrm{levels} - 1)}.

    References:
        Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow, section 5.2 and
        appendix, arXiv:1606.04934; Salimans et al. (2017), PixelCNN++, section 2.1, arXiv:1701.05517.

    Arguments:
        loc: location, on the scale of the data, [0, 1].
        log_scale: logarithm of the logistic's scale, broadcastable with ``loc``.
        levels: number of values, 256 for 8-bit images.
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}  # noqa: RUF012 (torch's convention)
    has_rsample = False

    def __init__(self, loc: Tensor, log_scale: Tensor, levels: int = 256, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = broadcast_all(loc, log_scale)
        self.levels = _check_levels(levels)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The levels 0, 1 / (levels - 1), ..., 1."""
        return _Levels(self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogisticDistribution":
        """Returns the same distribution with its batch shape expanded."""
        shape = torch.Size(batch_shape)
        return DiscretizedLogisticDistribution(
            self.loc.expand(shape), self.log_scale.expand(shape), self.levels, self.__dict__.get("_validate_args")
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-mass of each value, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.levels - 1)
        inverse_scale = (-self.log_scale).exp()
        upper = (value + half - self.loc) * inverse_scale
        lower = (value - half - self.loc) * inverse_scale
        # s(u) - s(l) = s(u) s(-l) (1 - exp(l - u)); l - u depends on the scale alone, so nothing cancels.
        interior = _log1mexp(2 * half * inverse_scale, math.log(2 * half) - self.log_scale)
        log_upper = torch.where(value > 1 - half, torch.zeros_like(upper), logsigmoid(upper))
        log_lower = torch.where(value < half, torch.zeros_like(lower), logsigmoid(-lower))
        is_inner = (value >= half) & (value <= 1 - half)
        return log_upper + log_lower + torch.where(is_inner, interior, torch.zeros_like(interior))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws levels."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            uniform = uniform.clamp(1e-6, 1 - 1e-6)
            x = self.loc + self.log_scale.exp() * torch.logit(uniform)
            return (x * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The exact mean over the levels: the sum of P(X >= level), times the step."""
        total = torch.zeros_like(self.loc)
        inverse_scale = (-self.log_scale).exp()
        for level in range(1, self.levels):
            total = total + torch.sigmoid((self.loc - (level - 0.5) / (self.levels - 1)) * inverse_scale)
        return total / (self.levels - 1)

    @property
    def variance(self) -> Tensor:
        """The exact variance over the levels."""
        second = torch.zeros_like(self.loc)
        inverse_scale = (-self.log_scale).exp()
        for level in range(1, self.levels):  # x^2 grows by (2 level - 1) steps^2 at each level
            tail = torch.sigmoid((self.loc - (level - 0.5) / (self.levels - 1)) * inverse_scale)
            second = second + (2 * level - 1) * tail
        return second / (self.levels - 1) ** 2 - self.mean.square()


class _DiscretizedLogisticFamily(ConditionalDistribution):
    """What the single logistic and the mixture share."""

    def __init__(self, net: nn.Module, event_dim: int, levels: int) -> None:
        super().__init__()
        self.net = check_net(net, type(self).__name__)
        self.event_dim = check_event_dim(event_dim, 1)
        self.levels = _check_levels(levels)

    def check_data(self, x: Tensor) -> None:
        """Raises a ``ValueError`` unless every value is one of the levels in [0, 1]."""
        super().check_data(x)
        if bool(_Levels(self.levels).check(x).all()):
            return
        raise ValueError(
            f"{type(self).__name__} takes the {self.levels} levels 0, 1/{self.levels - 1}, ..., 1; "
            f"got values from {float(x.min()):g} to {float(x.max()):g}, not all of them levels. "
            f"Divide 8-bit pixels by {self.levels - 1}, and do not add noise or resize afterwards."
        )


@final
class DiscretizedLogistic(_DiscretizedLogisticFamily):
    """Discretized logistic pixels for 8-bit images, given as k / 255.

    The log-likelihood is a log-mass, so divided by the number of pixels and log 2 it is bits per dimension.

    References:
        Kingma et al. (2016), arXiv:1606.04934, section 5.2.

    Arguments:
        net: maps the context to (*batch, 2 C, *rest): location and log-scale along the first event dimension.
        event_dim: dimensions of one datum: 3 for images, 1 for vectors.
        levels: number of values of a pixel.
    """

    def __init__(self, net: nn.Module, event_dim: int = 3, levels: int = 256) -> None:
        super().__init__(net, event_dim, levels)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution of batch shape (*batch,) and event shape (C, *rest)."""
        loc, log_scale = split_parameters(self.net(*context), 2, -self.event_dim, "DiscretizedLogistic")
        pixel = DiscretizedLogisticDistribution(loc, log_scale.clamp(min=_MIN_LOG_SCALE), self.levels)
        return pixel.to_event(self.event_dim)


@final
class DiscretizedLogisticMixture(_DiscretizedLogisticFamily):
    """A mixture of discretized logistics for each value of an 8-bit image, given as k / 255.

    Every channel of every pixel has its own mixture; the channels are independent given the context.

    References:
        Salimans et al. (2017), PixelCNN++, section 2.1 (without its coupling of the channels), arXiv:1701.05517.

    Arguments:
        net: maps the context to (*batch, 3 M C, *rest): for M components, logits, locations and log-scales along
            the first event dimension.
        num_components: number M of components.
        event_dim: dimensions of one datum: 3 for images, 1 for vectors.
        levels: number of values of a pixel.
    """

    def __init__(self, net: nn.Module, num_components: int = 5, event_dim: int = 3, levels: int = 256) -> None:
        super().__init__(net, event_dim, levels)
        if isinstance(num_components, bool) or not isinstance(num_components, int) or num_components < 1:
            raise ValueError(
                f"num_components must be a positive integer; got {num_components!r}. PixelCNN++ uses 5 to 10."
            )
        self.num_components = num_components

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution of batch shape (*batch,) and event shape (C, *rest)."""
        parts = 3 * self.num_components
        pieces = split_parameters(self.net(*context), parts, -self.event_dim, "DiscretizedLogisticMixture")
        logits, loc, log_scale = torch.stack(pieces, dim=-1).chunk(3, dim=-1)  # each (*batch, C, *rest, M)
        component = DiscretizedLogisticDistribution(loc, log_scale.clamp(min=_MIN_LOG_SCALE), self.levels)
        mixture = dist.MixtureSameFamily(dist.Categorical(logits=logits), component)
        return mixture.to_event(self.event_dim)


def _log1mexp(t: Tensor, log_t: Tensor) -> Tensor:
    """log(1 - exp(-t)) for t > 0, finite and with a finite gradient even where t, but not log t, has underflown."""
    is_small = t < 1e-6
    return torch.where(is_small, log_t - t / 2, torch.log(-torch.expm1(-torch.where(is_small, torch.ones_like(t), t))))


def _check_levels(levels: int) -> int:
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
        raise ValueError(f"levels must be an integer of at least 2; got {levels!r}. It is 256 for 8-bit images.")
    return levels
