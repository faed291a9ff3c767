"""Distributions on the unit sphere: the power spherical, and the uniform one."""

__all__ = ["PowerSpherical", "PowerSphericalDistribution", "SphericalUniform", "SphericalUniformDistribution"]

import math
from typing import Any, final

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, register_kl
from torch.nn.functional import softplus

from pyro_dgm.distributions.conditional import ConditionalDistribution, check_count, check_net

_LARGE = 20.0  # from here on three terms of Stirling's series are exact in float64


@final
class PowerSphericalDistribution(TorchDistribution):
    r"""A density on the unit sphere that falls off from one direction, :math:`p(x) \propto (1 + \mu^\top x)^\kappa`.

    As the von Mises-Fisher, with a normaliser in closed form and draws without rejection, reparameterised in both
    parameters: :math:`\mu^\top x = 2 z - 1` with :math:`z \sim \mathrm{Beta}(\beta + \kappa, \beta)`, where in d
    dimensions :math:`\beta = (d - 1) / 2`; the rest of x is uniform, in a frame that a Householder reflection turns
    into place. With :math:`\kappa = 0` it is uniform. The density is with respect to the sphere's surface.

    Of the two reflections that turn the first axis to :math:`\pm \mu`, the one is taken whose normal is the longer, so
    that gradients are finite for every direction, the axis itself included.

    References:
        De Cao and Aziz (2020), The Power Spherical distribution, arXiv:2006.04437.

    Arguments:
        loc: the direction :math:`\mu`, of length 1, (*batch, d).
        concentration: :math:`\kappa`, at least 0, (*batch).
    """

    arg_constraints = {"loc": constraints.sphere, "concentration": constraints.nonnegative}  # noqa: RUF012 (torch's)
    support = constraints.sphere
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        self.loc, wide = torch.broadcast_tensors(loc, concentration.unsqueeze(-1))
        self.concentration = wide[..., 0]
        super().__init__(self.concentration.shape, self.loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PowerSphericalDistribution":
        """Returns the same distribution with its batch shape expanded."""
        new = self._get_checked_instance(PowerSphericalDistribution, _instance)
        shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(shape + self.event_shape)
        new.concentration = self.concentration.expand(shape)
        super(PowerSphericalDistribution, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self.__dict__.get("_validate_args")
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats; finite also opposite the direction, where it would be minus infinity."""
        if self._validate_args:
            self._validate_sample(value)
        # z = (1 + mu x) / 2 from the distance to whichever pole is nearer, so that rounding costs little at any kappa.
        z, rest = (0.25 * (value + sign * self.loc).square().sum(-1) for sign in (1, -1))
        log_z = torch.where(rest < 0.5, torch.log1p(-rest.clamp(max=0.5)), z.clamp(min=_least(z.dtype)).log())
        return self.concentration * log_z - self._log_normalizer()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a path to direction and concentration."""
        shape = self._extended_shape(torch.Size(sample_shape))
        # A Dirichlet gives z and 1 - z, each as exact as a float can be; a Beta would give z alone.
        pair = dist.Dirichlet(torch.stack(self._alpha_and_beta(), dim=-1), validate_args=False).rsample(sample_shape)
        z, rest = pair.clamp(min=_least(pair.dtype)).split(1, dim=-1)
        aside = _unit(torch.randn((*shape[:-1], shape[-1] - 1), dtype=z.dtype, device=z.device))
        y = torch.cat([z - rest, 2 * (z * rest).sqrt() * aside], dim=-1)
        return _unit(_turned(y, self.loc))

    def entropy(self) -> Tensor:
        """Differential entropy on the sphere's surface, in nats."""
        return self._log_normalizer() - self.concentration * _digamma_gap(*self._alpha_and_beta())

    @property
    def mean(self) -> Tensor:
        r"""The mean, a vector inside of the sphere: :math:`\mu \, \kappa / (\kappa + d - 1)`."""
        return self._mean_along().unsqueeze(-1) * self.loc

    @property
    def mode(self) -> Tensor:
        """The direction."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate."""
        alpha, beta = self._alpha_and_beta()
        mean, total = self._mean_along(), alpha + beta
        along = 4 * alpha * beta / (total.square() * (total + 1))
        across = (1 - along - mean.square()) / (self.loc.shape[-1] - 1)
        return across.unsqueeze(-1) + (along - across).unsqueeze(-1) * self.loc.square()

    def _mean_along(self) -> Tensor:
        return self.concentration / (self.concentration + self.loc.shape[-1] - 1)

    def _alpha_and_beta(self) -> tuple[Tensor, Tensor]:
        beta = torch.full_like(self.concentration, 0.5 * (self.loc.shape[-1] - 1))
        return beta + self.concentration, beta

    def _log_normalizer(self) -> Tensor:
        """The logarithm of the integral of z to the power kappa, that is, without the 2 to the power kappa."""
        alpha, beta = self._alpha_and_beta()
        return beta * math.log(4 * math.pi) + _log_gamma_gap(alpha, beta)


@final
class SphericalUniformDistribution(TorchDistribution):
    """The uniform distribution on the unit sphere in d dimensions.

    Arguments:
        like: a tensor of shape (*batch, d), for its shape, dtype and device.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's convention)
    support = constraints.sphere
    has_rsample = True

    def __init__(self, like: Tensor, validate_args: bool | None = None) -> None:
        self._like = like
        super().__init__(like.shape[:-1], like.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SphericalUniformDistribution":
        """Returns the same distribution with its batch shape expanded."""
        like = self._like.expand(torch.Size(batch_shape) + self.event_shape)
        return SphericalUniformDistribution(like, self.__dict__.get("_validate_args"))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats: minus the logarithm of the sphere's surface."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        return -self.entropy().expand(shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws directions."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return _unit(torch.randn(shape, dtype=self._like.dtype, device=self._like.device))

    def entropy(self) -> Tensor:
        """The logarithm of the sphere's surface, in nats."""
        half = 0.5 * self.event_shape[0]
        area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
        return self._like.new_full((), area).expand(self.batch_shape)

    @property
    def mean(self) -> Tensor:
        """The origin."""
        return torch.zeros_like(self._like)

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, 1 / d."""
        return torch.full_like(self._like, 1 / self.event_shape[0])


class _SphereFamily(ConditionalDistribution):
    """What distributions on the sphere accept as data."""

    def check_data(self, x: Tensor) -> None:
        """Raises a ``ValueError`` unless every row has length 1."""
        super().check_data(x)
        if bool(constraints.sphere.check(x).all()):
            return
        lengths = x.norm(dim=-1)
        raise ValueError(
            f"{type(self).__name__} takes vectors of length 1; got lengths from {float(lengths.min()):g} to "
            f"{float(lengths.max()):g}. Divide by it in the dtype of the model, x / x.norm(dim=-1, keepdim=True)."
        )


@final
class PowerSpherical(_SphereFamily):
    r"""A posterior on the unit sphere, :math:`p(x) \propto (1 + \mu^\top x)^\kappa`, for latents that are directions.

    The network gives a vector, whose direction is :math:`\mu`, and then a number, whose softplus plus 1 is
    :math:`\kappa`; the 1 is customary, and keeps the direction from losing its meaning. The KL to ``SphericalUniform``
    is known in closed form.

    Opposite its direction the density is 0. So importance weights are unbiased, but their variance is infinite where
    :math:`\kappa \ge (d - 1) / 2`: in few dimensions estimates of log p(x) by many particles converge slowly.

    References:
        De Cao and Aziz (2020), The Power Spherical distribution, arXiv:2006.04437; Davidson, Falorsi, De Cao, Kipf and
        Tomczak (2018), Hyperspherical Variational Auto-Encoders, arXiv:1804.00891.

    Arguments:
        net: maps the context to (*batch, d + 1).

    Raises:
        TypeError: net is no module.
        ValueError: at the call, when the network's output has fewer than three elements.

    Example:
        >>> from pyro_dgm.nn import MLP
        >>> q = PowerSpherical(MLP(784, PowerSpherical.num_parameters(50)))
        >>> q(torch.zeros(8, 784)).event_shape
        torch.Size([50])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = check_net(net, "PowerSpherical")

    @staticmethod
    def num_parameters(features: int) -> int:
        """Length of the network's output for the sphere in d = ``features`` dimensions."""
        return features + 1

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution of batch shape (*batch,) and event shape (d,)."""
        parameters = self.net(*context)
        if not parameters.dim() or parameters.shape[-1] < 3:
            raise ValueError(
                "PowerSpherical reads d + 1 parameters for the sphere in d dimensions, d at least 2; got a network "
                f"output of shape {tuple(parameters.shape)}. Size the network with PowerSpherical.num_parameters(d)."
            )
        return PowerSphericalDistribution(_unit(parameters[..., :-1]), 1 + softplus(parameters[..., -1]))


@final
class SphericalUniform(_SphereFamily):
    """The uniform prior over directions: points of the unit sphere in d dimensions.

    A context, if the model has one, is not looked at: p(z | c) = p(z).

    References:
        Davidson et al. (2018), Hyperspherical Variational Auto-Encoders, arXiv:1804.00891.

    Arguments:
        features: number d of coordinates, at least 2; d = 2 is the circle.

    Raises:
        ValueError: features is not an integer of at least 2.

    Example:
        >>> SphericalUniform(3)().event_shape
        torch.Size([3])
    """

    origin: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        check_count("the features of SphericalUniform", features, 2, "The circle has two coordinates.")
        self.register_buffer("origin", torch.zeros(features), persistent=False)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the uniform distribution of batch shape () and event shape (features,)."""
        return SphericalUniformDistribution(self.origin)


@register_kl(PowerSphericalDistribution, SphericalUniformDistribution)
def _kl_to_uniform(q: PowerSphericalDistribution, p: SphericalUniformDistribution) -> Tensor:
    """The entropy of the uniform distribution less that of the other."""
    return p.entropy() - q.entropy()


def _turned(y: Tensor, direction: Tensor) -> Tensor:
    """Applies an orthogonal map that takes the first axis to ``direction``, continuous on either half of the sphere."""
    sign = torch.where(direction[..., :1] < 0, -1.0, 1.0).to(direction)
    axis = torch.zeros_like(direction)
    axis[..., 0] = 1.0
    normal = axis + sign * direction  # of length sqrt(2) at least
    scale = (normal * y).sum(-1, keepdim=True) / normal[..., :1]  # 2 n'y / |n|^2
    return -sign * (y - scale * normal)


def _unit(x: Tensor) -> Tensor:
    """Each vector over its length; the first axis where that is 0."""
    largest = x.detach().abs().amax(-1, keepdim=True)
    is_zero = largest == 0
    x = x / torch.where(is_zero, 1.0, largest)  # whose squares neither vanish nor overflow
    first = torch.zeros_like(x)
    first[..., 0] = 1.0
    x = torch.where(is_zero, first, x)
    return x / x.norm(dim=-1, keepdim=True)


def _log_gamma_gap(a: Tensor, b: Tensor) -> Tensor:
    """Log gamma at a less that at a + b, for large a by the difference of Stirling's series, which loses nothing."""
    c = a + b
    series = b - (a - 0.5) * torch.log1p(b / a) - b * c.log() + _stirling(a) - _stirling(c)
    return torch.where(a < _LARGE, torch.lgamma(a) - torch.lgamma(c), series)


def _digamma_gap(a: Tensor, b: Tensor) -> Tensor:
    """The derivative of that, digamma at a less that at a + b."""
    c = a + b
    series = -torch.log1p(b / a) + _stirling_slope(a) - _stirling_slope(c)
    return torch.where(a < _LARGE, torch.digamma(a) - torch.digamma(c), series)


def _stirling(x: Tensor) -> Tensor:
    """What log gamma has beside (x - 1/2) log x - x + log(2 pi) / 2, for large x."""
    inverse = x.reciprocal()
    return inverse * (1 / 12 - inverse.square() * (1 / 360 - inverse.square() / 1260))


def _stirling_slope(x: Tensor) -> Tensor:
    """What digamma has beside log x, for large x."""
    inverse = x.reciprocal()
    square = inverse.square()
    return -0.5 * inverse - square * (1 / 12 - square * (1 / 120 - square / 252))


def _least(dtype: torch.dtype) -> float:
    """How near to a pole a point is told from it; nearer, neither its logarithm nor its root have a gradient."""
    return float(torch.finfo(dtype).tiny ** 0.5)
