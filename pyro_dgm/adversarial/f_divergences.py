r"""Critics that learn f-divergences, :math:`D_f(num \| den) = E_{den} f(p_{num} / p_{den})`, through their duals."""

__all__ = ["NWJ", "DonskerVaradhan", "FDivergence"]

import math
from collections.abc import Callable
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_dgm.adversarial.arguments import check_number
from pyro_dgm.adversarial.estimators import CriticEstimator

_ALPHA = "alpha"


class _Dual(NamedTuple):
    """T = f'(e^v), and f*(T) = e^v f'(e^v) - f(e^v), as functions of the score v."""

    variable: Callable[[Tensor], Tensor]
    conjugate: Callable[[Tensor], Tensor]


_DUALS = {
    "kl": _Dual(lambda v: v + 1, torch.exp),
    "reverse-kl": _Dual(lambda v: -(-v).exp(), lambda v: v - 1),
    "pearson": _Dual(lambda v: 2 * v.expm1(), lambda v: (2 * v).expm1()),
    "neyman": _Dual(lambda v: -(-2 * v).expm1(), lambda v: -2 * (-v).expm1()),
    "squared-hellinger": _Dual(lambda v: -(-v / 2).expm1(), lambda v: (v / 2).expm1()),
    "jensen-shannon": _Dual(lambda v: math.log(2) - F.softplus(-v), lambda v: F.softplus(v) - math.log(2)),
    "gan": _Dual(lambda v: -F.softplus(-v), F.softplus),
    "total-variation": _Dual(lambda v: v.tanh() / 2, lambda v: v.tanh() / 2),
}


@final
class FDivergence(CriticEstimator):
    r"""Minus the dual of an f-divergence, :math:`-(E_{num} T - E_{den} f^*(T))`, in nats.

    The score v is meant as the log-ratio, and :math:`T = f'(e^v)` of it, so that every f has the same optimal critic; a
    linear one is tight for two Gaussians of one covariance. With :math:`f^*(f'(u)) = u f'(u) - f(u)`,

    =====================  ===================================  ========================  ==================
    name                   f(u)                                 T                         f*(T)
    =====================  ===================================  ========================  ==================
    ``kl``                 u log u                              v + 1                     e^v
    ``reverse-kl``         - log u                              - e^-v                    v - 1
    ``pearson``            (u - 1)^2                            2 (e^v - 1)               e^2v - 1
    ``neyman``             (u - 1)^2 / u                        1 - e^-2v                 2 - 2 e^-v
    ``squared-hellinger``  (sqrt u - 1)^2                       1 - e^(-v/2)              e^(v/2) - 1
    ``jensen-shannon``     u log u - (u + 1) log((u + 1) / 2)   log(2 sigma(v))           - log(2 sigma(-v))
    ``gan``                u log u - (u + 1) log(u + 1)         log sigma(v)              - log sigma(-v)
    ``total-variation``    abs(u - 1) / 2                       tanh(v) / 2               tanh(v) / 2
    ``alpha``              (u^a - 1 - a (u - 1)) / (a (a - 1))  (e^(a-1)v - 1) / (a - 1)  (e^av - 1) / a
    =====================  ===================================  ========================  ==================

    The usual f are kept: that of ``jensen-shannon`` gives *twice* the Jensen-Shannon divergence, and that of ``gan``
    twice of it less log 4, so minus its loss is the GAN's value function. ``squared-hellinger`` is the integral of the
    squared difference of root densities, without a factor 1/2. ``alpha`` is the family of Cressie and Read: 1 is
    ``kl``, 0 is ``reverse-kl``, 2 half of ``pearson``, -1 half of ``neyman``, 1/2 twice ``squared-hellinger``. For
    total variation the optimal T is a step, which the score approaches and never reaches; it has no log-ratio.

    ``divergence`` is a lower bound of :math:`D_f` for any critic, and unbiased for that bound. Its variance grows as
    :math:`e^{2v}` and the like for all but ``jensen-shannon``, ``gan`` and ``total-variation``, which are the ones that
    no score can make overflow.

    References:
        Nowozin, Cseke and Tomioka (2016), f-GAN, equation 4 and table 1, arXiv:1606.00709 (whose output activations
        give other meanings to the score); Nguyen, Wainwright and Jordan (2010), arXiv:0809.0853; Cressie and Read
        (1984), Multinomial goodness-of-fit tests.

    Arguments:
        name: which f.
        alpha: the order a, any number, for ``"alpha"`` only.

    Raises:
        TypeError: alpha is no number.
        ValueError: the name is unknown, alpha is missing, or it is given to another f.
    """

    def __init__(self, name: str, alpha: float | None = None) -> None:
        super().__init__()
        names = (*_DUALS, _ALPHA)
        if name not in names:
            raise ValueError(f"an f-divergence must be one of {names}; got {name!r}. 'jensen-shannon' is the mildest.")
        if (name == _ALPHA) != (alpha is not None):
            raise ValueError(
                f"alpha is the order of the divergence 'alpha' and of no other; got alpha={alpha} for {name!r}. Write "
                "FDivergence('alpha', alpha=0.5)."
            )
        self.name = name
        self.alpha = alpha
        self.has_log_ratio = name != "total-variation"
        self.divergence_name = name if alpha is None else f"{name} of order {alpha}"
        self._dual = _DUALS[name] if alpha is None else _alpha_dual(alpha)

    def criterion(self, num: Tensor, den: Tensor) -> Tensor:
        """Minus the dual."""
        return self._dual.conjugate(den).mean() - self._dual.variable(num).mean()

    def flipped(self, num: Tensor, den: Tensor) -> Tensor:
        """Minus the dual with the draws exchanged and the score as it is."""
        return self.criterion(den, num)

    def level(self) -> float:
        """Zero."""
        return 0.0

    def divergence(self, num: Tensor, den: Tensor) -> Tensor:
        """A lower bound of the divergence of this f."""
        return -self.criterion(num, den)

    def extra_repr(self) -> str:
        """Shows the f."""
        return repr(self.name) if self.alpha is None else f"{self.name!r}, alpha={self.alpha}"


def _alpha_dual(alpha: float) -> _Dual:
    order = check_number("alpha", alpha, "be finite", math.isfinite, "0.5 is symmetric.")
    return _Dual(lambda v: _scaled_expm1(v, order - 1), lambda v: _scaled_expm1(v, order))


def _scaled_expm1(v: Tensor, scale: float) -> Tensor:
    """(e^(scale v) - 1) / scale, which goes to v as the scale does to 0."""
    return v if scale == 0 else (scale * v).expm1() / scale


@final
class NWJ(CriticEstimator):
    r"""The linear lower bound of KL(num || den): :math:`-(E_{num} s - E_{den} e^{s - 1})`, in nats.

    The optimal score is the log-ratio plus 1. ``divergence`` is a lower bound for any critic and unbiased for it, with
    a variance that grows as the exponential of the divergence. In other words ``FDivergence("kl")`` with T for a score.

    References:
        Nguyen, Wainwright and Jordan (2010), Estimating divergence functionals and the likelihood ratio by convex risk
        minimization, arXiv:0809.0853.
    """

    has_log_ratio = True
    divergence_name = "kl"

    def criterion(self, num: Tensor, den: Tensor) -> Tensor:
        """Minus the bound."""
        return (den - 1).exp().mean() - num.mean()

    def flipped(self, num: Tensor, den: Tensor) -> Tensor:
        """Minus the bound with the draws exchanged."""
        return self.criterion(den, num)

    def level(self) -> float:
        """One."""
        return 1.0

    def divergence(self, num: Tensor, den: Tensor) -> Tensor:
        """A lower bound of KL(num || den)."""
        return -self.criterion(num, den)


@final
class DonskerVaradhan(CriticEstimator):
    r"""The lower bound of KL(num || den) of Donsker and Varadhan, :math:`-(E_{num} s - \log E_{den} e^s)`, in nats.

    The tightest of the bounds, and blind to a constant added to the scores. The logarithm of a batch's mean makes
    ``divergence`` biased upwards: on few draws it may exceed the divergence. The gradient of the plain loss is biased
    likewise, since a batch's mean stands in its denominator; so there stands the moving average of
    :math:`E_{den} e^s`, the present batch included, which leaves about (1 - decay) of the bias and makes no weight
    larger than 1 / (1 - decay) batches' worth. The loss's value is the batch's own.

    The optimal score is the log-ratio plus a constant, whose estimate is the moving average as well: before the first
    loss in training mode it is taken for 0.

    References:
        Donsker and Varadhan (1983), Asymptotic evaluation of certain Markov process expectations for large time IV;
        Belghazi et al. (2018), Mutual Information Neural Estimation, section 3.2, arXiv:1801.04062.

    Arguments:
        decay: how much of the moving average is kept at each step, in [0, 1); with 0 the gradient is the batch's own.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """

    has_log_ratio = True
    divergence_name = "kl"
    log_normalizer: Tensor
    is_new: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        cure = "0.99 is a good start."
        self.decay = check_number("decay", decay, "lie in [0, 1)", lambda value: 0 <= value < 1, cure)
        self.register_buffer("log_normalizer", torch.tensor(0.0))
        self.register_buffer("is_new", torch.tensor(True))

    def criterion(self, num: Tensor, den: Tensor) -> Tensor:
        """Minus the bound of this batch, with the gradient of the moving average."""
        log_mean = _log_mean_exp(den)
        relative = (log_mean - self._moved(log_mean.detach())).exp()
        return log_mean.detach() + relative - relative.detach() - num.mean()

    def flipped(self, num: Tensor, den: Tensor) -> Tensor:
        """Minus the bound of this batch with the draws exchanged and the score as it is, with its plain gradient."""
        return _log_mean_exp(num) - den.mean()

    def level(self) -> Tensor:
        """The logarithm of the moving average, a copy."""
        return self.log_normalizer.clone()

    def divergence(self, num: Tensor, den: Tensor) -> Tensor:
        """A lower bound of KL(num || den), biased upwards on few draws of den."""
        return num.mean() - _log_mean_exp(den)

    def remember(self, num: Tensor, den: Tensor) -> None:
        """Moves the average, unless the batch's is not finite: then it belongs to a step not to be taken."""
        moved = self._moved(_log_mean_exp(den)).to(self.log_normalizer)
        is_fine = moved.isfinite()
        self.log_normalizer.copy_(torch.where(is_fine, moved, self.log_normalizer))
        self.is_new.logical_and_(~is_fine)

    def _moved(self, log_mean: Tensor) -> Tensor:
        """The moving average with one more batch, in logarithms."""
        if self.decay == 0:
            return log_mean
        kept = self.log_normalizer.to(log_mean) + math.log(self.decay)
        return torch.where(self.is_new, log_mean, torch.logaddexp(kept, log_mean + math.log1p(-self.decay)))

    def extra_repr(self) -> str:
        """Shows the decay."""
        return f"decay={self.decay}"


def _log_mean_exp(scores: Tensor) -> Tensor:
    return scores.logsumexp(dim=0) - math.log(len(scores))
