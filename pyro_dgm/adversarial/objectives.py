r"""What the player of an adversarial game minimises: the programs that draw num and den, against a critic held fixed.

A player has no densities. Its gradient takes the path through the draws, of den and of num alike, into the critic,
whose parameters belong to the other side. That is enough where a divergence is a supremum over critics, :math:`D(num,
den) = \sup_v E_{num} T(v) - E_{den} f^*(T(v))`: at the optimum the critic's own dependence on the programs has no part
in the derivative (the envelope theorem), so the gradient with the critic held fixed is that of D.
"""

__all__ = ["IPM", "FeatureMatching", "ForwardKL", "Minimax", "NonSaturating", "PlayerObjective", "ReverseKL"]

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from pyro_dgm.adversarial.arguments import check_scores
from pyro_dgm.adversarial.critics import CriticModule
from pyro_dgm.adversarial.estimators import BoundaryEquilibrium, CriticEstimator, EnergyMargin

Values = Sequence[Tensor]


class PlayerObjective(ABC):
    """What the player minimises.

    It moves no state of the estimator. The scores of num are computed also where num are plain data and add a constant.

    Attributes:
        needs_log_ratio: whether the critic must give the log-ratio.
        needs_features: whether the critic must have features.
        refused: estimators that it makes no sense with.
    """

    needs_log_ratio: bool = False
    needs_features: bool = False
    refused: tuple[type[CriticEstimator], ...] = ()

    def check(self, estimator: CriticEstimator, critic: nn.Module) -> None:
        """Checks that the three can play together.

        Arguments:
            estimator: what the critic learns.
            critic: the critic.

        Raises:
            TypeError: they are not what they should be.
            ValueError: the estimator gives no log-ratio or the critic no features, which are needed, or the pair makes
                no sense.
        """
        name = type(self).__name__
        if not isinstance(estimator, CriticEstimator):
            raise TypeError(f"{name} needs a CriticEstimator; got {type(estimator).__name__}. Pass Logistic().")
        if not isinstance(critic, nn.Module):
            raise TypeError(f"{name} needs a critic; got {type(critic).__name__}. Wrap a network: Critic(net).")
        if self.needs_log_ratio and not estimator.has_log_ratio:
            raise ValueError(
                f"{name} is made of log-ratios; got {estimator}, whose scores give none. Use Logistic(), NWJ(), "
                "DonskerVaradhan() or an FDivergence other than total variation."
            )
        if isinstance(estimator, self.refused):
            raise ValueError(
                f"{name} leaves the player without a gradient where the critic has won, or while its balance is 0; got "
                f"{estimator}. Use NonSaturating() or IPM(), which minimise the energy."
            )
        if self.needs_features:
            _with_features(critic)

    @abstractmethod
    def loss(self, estimator: CriticEstimator, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """What the player minimises.

        Arguments:
            estimator: what the critic learns.
            critic: the critic.
            num: values of the sites, (B, *event) each.
            den: values of the same sites, (B', *event) each.

        Returns:
            A scalar.
        """


@final
class Minimax(PlayerObjective):
    """Minus the critic's loss, the zero-sum game.

    With the optimal critic it is the divergence that the estimator bounds (up to a constant and a factor), and its
    gradient that of the divergence; with any other the lower bound that the critic has reached. Where the critic wins
    easily most losses are flat, and the player learns slowly.

    References:
        Goodfellow et al. (2014), Generative Adversarial Nets, equation 1, arXiv:1406.2661; Nowozin, Cseke and Tomioka
        (2016), f-GAN, equation 5, arXiv:1606.00709.
    """

    refused = (EnergyMargin, BoundaryEquilibrium)

    def loss(self, estimator: CriticEstimator, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """Minus the critic's loss."""
        return -estimator.criterion(*_scores(critic, num, den))


@final
class NonSaturating(PlayerObjective):
    r"""The critic's loss with exchanged labels, of den and of num.

    With ``Logistic`` it is the usual :math:`-E_{den} \log \sigma(s)`, plus :math:`-E_{num} \log(1 - \sigma(s))`, which
    is a constant in a GAN and the encoder's loss in ALI. With the optimal critic and num fixed its gradient is that of
    KL(den || num) - 2 JSD, no divergence, and not that of the critic's game; but it is steep where the critic wins.
    ``LeastSquares`` takes its label c. ``Hinge`` stops at its margin, where the player has won; its usual partner is
    ``IPM``. With ``Relativistic`` it is the player's loss of the paper.

    References:
        Goodfellow et al. (2014), section 3, arXiv:1406.2661; Arjovsky and Bottou (2017), Towards principled methods for
        training GANs, theorem 2.5 (the gradient), arXiv:1701.04862; Dumoulin et al. (2017), Adversarially Learned
        Inference, section 2.2 and algorithm 1, arXiv:1606.00704; Nowozin, Cseke and Tomioka (2016), section 3.2,
        arXiv:1606.00709.
    """

    def loss(self, estimator: CriticEstimator, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """The critic's loss with exchanged labels."""
        return estimator.flipped(*_scores(critic, num, den))


@final
class ReverseKL(PlayerObjective):
    r"""KL(den || num) through the critic's log-ratio, :math:`-E_{den} \log p_{num} / p_{den}`, in nats.

    A ratio estimate, not a bound. With the optimal critic its gradient is that of the divergence: the part through
    den's density in the ratio, which the critic holds fixed, has mean zero. Where the draws of num carry a gradient
    (a model that is learned, say) it is added, by the dual of Donsker and Varadhan, :math:`-\log E_{num} p_{den} /
    p_{num}`, with the ratios normalised over the batch: a bias of the order of 1 / B. It changes the gradient and not
    the value.

    References:
        Mescheder, Nowozin and Geiger (2017), Adversarial Variational Bayes, propositions 1 and 2, arXiv:1701.04722;
        Tran, Ranganath and Blei (2017), Hierarchical Implicit Models, arXiv:1702.08896.
    """

    needs_log_ratio = True

    def loss(self, estimator: CriticEstimator, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """Minus the mean log-ratio of den."""
        kl = -estimator.log_ratio(critic(*den)).mean()
        if any(value.requires_grad for value in num):
            tilted = _log_mean_exp(-estimator.log_ratio(critic(*num)))
            kl = kl - tilted + tilted.detach()
        return kl


@final
class ForwardKL(PlayerObjective):
    r"""KL(num || den) through the critic's log-ratio and importance weights, in nats.

    KL(num || den) is the supremum over v of :math:`E_{num} v - E_{den} e^v + 1`, reached where v is the log-ratio. By
    the envelope theorem its gradient through the draws x of den is

    .. math:: -E_{den} [ w \, \partial_x v \, \partial x ], \qquad w = e^{v(x)},

    and through those of num that of :math:`E_{num} v`. Normalised over the batch, the weights w sum to B, and the dual
    is that of Donsker and Varadhan, :math:`E_{num} v - \log E_{den} e^v`: a constant error of the log-ratio then does
    no harm, nor one draw more than all of them, at the price of a bias of the order of 1 / B (the value is too large,
    the gradient as that of importance sampling). Not normalised, value and gradient are unbiased for those of the dual,
    a lower bound, and their variance may be without limit.

    References:
        Nguyen, Wainwright and Jordan (2010), arXiv:0809.0853; Nowozin, Cseke and Tomioka (2016), f-GAN, table 1,
        arXiv:1606.00709; Belghazi et al. (2018), Mutual Information Neural Estimation, section 3.2, arXiv:1801.04062.

    Arguments:
        self_normalized: whether the weights are normalised over the batch.

    Raises:
        TypeError: it is no bool.
    """

    needs_log_ratio = True

    def __init__(self, self_normalized: bool = True) -> None:
        if not isinstance(self_normalized, bool):
            raise TypeError(f"self_normalized must be a bool; got {self_normalized!r}. True is the stabler.")
        self.self_normalized = self_normalized

    def loss(self, estimator: CriticEstimator, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """The dual of KL(num || den) at the critic."""
        above, below = (estimator.log_ratio(scores) for scores in _scores(critic, num, den))
        if self.self_normalized:
            return above.mean() - _log_mean_exp(below)
        return above.mean() - below.expm1().mean()


@final
class IPM(PlayerObjective):
    r"""The difference of the mean scores, :math:`E_{num} s - E_{den} s`.

    The player of Wasserstein GANs (an integral probability metric, if the critic is the best of a class), of hinge GANs
    and of energies; with an estimator whose score is the log-ratio its gradient for den is that of ``ReverseKL``.
    Unbiased.

    References:
        Arjovsky, Chintala and Bottou (2017), Wasserstein GAN, theorem 3, arXiv:1701.07875; Lim and Ye (2017), Geometric
        GAN, arXiv:1705.02894; Zhao, Mathieu and LeCun (2017), equation 2, arXiv:1609.03126.
    """

    def loss(self, estimator: CriticEstimator, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """The difference of the means."""
        above, below = _scores(critic, num, den)
        return above.mean() - below.mean()


@final
class FeatureMatching(PlayerObjective):
    r"""The squared distance of mean features, :math:`\| E_{num} h - E_{den} h \|^2`, h being the critic's.

    Biased upwards by the variance of the means of a batch. In pairs, it is the mean squared distance of the features of
    row i of num and row i of den, :math:`E \| h_i - h'_i \|^2`: a reconstruction error in the critic's eyes, and
    unbiased. Sums over features, in their squared units.

    References:
        Salimans et al. (2016), Improved Techniques for Training GANs, section 3.1, arXiv:1606.03498; Larsen et al.
        (2016), Autoencoding beyond pixels using a learned similarity metric (pairs), arXiv:1512.09300.

    Arguments:
        paired: whether rows are compared one by one.

    Raises:
        TypeError: it is no bool.
        ValueError: at the call, when there are no pairs.
    """

    needs_features = True

    def __init__(self, paired: bool = False) -> None:
        if not isinstance(paired, bool):
            raise TypeError(f"paired must be a bool; got {paired!r}. False compares the means over the batch.")
        self.paired = paired

    def loss(self, estimator: CriticEstimator, critic: nn.Module, num: Values, den: Values) -> Tensor:
        """The squared distance."""
        above, below = (_with_features(critic).features(*values) for values in (num, den))
        if not self.paired:
            return (above.mean(dim=0) - below.mean(dim=0)).square().sum()
        if len(above) != len(below):
            raise ValueError(
                f"FeatureMatching(paired=True) compares row with row; got {len(above)} rows of num and {len(below)} of "
                "den. Draw as many of each, or compare the means."
            )
        return (above - below).square().reshape(len(above), -1).sum(dim=1).mean()


def _with_features(critic: nn.Module) -> CriticModule:
    if not isinstance(critic, CriticModule) or not critic.has_features:
        raise ValueError(
            f"feature matching compares a critic's features; got a {type(critic).__name__} without any. Write "
            "Critic(net, features=network)."
        )
    return critic


def _scores(critic: nn.Module, num: Values, den: Values) -> tuple[Tensor, Tensor]:
    scores = critic(*num), critic(*den)
    check_scores(*scores, "a player's objective")
    return scores


def _log_mean_exp(values: Tensor) -> Tensor:
    return values.logsumexp(dim=0) - math.log(len(values))
