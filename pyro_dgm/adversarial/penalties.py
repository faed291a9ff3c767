r"""What keeps a critic in bounds: penalties added to its loss.

All are means over draws, and those of gradients take one norm per draw, over all its sites together, so that none
depends on the size of the batch. A critic with batch normalisation has no gradient per draw, and should have none.
"""

__all__ = ["DRAGAN", "R1", "R2", "Consistency", "GradientPenalty", "LeCam", "Penalty"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from pyro_dgm.adversarial.arguments import check_number, check_sites
from pyro_dgm.distributions.conditional import check_count

Values = Sequence[Tensor]

_EVERY = "1 computes it at each step; 16 is StyleGAN2's."


class Penalty(nn.Module, ABC):
    """A term of the critic's loss that regularises it, computed lazily if asked to.

    Of ``every`` calls in training mode the first computes the penalty and multiplies it by ``every``, and the others
    return zero, so that its mean is the same. The count is part of the state; it is read where ``every`` is above 1,
    which on an accelerator waits for the device.

    References:
        Karras et al. (2020), Analyzing and Improving the Image Quality of StyleGAN, section 3.1 (lazy regularisation),
        arXiv:1912.04958.

    Arguments:
        every: how many steps share one computation.

    Raises:
        ValueError: it is no positive integer.
    """

    count: Tensor

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self.every = check_count("every", every, 1, _EVERY)
        self.register_buffer("count", torch.tensor(0))

    @property
    def is_due(self) -> bool:
        """Whether the next call computes the penalty."""
        return self.every == 1 or not bool(self.count % self.every)

    def forward(self, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """The penalty of a batch, weight included.

        Arguments:
            critic: the critic.
            num: values of the sites, (B, *event) each.
            den: values of the same sites, (B', *event) each.

        Returns:
            A scalar, at least 0.

        Raises:
            TypeError: the values are no tuples of tensors.
            ValueError: they have no rows, or the two have other sites or shapes.
        """
        num, den = check_sites(num, den, type(self).__name__)
        value = self.every * self.value(critic, num, den) if self.is_due else _zero(num)
        if self.training:
            self.count.add_(1)
        return value

    @abstractmethod
    def value(self, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """The penalty as if it were computed at every step, a scalar."""

    def extra_repr(self) -> str:
        """Shows how often it is computed."""
        return f"every={self.every}"


@final
class R1(Penalty):
    r"""Squared slopes at num, :math:`\frac{\gamma}{2} E_{num} \| \nabla s \|^2`.

    Zero at an equilibrium whose critic is constant on the data, which it makes attractive. Mind the half: code that
    leaves it out (``reg_param`` of the authors' GAN_stability) calls gamma / 2 what is gamma here.

    References:
        Mescheder, Geiger and Nowozin (2018), Which Training Methods for GANs do actually Converge?, equation 9,
        arXiv:1801.04406.

    Arguments:
        gamma: the weight, not negative.
        every: see ``Penalty``.

    Raises:
        TypeError: gamma is no number.
        ValueError: an argument is out of range.
    """

    def __init__(self, gamma: float = 10.0, every: int = 1) -> None:
        super().__init__(every)
        self.gamma = _check_weight("gamma", gamma)

    def value(self, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """Half gamma times the mean squared slope at num."""
        return self.gamma / 2 * _squared_slopes(critic, num).mean()


@final
class R2(Penalty):
    r"""Squared slopes at den, :math:`\frac{\gamma}{2} E_{den} \| \nabla s \|^2`; see ``R1``, half included.

    References:
        Mescheder, Geiger and Nowozin (2018), equation 10, arXiv:1801.04406.

    Arguments:
        gamma: the weight, not negative.
        every: see ``Penalty``.

    Raises:
        TypeError: gamma is no number.
        ValueError: an argument is out of range.
    """

    def __init__(self, gamma: float = 10.0, every: int = 1) -> None:
        super().__init__(every)
        self.gamma = _check_weight("gamma", gamma)

    def value(self, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """Half gamma times the mean squared slope at den."""
        return self.gamma / 2 * _squared_slopes(critic, den).mean()


@final
class GradientPenalty(Penalty):
    r"""Slopes against a target, :math:`\lambda E (\| \nabla s \| - t)^2`, on the way between num and den.

    With ``one_sided`` only slopes above the target cost. A two-sided penalty with a large weight can hold a critic of
    one dimension upside down; one-sided, or with a weight of 1, it does not. A target of 0 gives a zero-centred
    penalty, without the 1/2 of ``R1``. The loss of a penalised critic is no Wasserstein distance.

    Between a row of num and one of den the coefficient is uniform in [0, 1] and the same for all sites; of batches that
    differ in size the first rows are taken. Sites of integers or bools (labels) are taken from num, without a slope.

    References:
        Gulrajani et al. (2017), Improved Training of Wasserstein GANs, equation 3, arXiv:1704.00028; Petzka, Fischer
        and Lukovnikov (2018), On the regularization of Wasserstein GANs (one-sided), arXiv:1709.08894; Thanh-Tung, Tran
        and Venkatesh (2019), Improving Generalization and Stability of GANs (zero-centred), arXiv:1902.03984.

    Arguments:
        weight: lambda, not negative.
        target: t, not negative.
        one_sided: whether slopes below the target are free.
        at: where slopes are taken, ``"interpolates"``, ``"num"`` or ``"den"``.
        every: see ``Penalty``.

    Raises:
        TypeError: an argument is of another kind; at the call, when no site has floating point.
        ValueError: an argument is out of range.
    """

    _PLACES = ("interpolates", "num", "den")

    def __init__(
        self,
        weight: float = 10.0,
        target: float = 1.0,
        one_sided: bool = False,
        at: str = "interpolates",
        every: int = 1,
    ) -> None:
        super().__init__(every)
        self.weight = _check_weight("weight", weight)
        cure = "1 is WGAN's, 0 is zero-centred."
        self.target = check_number("target", target, "be at least 0", lambda value: value >= 0, cure)
        if not isinstance(one_sided, bool):
            raise TypeError(f"one_sided must be a bool; got {one_sided!r}. True leaves slopes below the target free.")
        if at not in self._PLACES:
            raise ValueError(f"at must be one of {self._PLACES}; got {at!r}. The first is the usual.")
        self.one_sided, self.at = one_sided, at

    def value(self, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """The weighted mean squared distance of the slopes to the target."""
        places = {"interpolates": _between, "num": lambda num, den: num, "den": lambda num, den: den}
        squared = _squared_slopes(critic, places[self.at](num, den))
        return self.weight * _distances(squared, self.target, self.one_sided).mean()


@final
class DRAGAN(Penalty):
    r"""Slopes of 1 around num, :math:`\lambda E_{num} (\| \nabla s(x + c \, \mathrm{std}(x) u) \| - 1)^2`.

    The noise u is uniform in [0, 1] for every element, and the standard deviation that of all elements of the site in
    the batch, as in the authors' program. Sites of integers or bools are left as they are.

    References:
        Kodali, Abernethy, Hays and Kira (2017), On Convergence and Stability of GANs, arXiv:1705.07215.

    Arguments:
        weight: lambda, not negative.
        scale: c, positive.
        every: see ``Penalty``.

    Raises:
        TypeError: an argument is no number; at the call, when no site has floating point.
        ValueError: an argument is out of range.
    """

    def __init__(self, weight: float = 10.0, scale: float = 0.5, every: int = 1) -> None:
        super().__init__(every)
        self.weight = _check_weight("weight", weight)
        self.scale = check_number("scale", scale, "be positive", lambda value: value > 0, "0.5 is the authors'.")

    def value(self, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """The weighted mean squared distance of the slopes to 1."""
        around = [x + self.scale * x.std(correction=0) * torch.rand_like(x) if _is_real(x) else x for x in num]
        return self.weight * _distances(_squared_slopes(critic, around), 1.0, one_sided=False).mean()


@final
class LeCam(Penalty):
    r"""Scores against the other's mean, :math:`\lambda (E_{num} (s - \bar s_{den})^2 + E_{den} (s - \bar s_{num})^2)`.

    The means are moving averages over batches, the present one included, and carry no gradient. They move in training
    mode with gradients enabled, at the calls that compute the penalty.

    References:
        Tseng et al. (2021), Regularizing Generative Adversarial Networks under Limited Data,
        arXiv:2104.03310 (the authors' program also cuts the differences at zero, which their text does not).

    Arguments:
        weight: lambda, not negative.
        decay: how much of the averages is kept at each step, in [0, 1).
        every: see ``Penalty``.

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument is out of range.
    """

    anchors: Tensor
    is_new: Tensor

    def __init__(self, weight: float, decay: float = 0.99, every: int = 1) -> None:
        super().__init__(every)
        self.weight = _check_weight("weight", weight)
        self.decay = check_number("decay", decay, "lie in [0, 1)", lambda value: 0 <= value < 1, "0.99 is usual.")
        self.register_buffer("anchors", torch.zeros(2))  # of num and of den
        self.register_buffer("is_new", torch.tensor(True))

    def value(self, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """The weighted mean squared distances to the anchors."""
        above, below = critic(*num), critic(*den)
        means = torch.stack([above.mean(), below.mean()]).detach()
        kept = self.anchors.to(means)
        moved = torch.where(self.is_new, means, torch.lerp(means, kept, self.decay))
        if self.training and torch.is_grad_enabled():
            is_fine = moved.isfinite().all()  # otherwise it belongs to a step not to be taken
            self.anchors.copy_(torch.where(is_fine, moved, kept))
            self.is_new.logical_and_(~is_fine)
        return self.weight * ((above - moved[1]).square().mean() + (below - moved[0]).square().mean())


@final
class Consistency(Penalty):
    r"""Scores of num that an augmentation changes, :math:`\lambda E_{num} (s(x) - s(t(x)))^2`.

    References:
        Zhang, Zhang, Odena and Lee (2020), Consistency Regularization for Generative Adversarial Networks,
        arXiv:1910.12027.

    Arguments:
        augment: called with the values of the sites of num, returns as many tensors of the same shapes in a tuple. It
            draws its own randomness.
        weight: lambda, not negative.
        every: see ``Penalty``.

    Raises:
        TypeError: augment cannot be called, or the weight is no number; at the call, when it returns no tuple.
        ValueError: an argument is out of range; at the call, when the augmented values have other shapes.
    """

    def __init__(self, augment: Callable[..., tuple[Tensor, ...]], weight: float = 10.0, every: int = 1) -> None:
        super().__init__(every)
        if not callable(augment):
            raise TypeError(
                f"augment must be a function of the values of the sites; got {type(augment).__name__}. For instance "
                "lambda x: (x.flip(-1),)."
            )
        self.weight = _check_weight("weight", weight)
        self._augment = augment

    def value(self, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """The weighted mean squared change of the scores."""
        changed, _ = check_sites(self._augment(*num), num, "a Consistency penalty, of what augment returns and num,")
        if len(changed[0]) != len(num[0]):
            raise ValueError(
                f"an augmentation changes rows one by one; got {len(changed[0])} rows of {len(num[0])}. Return as many."
            )
        return self.weight * (critic(*num) - critic(*changed)).square().mean()


def _squared_slopes(critic: nn.Module, values: Values) -> Tensor:
    """The squared norms of the gradients of the scores, over all sites and rows of each score, (B // pac,)."""
    has_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() if _is_real(x) else x for x in values]
        leaves = [x for x in inputs if x.requires_grad]
        if not leaves:
            raise TypeError(
                f"a slope needs a site of floating point; got {[x.dtype for x in values]}. Penalise another contrast, "
                "or encode labels one-hot."
            )
        scores = critic(*inputs)
        if not scores.requires_grad:  # a constant critic
            return torch.zeros_like(scores)
        slopes = torch.autograd.grad(
            scores.sum(), leaves, create_graph=has_graph, allow_unused=True, materialize_grads=True
        )
    rows = torch.stack([slope.reshape(len(slope), -1).square().sum(dim=1) for slope in slopes]).sum(dim=0)
    return rows[: len(scores) * getattr(critic, "pac", 1)].reshape(len(scores), -1).sum(dim=1)


def _distances(squared: Tensor, target: float, one_sided: bool) -> Tensor:
    """The squared distances of norms to a target, given the norms' squares; where a norm is 0 it has no gradient."""
    if target == 0:
        return squared
    is_flat = squared == 0
    norms = torch.where(is_flat, 0.0, torch.where(is_flat, 1.0, squared).sqrt())
    distances = norms - target
    return (distances.clamp(min=0) if one_sided else distances).square()


def _between(num: Values, den: Values) -> list[Tensor]:
    """Points on the way from rows of den to rows of num."""
    num_rows = min(len(num[0]), len(den[0]))
    reals = [x for x in num if _is_real(x)]
    share = torch.rand(num_rows, dtype=reals[0].dtype, device=reals[0].device) if reals else None
    points = []
    for x, y in zip(num, den, strict=True):
        x, y = x[:num_rows], y[:num_rows]
        if share is not None and _is_real(x):
            x = torch.lerp(y, x, share.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1)))
        points.append(x)
    return points


def _is_real(x: Tensor) -> bool:
    return x.is_floating_point()


def _zero(values: Values) -> Tensor:
    return next((x for x in values if _is_real(x)), torch.zeros(1, device=values[0].device)).new_zeros(())


def _check_weight(name: str, value: float) -> float:
    """Returns a weight if it is a finite number that is not negative."""
    return check_number(name, value, "be at least 0", lambda weight: weight >= 0, "0 switches the penalty off.")
