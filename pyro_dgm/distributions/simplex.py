"""Distributions of weights that sum to one: stick-breaking and Dirichlet."""

__all__ = [
    "Dirichlet",
    "DirichletPrior",
    "StickBreakingDistribution",
    "StickBreakingKumaraswamy",
    "StickBreakingPrior",
]

import math
from typing import Any, final

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, constraints, register_kl
from torch.nn.functional import logsigmoid, pad, softplus

from pyro_dgm.distributions.conditional import (
    ConditionalDistribution,
    check_count,
    check_net,
    split_parameters,
)

_LEAST = 1e-3  # concentration that a network can give: below, most draws have weights that no float can hold
_FAR = 15.0  # from here on exp(-t) is small enough for the first two terms of a series
_NODES = torch.linspace(-25.0, 19.5, 90, dtype=torch.float64)  # of the trapezoidal rule of _expect_log_complement


@final
class StickBreakingDistribution(TorchDistribution):
    r"""Weights of a broken stick, :math:`\pi_k = v_k \prod_{j<k} (1 - v_j)`, whose last is all that remains.

    The K - 1 fractions are independent Kumaraswamy variables, of density :math:`a b v^{a-1} (1 - v^a)^{b-1}`; with
    a = 1 they are Beta(1, b), as in a truncated Dirichlet process. It is a density on the simplex, with respect to the
    first K - 1 weights as torch's Dirichlet, so that it can be compared with any other:

    .. math:: \log p(\pi) = \sum_{k<K} \Big( \log p(v_k) - \log \sum_{j \ge k} \pi_j \Big).

    That is the density of the sticks down to where the dtype can tell them apart: once less than 1e-19 of the stick is
    left (1e-154 in float64), the rest is broken with uniform density, whatever the concentrations, in draws and
    densities alike. So importance weights have a mean of one; the place of that cut takes no part in gradients. The
    closed-form KL is that of all fractions, which is at least the KL of what can be told.

    All is computed with logarithms. A weight that is too small for a gradient in its dtype (below 4e-29 in float32) is
    raised to that and then has none, so that draws, densities and gradients are finite. A single fraction that leaves
    less is scored as if it left so much: where b is below about 0.3 in p and far below that in q, the mean of weights
    p / q exceeds one for it, by a factor of no more than the ratio of the two b.

    References:
        Nalisnick and Smyth (2017), Stick-Breaking Variational Autoencoders, arXiv:1605.06197;
        Kumaraswamy (1980), A generalized probability density function for double-bounded random processes.

    Arguments:
        concentration1: a, (*batch, K - 1).
        concentration0: b, (*batch, K - 1).
    """

    arg_constraints = {  # noqa: RUF012 (torch's convention)
        "concentration1": constraints.independent(constraints.positive, 1),
        "concentration0": constraints.independent(constraints.positive, 1),
    }
    support = constraints.simplex
    has_rsample = True

    def __init__(self, concentration1: Tensor, concentration0: Tensor, validate_args: bool | None = None) -> None:
        self.concentration1, self.concentration0 = torch.broadcast_tensors(concentration1, concentration0)
        features = self.concentration1.shape[-1] + 1
        super().__init__(self.concentration1.shape[:-1], torch.Size((features,)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "StickBreakingDistribution":
        """Returns the same distribution with its batch shape expanded."""
        new = self._get_checked_instance(StickBreakingDistribution, _instance)
        shape = torch.Size(batch_shape)
        new.concentration1 = self.concentration1.expand(shape + self.concentration1.shape[-1:])
        new.concentration0 = self.concentration0.expand(shape + self.concentration0.shape[-1:])
        super(StickBreakingDistribution, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self.__dict__.get("_validate_args")
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.clamp(min=_floor(value.dtype))
        log_rest = value.flip(-1).cumsum(-1).flip(-1).log()  # of the stick before it is broken for the k-th time
        logit = value[..., :-1].log() - log_rest[..., 1:]  # of v_k
        a, b = self._concentrations(log_rest[..., :-1])
        log_complement = _log1mexp(_log_softplus(-logit) + a.log())  # log(1 - v^a)
        log_fraction = a.log() + b.log() + (a - 1) * logsigmoid(logit) + (b - 1) * log_complement
        return log_fraction.sum(-1) - log_rest[..., 1:-1].sum(-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws by inversion of the fractions' distribution functions, with a path to both concentrations."""
        shape = torch.Size(sample_shape) + self.concentration1.shape
        noise = self.concentration1.new_empty(shape).exponential_()
        _, log_rest = _break(noise, self.concentration1, self.concentration0)
        log_v, log_rest = _break(noise, *self._concentrations(log_rest[..., :-1]))
        log_weights = pad(log_v, (0, 1)) + log_rest
        # They sum to one but for rounding, which the softmax takes away: validation allows for 1e-6 and no more.
        return log_weights.clamp(min=math.log(_floor(log_weights.dtype))).softmax(-1)

    @property
    def mean(self) -> Tensor:
        """The exact means of the weights."""
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        """The exact variances of the weights."""
        return self._moment(2) - self.mean.square()

    def _concentrations(self, log_rest: Tensor) -> tuple[Tensor, Tensor]:
        """Of fractions of a stick of which so much is left, (*batch, K - 1): below the cut those of equal density."""
        a, b = self.concentration1, self.concentration0
        is_told = log_rest > math.log(_floor(log_rest.dtype)) * 2 / 3
        still = torch.arange(a.shape[-1], 0, -1, dtype=b.dtype, device=b.device)  # pieces to come after each fraction
        return torch.where(is_told, a, torch.ones_like(a)), torch.where(is_told, b, still)

    def _moment(self, power: int) -> Tensor:
        """Of the weights: products of those of the independent fractions and of what these leave."""
        first, own = self._fraction_moment(1), self._fraction_moment(power)
        left = 1 - first if power == 1 else 1 - 2 * first + own
        return pad(own, (0, 1), value=1.0) * pad(left.cumprod(-1), (1, 0), value=1.0)

    def _fraction_moment(self, power: int) -> Tensor:
        a, b = self.concentration1, self.concentration0
        return (b.log() + torch.lgamma(1 + power / a) + torch.lgamma(b) - torch.lgamma(1 + power / a + b)).exp()


class _SimplexFamily(ConditionalDistribution):
    """What distributions over the simplex accept as data."""

    def check_data(self, x: Tensor) -> None:
        """Raises a ``ValueError`` unless every row is nowhere negative and sums to one."""
        super().check_data(x)
        total = x.sum(-1)
        if bool((x >= 0).all()) and bool(((total - 1).abs() < 1e-6).all()):
            return
        raise ValueError(
            f"{type(self).__name__} takes weights of at least 0 that sum to one; got values from {float(x.min()):g} "
            f"to {float(x.max()):g} whose sums run from {float(total.min()):g} to {float(total.max()):g}. Divide "
            "counts by their sum, x / x.sum(-1, keepdim=True)."
        )


@final
class StickBreakingPrior(_SimplexFamily):
    r"""The prior of a truncated Dirichlet process, GEM: weights of a stick broken at :math:`v_k \sim` Beta(1, alpha).

    A small concentration puts nearly all weight on the first few; with a large one the weights are many and small. A
    context, if the model has one, is not looked at: p(z | c) = p(z).

    References:
        Nalisnick and Smyth (2017), Stick-Breaking Variational Autoencoders, arXiv:1605.06197; Sethuraman
        (1994), A constructive definition of Dirichlet priors.

    Arguments:
        features: number K of weights, at least 2.
        concentration: alpha, positive.

    Raises:
        ValueError: features is not an integer of at least 2, or the concentration not a positive number.

    Example:
        >>> StickBreakingPrior(50, 5.0)().event_shape
        torch.Size([50])
    """

    concentration: Tensor

    def __init__(self, features: int, concentration: float) -> None:
        super().__init__()
        check_count("the features of StickBreakingPrior", features, 2, "A single weight is always 1.")
        alpha = torch.full((features - 1,), _positive("StickBreakingPrior", concentration))
        self.register_buffer("concentration", alpha, persistent=False)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution of batch shape () and event shape (features,)."""
        return StickBreakingDistribution(torch.ones_like(self.concentration), self.concentration)


@final
class StickBreakingKumaraswamy(_SimplexFamily):
    r"""A posterior over the weights of a broken stick, its fractions :math:`v_k \sim` Kumaraswamy(a, b).

    The network gives the K - 1 values of a and then those of b before a softplus, to which 0.001 is added. Its draws
    are reparameterised by inversion. The KL to a ``StickBreakingPrior``, or to another posterior of this kind, is known
    to 1e-5 of its terms: where the paper truncates an infinite series (its equation 12), one smooth integral per
    fraction is taken by the trapezoidal rule, which costs 90 evaluations of a logarithm.

    References:
        Nalisnick and Smyth (2017), Stick-Breaking Variational Autoencoders, arXiv:1605.06197.

    Arguments:
        net: maps the context to (*batch, 2 (K - 1)).

    Raises:
        TypeError: net is no module.
        ValueError: at the call, when the network's output has an odd length.

    Example:
        >>> from pyro_dgm.nn import MLP
        >>> q = StickBreakingKumaraswamy(MLP(784, StickBreakingKumaraswamy.num_parameters(50)))
        >>> q(torch.zeros(8, 784)).event_shape
        torch.Size([50])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = check_net(net, "StickBreakingKumaraswamy")

    @staticmethod
    def num_parameters(features: int) -> int:
        """Length of the network's output for K = ``features`` weights."""
        return 2 * (features - 1)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution of batch shape (*batch,) and event shape (K,)."""
        a, b = split_parameters(self.net(*context), 2, -1, "StickBreakingKumaraswamy")
        return StickBreakingDistribution(softplus(a) + _LEAST, softplus(b) + _LEAST)


@final
class DirichletPrior(_SimplexFamily):
    """A symmetric Dirichlet prior over K weights that sum to one.

    With a concentration below 1 few weights are large, at 1 every point of the simplex is as probable. A context, if
    the model has one, is not looked at: p(z | c) = p(z). With 0.02 or less many weights fall below what float32 holds,
    and bounds that are estimated by draws from a ``Dirichlet`` come out too large, by tens of nats: use
    ``analytic_kl=True`` or float64 there.

    References:
        Blei, Ng and Jordan (2003), Latent Dirichlet Allocation, JMLR 3.

    Arguments:
        features: number K of weights, at least 2.
        concentration: of each weight, positive.

    Raises:
        ValueError: features is not an integer of at least 2, or the concentration not a positive number.

    Example:
        >>> DirichletPrior(10, 0.5)().event_shape
        torch.Size([10])
    """

    concentration: Tensor

    def __init__(self, features: int, concentration: float) -> None:
        super().__init__()
        check_count("the features of DirichletPrior", features, 2, "A single weight is always 1.")
        alpha = torch.full((features,), _positive("DirichletPrior", concentration))
        self.register_buffer("concentration", alpha, persistent=False)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the Dirichlet of batch shape () and event shape (features,)."""
        return dist.Dirichlet(self.concentration)


@final
class Dirichlet(_SimplexFamily):
    r"""A Dirichlet over K weights that sum to one, its concentrations a softplus of the network, plus 0.001.

    Its draws have torch's implicit reparameterised gradients; the KL to a ``DirichletPrior`` is known. torch raises
    weights that float32 cannot hold to 1e-38, which are many where concentrations are about 0.02 or less, here and in
    the prior. The ratio of the two densities is then none of the draws', and bounds estimated by it come out too large,
    by tens of nats: use ``analytic_kl=True`` or float64 there.

    References:
        Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients, arXiv:1805.08498.

    Arguments:
        net: maps the context to (*batch, K).

    Raises:
        TypeError: net is no module.
        ValueError: at the call, when the network's output has fewer than two elements.

    Example:
        >>> from pyro_dgm.nn import MLP
        >>> Dirichlet(MLP(784, 50))(torch.zeros(8, 784)).event_shape
        torch.Size([50])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = check_net(net, "Dirichlet")

    @staticmethod
    def num_parameters(features: int) -> int:
        """Length of the network's output for K = ``features`` weights."""
        return features

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the Dirichlet of batch shape (*batch,) and event shape (K,)."""
        parameters = self.net(*context)
        if not parameters.dim() or parameters.shape[-1] < 2:
            raise ValueError(
                f"a Dirichlet reads at least two concentrations; got a network output of shape "
                f"{tuple(parameters.shape)}. Give the network one output for each weight."
            )
        return dist.Dirichlet(softplus(parameters) + _LEAST)


@register_kl(StickBreakingDistribution, StickBreakingDistribution)
def _kl_stick_breaking(q: StickBreakingDistribution, p: StickBreakingDistribution) -> Tensor:
    r"""The sum of the KLs of the fractions; all expectations but that of :math:`\log(1 - v^{a_p})` are closed."""
    a, b = q.concentration1, q.concentration0
    log_v = -(torch.digamma(b + 1) - torch.digamma(torch.ones_like(b))) / a  # E log v
    log_q = a.log() + b.log() + (a - 1) * log_v - (b - 1) / b
    a_p, b_p = p.concentration1, p.concentration0
    log_p = a_p.log() + b_p.log() + (a_p - 1) * log_v + (b_p - 1) * _expect_log_complement(a, b, a_p)
    return (log_q - log_p).sum(-1)


def _expect_log_complement(a: Tensor, b: Tensor, power: Tensor) -> Tensor:
    r"""E log(1 - v^power) under Kumaraswamy(a, b), as an integral over the logit t of v^a.

    Its integrand, with the density :math:`b \, \sigma(t) \, \sigma(-t)^b`, is analytic in a strip and falls off at both
    ends, so that the trapezoidal rule converges exponentially. To the right, where a small b makes the fall slow and
    all is nearly linear, the nodes spread out: t is w + exp(w - 9) at equally spaced w.
    """
    w = _NODES.reshape(-1, *[1] * max(a.dim(), power.dim()))
    t = w + (w - 9).exp()
    log_weight, decay = logsigmoid(t) + torch.log1p((w - 9).exp()), softplus(t)
    weights = (log_weight.to(a) - b * decay.to(a)).softmax(0)  # normalised on the nodes
    log_log = _log_softplus(-t).to(a)  # log(-log v^a)
    return (weights * _log1mexp(log_log - a.log() + power.log())).sum(0)


def _break(noise: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the fractions, (*shape, K - 1), and of what is left before each and at last, (*shape, K)."""
    log_v_negated = _log_minus_log_fraction(noise, a, b)
    return -log_v_negated.exp(), pad(_log1mexp(log_v_negated).cumsum(-1), (1, 0))


def _log_minus_log_fraction(noise: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """log(-log v) of the fraction v = (1 - exp(-e / b))^(1/a) that exponential noise e makes."""
    s = noise / b
    near = s.clamp(max=_FAR)
    return torch.where(s > _FAR, -s + 0.5 * (-s).exp(), (-_log1mexp(near.log())).log()) - a.log()


def _log_softplus(x: Tensor) -> Tensor:
    """The logarithm of log(1 + exp(x)), which may itself be too small for a float."""
    return torch.where(x < -_FAR, x - 0.5 * x.exp(), softplus(x.clamp(min=-_FAR)).log())


def _log1mexp(log_t: Tensor) -> Tensor:
    """log(1 - exp(-t)) as a function of log t, finite and with a finite gradient wherever log t is."""
    small = log_t - 0.5 * log_t.clamp(max=-_FAR).exp()
    t = log_t.clamp(-_FAR, 6.0).exp()
    large = torch.where(t < math.log(2), (-torch.expm1(-t)).log(), torch.log1p(-(-t).exp()))
    return torch.where(log_t < -_FAR, small, large)


def _floor(dtype: torch.dtype) -> float:
    """The smallest weight: its reciprocal, times a gradient of any size that is met, does not overflow."""
    return float(torch.finfo(dtype).tiny ** 0.75)


def _positive(name: str, concentration: float) -> float:
    is_number = isinstance(concentration, int | float) and not isinstance(concentration, bool)
    if not is_number or not 0 < concentration < math.inf:
        raise ValueError(
            f"the concentration of {name} must be a positive number; got {concentration!r}. 1 is the usual choice."
        )
    return float(concentration)
