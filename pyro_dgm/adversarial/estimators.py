"""What a critic learns: losses of its scores of two sets of draws, ``num`` (say, the data) and ``den`` (generated)."""

__all__ = [
    "BoundaryEquilibrium",
    "CriticEstimator",
    "EnergyMargin",
    "Hinge",
    "LeastSquares",
    "Logistic",
    "Relativistic",
    "Wasserstein",
]

import math
from abc import ABC, abstractmethod
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_dgm.adversarial.arguments import check_number, check_scores


class CriticEstimator(nn.Module, ABC):
    """What a critic minimises, and what its scores then mean.

    A score is high where a draw looks like one of ``num``. Losses are means over draws, and the two sets of draws may
    differ in size. What an estimator remembers from batch to batch stands in buffers, which ``loss`` alone moves, and
    only in training mode and with gradients enabled: a player's step leaves them as they are.

    Attributes:
        has_log_ratio: whether the scores give the log-ratio of the densities of num and den.
        divergence_name: the divergence that ``divergence`` bounds from below, or None.
    """

    has_log_ratio: bool = False
    divergence_name: str | None = None

    def loss(self, num: Tensor, den: Tensor) -> Tensor:
        """What the critic minimises.

        Arguments:
            num: scores of the draws of num, (B,).
            den: scores of the draws of den, (B',).

        Returns:
            A scalar.

        Raises:
            TypeError: the scores are no tensors of floating point.
            ValueError: they are no vectors, or empty.
        """
        check_scores(num, den, type(self).__name__)
        loss = self.criterion(num, den)
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                self.remember(num.detach(), den.detach())
        return loss

    @abstractmethod
    def criterion(self, num: Tensor, den: Tensor) -> Tensor:
        """The critic's loss as a pure function of scores (B,) and (B',), a scalar."""

    @abstractmethod
    def flipped(self, num: Tensor, den: Tensor) -> Tensor:
        """The loss with num and den exchanged, a scalar: what a player minimises whose draws are to be mistaken."""

    @abstractmethod
    def level(self) -> float | Tensor | None:
        """The score of a draw as likely in num as in den; None where only differences of scores have a meaning."""

    def remember(self, num: Tensor, den: Tensor) -> None:
        """Takes scores into the buffers."""

    def log_ratio(self, scores: Tensor) -> Tensor:
        r"""The log-ratio :math:`\log p_{num} / p_{den}` in nats, exact where the critic is at its optimum.

        Anything else of a critic makes it biased, in either direction.

        Arguments:
            scores: of any shape.

        Returns:
            As many log-ratios.

        Raises:
            ValueError: the scores of this estimator give none.
        """
        level = self.level()
        if not self.has_log_ratio or level is None:
            raise ValueError(
                f"a log-ratio is a function of the optimal score; got {self}, whose scores give none. Use Logistic(), "
                "NWJ(), DonskerVaradhan() or an FDivergence other than total variation."
            )
        return scores - level

    def divergence(self, num: Tensor, den: Tensor) -> Tensor:
        """The estimate of the divergence ``divergence_name`` by a batch, a scalar.

        For any critic its expectation is a lower bound, and the estimate is unbiased for that bound unless the
        estimator says otherwise. Scores of draws that the critic was trained on make it too large.

        Arguments:
            num: scores of the draws of num, (B,).
            den: scores of the draws of den, (B',).

        Raises:
            ValueError: the loss bounds no divergence.
        """
        raise ValueError(
            f"a divergence is estimated where the loss bounds one; got {self}, which bounds none. Use Logistic(), "
            "Hinge(), NWJ(), DonskerVaradhan() or FDivergence(name)."
        )

    def looks_like_num(self, scores: Tensor, num: Tensor, den: Tensor) -> Tensor:
        """Whether draws are more likely from num, as far as the critic can tell.

        Arguments:
            scores: scores of the draws to judge, of any shape.
            num: scores of draws of num, (B,), for estimators whose scores have no level: the threshold is then
                midway between the means of num and den.
            den: scores of draws of den, (B',).

        Returns:
            As many bools; False where the score is right at the threshold.
        """
        level = self.level()
        return scores > ((num.mean() + den.mean()) / 2 if level is None else level)

    def accuracy(self, num: Tensor, den: Tensor) -> tuple[Tensor, Tensor]:
        """The share of the draws of num, and of den, that the critic tells right.

        Arguments:
            num: scores of the draws of num, (B,).
            den: scores of the draws of den, (B',).

        Returns:
            Two scalars in [0, 1].
        """
        check_scores(num, den, f"the accuracy of {type(self).__name__}")
        right = self.looks_like_num(num, num, den), ~self.looks_like_num(den, num, den)
        return right[0].to(num.dtype).mean(), right[1].to(den.dtype).mean()


@final
class Logistic(CriticEstimator):
    r"""Binary cross-entropy, :math:`-E_{num} \log \sigma(s) - E_{den} \log(1 - \sigma(s))`, in nats.

    The optimal score is the log-ratio of the densities. ``divergence`` is :math:`\log 2 - loss / 2`, a lower bound of
    the Jensen-Shannon divergence, unbiased for the bound. With label smoothing the critic's target at num is 1 -
    smoothing (that of den stays 0), the scores have an upper limit, and there is neither log-ratio nor divergence; the
    player's labels are not smoothed.

    References:
        Goodfellow et al. (2014), Generative Adversarial Nets, equation 1, arXiv:1406.2661; Salimans et al. (2016),
        Improved Techniques for Training GANs, section 3.4 (one-sided label smoothing), arXiv:1606.03498.

    Arguments:
        label_smoothing: in [0, 0.5).

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = check_number(
            "label_smoothing", label_smoothing, "lie in [0, 0.5)", lambda value: 0 <= value < 0.5, "0.1 is usual."
        )
        self.has_log_ratio = label_smoothing == 0
        self.divergence_name = "Jensen-Shannon" if label_smoothing == 0 else None

    def criterion(self, num: Tensor, den: Tensor) -> Tensor:
        """The cross-entropy of both sets of draws."""
        right, wrong = F.softplus(-num).mean(), F.softplus(num).mean()
        return torch.lerp(right, wrong, self.label_smoothing) + F.softplus(den).mean()

    def flipped(self, num: Tensor, den: Tensor) -> Tensor:
        """The cross-entropy with exchanged labels."""
        return F.softplus(num).mean() + F.softplus(-den).mean()

    def level(self) -> float:
        """0 without label smoothing."""
        return math.log1p(-self.label_smoothing) - math.log1p(self.label_smoothing)

    def divergence(self, num: Tensor, den: Tensor) -> Tensor:
        """A lower bound of the Jensen-Shannon divergence, at most log 2 nats."""
        if self.divergence_name is None:
            return super().divergence(num, den)
        return math.log(2) - self.criterion(num, den) / 2

    def extra_repr(self) -> str:
        """Shows the smoothing."""
        return f"label_smoothing={self.label_smoothing}"


@final
class LeastSquares(CriticEstimator):
    r"""Least squares to labels, :math:`\frac12 E_{num} (s - b)^2 + \frac12 E_{den} (s - a)^2`.

    The optimal score is :math:`(b r + a) / (r + 1)` with r the ratio of the densities. It lies between the labels, but
    a critic's score need not, and where it does not there is no ratio; so none is given.

    The flipped loss is what LSGAN's player minimises, with the label c for den; num, which a player of ALI moves as
    well, gets the label opposite to c, :math:`a + b - c`. With the labels (-1, 1, 0) and the optimal critic it is half
    of :math:`\int (p_{num} - p_{den})^2 / (p_{num} + p_{den})`, a Pearson divergence.

    References:
        Mao et al. (2017), Least Squares Generative Adversarial Networks, equation 2 and section 3.2, arXiv:1611.04076.

    Arguments:
        a: label of den.
        b: label of num, above a.
        c: what the player wants its draws to be taken for.

    Raises:
        TypeError: a label is no number.
        ValueError: a is not below b, or c is not above a.
    """

    def __init__(self, a: float = 0.0, b: float = 1.0, c: float = 1.0) -> None:
        super().__init__()
        cure = "The usual labels are (0, 1, 1), and (-1, 1, 0)."
        self.a = check_number("label a of den", a, "be finite", math.isfinite, cure)
        self.b = check_number("label b of num", b, f"be above {a}, label a of den", lambda value: value > a, cure)
        self.c = check_number("the player's label c", c, f"be above {a}, label a of den", lambda value: value > a, cure)

    def criterion(self, num: Tensor, den: Tensor) -> Tensor:
        """Half the mean squared distances to the labels."""
        return ((num - self.b).square().mean() + (den - self.a).square().mean()) / 2

    def flipped(self, num: Tensor, den: Tensor) -> Tensor:
        """Half the mean squared distances to the player's labels."""
        opposite = self.a + self.b - self.c
        return ((num - opposite).square().mean() + (den - self.c).square().mean()) / 2

    def level(self) -> float:
        """Midway between the labels."""
        return (self.a + self.b) / 2

    def extra_repr(self) -> str:
        """Shows the labels."""
        return f"a={self.a}, b={self.b}, c={self.c}"


@final
class Hinge(CriticEstimator):
    r"""Hinges, :math:`E_{num} \max(0, 1 - s) + E_{den} \max(0, 1 + s)`.

    The optimal score is the sign of the log-ratio. ``divergence`` is :math:`1 - loss / 2`, a lower bound of the total
    variation, unbiased for the bound. A draw beyond its margin gives the critic no gradient, nor a ``Minimax`` player
    where it is told right, nor a ``NonSaturating`` one where it is mistaken. The usual partner is ``IPM()``, which
    always has one.

    References:
        Lim and Ye (2017), Geometric GAN, arXiv:1705.02894; Tran, Ranganath and Blei (2017), Hierarchical Implicit
        Models, arXiv:1702.08896; Nguyen, Wainwright and Jordan (2009), On surrogate loss functions and f-divergences,
        arXiv:math/0510521 (total variation).
    """

    divergence_name = "total variation"

    def criterion(self, num: Tensor, den: Tensor) -> Tensor:
        """The mean distances to the margins."""
        return F.relu(1 - num).mean() + F.relu(1 + den).mean()

    def flipped(self, num: Tensor, den: Tensor) -> Tensor:
        """The mean distances to the other side's margins."""
        return F.relu(1 + num).mean() + F.relu(1 - den).mean()

    def level(self) -> float:
        """Zero."""
        return 0.0

    def divergence(self, num: Tensor, den: Tensor) -> Tensor:
        """A lower bound of the total variation, at most 1."""
        return 1 - self.criterion(num, den) / 2


@final
class Wasserstein(CriticEstimator):
    r"""The difference of mean scores, :math:`-(E_{num} s - E_{den} s)`.

    It has no minimum unless the critic is kept from growing: by ``Critic(net, clip=0.01)``, ``spectrally_normalized``
    or a ``GradientPenalty``. Only for a critic of slope at most 1 everywhere is minus the loss a lower bound of the
    Wasserstein-1 distance. None of the three gives just that, and a penalised critic converges to another number, so no
    divergence is reported.

    References:
        Arjovsky, Chintala and Bottou (2017), Wasserstein GAN, equation 2 and algorithm 1, arXiv:1701.07875.
    """

    def criterion(self, num: Tensor, den: Tensor) -> Tensor:
        """Minus the difference of the means."""
        return den.mean() - num.mean()

    def flipped(self, num: Tensor, den: Tensor) -> Tensor:
        """The difference of the means."""
        return num.mean() - den.mean()

    def level(self) -> None:
        """None: a constant added to the scores changes nothing."""
        return None


@final
class Relativistic(CriticEstimator):
    r"""Whether a draw of num looks more like num than draws of den do.

    With pairs the loss is :math:`-E \log \sigma(s_{num} - s_{den})`, each draw against one of the other set; on average

    .. math:: -E_{num} \log \sigma(s - \bar s_{den}) - E_{den} \log \sigma(\bar s_{num} - s),

    each against the mean of the other set, whose estimate by a batch biases the loss. Scores have a meaning up to a
    constant only, so there is no log-ratio. ``NonSaturating`` is the player that the paper pairs it with, and has a
    gradient for num and den both.

    References:
        Jolicoeur-Martineau (2019), The relativistic discriminator, section 4, arXiv:1807.00734.

    Arguments:
        average: whether a draw is compared with the mean of the others (RaSGAN), or with one of them (RSGAN).

    Raises:
        TypeError: average is no bool.
        ValueError: at the call, when there are no pairs.
    """

    def __init__(self, average: bool = True) -> None:
        super().__init__()
        if not isinstance(average, bool):
            raise TypeError(f"average of Relativistic must be a bool; got {average!r}. False compares draws in pairs.")
        self.average = average

    def criterion(self, num: Tensor, den: Tensor) -> Tensor:
        """The cross-entropy of the comparisons."""
        if self.average:
            return F.softplus(den.mean() - num).mean() + F.softplus(den - num.mean()).mean()
        if len(num) != len(den):
            raise ValueError(
                f"Relativistic(average=False) compares draws in pairs, as many of each; got {len(num)} of num and "
                f"{len(den)} of den. Draw as many, or use average=True."
            )
        return F.softplus(den - num).mean()

    def flipped(self, num: Tensor, den: Tensor) -> Tensor:
        """The same with the roles exchanged."""
        return self.criterion(den, num)

    def level(self) -> None:
        """None: a constant added to the scores changes nothing."""
        return None

    def extra_repr(self) -> str:
        """Shows the comparison."""
        return f"average={self.average}"


@final
class EnergyMargin(CriticEstimator):
    r"""Low energy for num, and at least a margin for den: :math:`E_{num} e + E_{den} \max(0, m - e)`.

    The scores are minus energies (``EnergyCritic``). At an equilibrium num and den are equal and the loss is m; on the
    way it bounds no divergence. The flipped loss, the player's, is the energy of its draws, plus the hinge of num's for
    one who moves num as well; ``Minimax``, without a gradient where the critic has won, is refused.

    References:
        Zhao, Mathieu and LeCun (2017), Energy-based Generative Adversarial Network, equations 1 and 2,
        arXiv:1609.03126.

    Arguments:
        margin: m, positive, in the units of the energy.

    Raises:
        TypeError: it is no number.
        ValueError: it is not positive.
    """

    def __init__(self, margin: float) -> None:
        super().__init__()
        cure = "Begin with the energy of an untrained autoencoder's reconstructions."
        self.margin = check_number("margin", margin, "be positive", lambda value: value > 0, cure)

    def criterion(self, num: Tensor, den: Tensor) -> Tensor:
        """The mean energy of num, and what den lacks to the margin."""
        return F.relu(self.margin + den).mean() - num.mean()

    def flipped(self, num: Tensor, den: Tensor) -> Tensor:
        """The mean energy of den, and what num lacks to the margin."""
        return self.criterion(den, num)

    def level(self) -> None:
        """None: an energy tells draws apart only by comparison."""
        return None

    def extra_repr(self) -> str:
        """Shows the margin."""
        return f"margin={self.margin}"


@final
class BoundaryEquilibrium(CriticEstimator):
    r"""Low energy for num and high energy for den, held in balance: :math:`E_{num} e - k E_{den} e`.

    The scores are minus energies (``EnergyCritic``). After every loss :math:`k \leftarrow k + rate (\gamma E_{num} e -
    E_{den} e)`, kept within [0, 1], from k = 0: so :math:`E_{den} e` is brought to :math:`\gamma E_{num} e`, and a
    small gamma asks for likeness at the cost of variety. The player's energy is the flipped loss or ``IPM()``;
    ``Minimax``, with no gradient while k is 0, is refused.

    References:
        Berthelot, Schumm and Metz (2017), BEGAN: Boundary Equilibrium Generative Adversarial Networks, section 3.4,
        arXiv:1703.10717.

    Arguments:
        gamma: the ratio of energies aimed at, in (0, 1].
        rate: how fast k follows, positive.

    Raises:
        TypeError: an argument is no number.
        ValueError: one is out of range.
    """

    k: Tensor

    def __init__(self, gamma: float = 0.5, rate: float = 1e-3) -> None:
        super().__init__()
        cure = "0.5 is usual; 0.3 to 0.7 trade variety."
        self.gamma = check_number("gamma", gamma, "lie in (0, 1]", lambda value: 0 < value <= 1, cure)
        self.rate = check_number("rate", rate, "be positive", lambda value: value > 0, "0.001 is usual.")
        self.register_buffer("k", torch.tensor(0.0))

    def criterion(self, num: Tensor, den: Tensor) -> Tensor:
        """The mean energy of num less k times that of den."""
        return self.k.to(den, copy=True) * den.mean() - num.mean()  # k moves before the backward pass

    def flipped(self, num: Tensor, den: Tensor) -> Tensor:
        """The mean energy of den less k times that of num."""
        return self.criterion(den, num)

    def level(self) -> None:
        """None: an energy tells draws apart only by comparison."""
        return None

    def remember(self, num: Tensor, den: Tensor) -> None:
        """Moves k, unless the balance is not finite: then it belongs to a step not to be taken."""
        moved = (self.k + self.rate * self._balance(num, den).to(self.k)).clamp(0, 1)
        self.k.copy_(torch.where(moved.isfinite(), moved, self.k))

    def convergence(self, num: Tensor, den: Tensor) -> Tensor:
        r"""The measure of convergence :math:`E_{num} e + |\gamma E_{num} e - E_{den} e|`; it falls as training goes on.

        Arguments:
            num: scores of the draws of num, (B,).
            den: scores of the draws of den, (B',).

        Returns:
            A scalar, in the units of the energy.
        """
        return self._balance(num, den).abs() - num.mean()

    def _balance(self, num: Tensor, den: Tensor) -> Tensor:
        return den.mean() - self.gamma * num.mean()

    def extra_repr(self) -> str:
        """Shows the ratio and the rate."""
        return f"gamma={self.gamma}, rate={self.rate}"
