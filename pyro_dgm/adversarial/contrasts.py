"""Terms with a critic: two sources of draws compared by what a network learns of their difference."""

__all__ = ["AdversarialTerm", "Contrast", "Readings"]

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from pyro_dgm.adversarial.arguments import check_sites
from pyro_dgm.adversarial.estimators import CriticEstimator, Logistic
from pyro_dgm.adversarial.objectives import NonSaturating, PlayerObjective
from pyro_dgm.adversarial.penalties import Penalty
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.expectations import check_names
from pyro_dgm.infer.objective import check_kind
from pyro_dgm.infer.programs import Program
from pyro_dgm.infer.ratios import RatioLikelihood
from pyro_dgm.infer.rows import read, stands_for
from pyro_dgm.infer.sources import Source
from pyro_dgm.infer.term import Term
from pyro_dgm.nn.modes import in_evaluation_mode


class Readings(NamedTuple):
    """The values of a term's sites under its two sources, (B, *event) each, in the order of the sites."""

    num: tuple[Tensor, ...]
    den: tuple[Tensor, ...]

    def detached(self) -> "Readings":
        """The same numbers without a gradient."""
        return Readings(*(tuple(value.detach() for value in side) for side in self))


class AdversarialTerm(Term):
    """A term with a second player: a critic that minimises a loss of its own at the draws of both sources.

    ``loss_of`` is what model and guide minimise; the critic must stand still meanwhile, as ``AdversarialTrainer``
    sees to it.
    """

    needs_runs = False
    learns = True
    """Whether the critic learns from this term."""
    has_trainer = False
    """Whether somebody trains the critic, and sees to it that model and guide do not."""

    @abstractmethod
    def readings(self, draws: Draws) -> Readings:
        """What the critic is shown."""

    @abstractmethod
    def critic_loss(self, readings: Readings) -> tuple[Tensor, dict[str, Tensor]]:
        """What the critic minimises, a scalar, and what there is to tell of it, as scalars by name."""

    @abstractmethod
    def critic_score(self, readings: Readings) -> Tensor:
        """The critic's loss without penalties, by which batches are compared; it changes no state."""

    @abstractmethod
    def critic_parts(self) -> Mapping[str, nn.Module]:
        """What the critic learns with and remembers, by name."""

    def after_critic_step(self) -> None:
        """Is called after each update of the critic."""

    def check_frozen(self) -> None:
        """Raises where model and guide would be trained beside a critic that moves along with their loss."""
        if self.has_trainer or not torch.is_grad_enabled():
            return
        moving = [
            f"{name}.{key}"
            for name, part in self.critic_parts().items()
            for key, parameter in part.named_parameters()
            if parameter.requires_grad
        ]
        if moving:
            raise ValueError(
                "a critic stands still while model and guide are trained, and minimises its own loss; got one that "
                f"is to be trained by theirs: {moving[:3]}. Use AdversarialTrainer, or freeze a trained critic with "
                "requires_grad_(False)."
            )


@final
class Contrast(AdversarialTerm):
    r"""Two joint distributions over some sites, compared by a critic that tells their draws apart.

    What the critic learns (``estimator``) and what model and guide then minimise (``objective``) are chosen
    independently. ``Contrast("x", DATA, P, critic)`` is a GAN; ``Contrast(["x", "z"], Q, P, critic)`` adversarially
    learned inference; ``Contrast("z", P, Q, critic)`` beside a reconstruction an adversarial autoencoder;
    ``Contrast(["x", "z"], P.observed(), Q, critic, objective=ReverseKL())`` beside one adversarial variational Bayes.

    The loss is in nats per datum where the objective is a divergence, times the number N of data, so that it adds to
    bounds. It is an estimate by a critic that is never optimal: not a bound, in either direction. Masks of the programs
    do not reach it: every row is shown.

    References:
        Goodfellow et al. (2014), Generative Adversarial Networks, arXiv:1406.2661; Mohamed and Lakshminarayanan (2016),
        Learning in Implicit Generative Models, arXiv:1610.03483; Hu, Yang, Salakhutdinov and Xing (2018), On Unifying
        Deep Generative Models, arXiv:1706.00550.

    Arguments:
        sites: one name or several: sites, or tensors among the programs' arguments, such as a context. The critic
            is called with their values in this order, (B, *event) each.
        num: the source that the critic gives high scores: the numerator of the ratio it learns.
        den: the other source.
        critic: a ``Critic``, or any module from these values to scores, (B,). Two contrasts may share one.
        estimator: what the critic learns; ``Logistic()`` when None.
        objective: what model and guide minimise; ``NonSaturating()`` when None.
        penalties: on the critic, added to its loss.
        weight: of the objective in the loss of model and guide.
        learns: whether the critic learns from this contrast, or is only read, as trained by another.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the sources are equal, the weight is not finite, the objective needs a log-ratio and the estimator
            yields none; at the first step, when a site is missing.
    """

    def __init__(
        self,
        sites: str | Sequence[str],
        num: Source,
        den: Source,
        critic: nn.Module,
        estimator: CriticEstimator | None = None,
        objective: PlayerObjective | None = None,
        penalties: Sequence[Penalty] = (),
        weight: float = 1.0,
        *,
        learns: bool = True,
    ) -> None:
        super().__init__()
        self.sites = check_names(sites, "Contrast")
        for source in (num, den):
            check_kind("a source of Contrast", source, Source, "P, Q or DATA", "Import them from pyro_dgm.infer.")
        if num == den and not num.shuffled_sites:
            raise ValueError(f"a contrast compares two sources; got {num} twice. For instance num=DATA, den=P.")
        check_kind("the critic of Contrast", critic, nn.Module, "a module", "Wrap a network in Critic(net).")
        self.estimator = Logistic() if estimator is None else estimator
        self.objective = NonSaturating() if objective is None else objective
        check_kind("the estimator of Contrast", self.estimator, CriticEstimator, "a CriticEstimator", "Try Logistic().")
        check_kind("the objective of Contrast", self.objective, PlayerObjective, "an objective", "Try NonSaturating().")
        for penalty in penalties:
            check_kind("a penalty of Contrast", penalty, Penalty, "a Penalty", "For instance penalties=[R1(1.0)].")
        check_kind("the weight of Contrast", weight, int | float, "a number", "1 is the default.")
        if not math.isfinite(weight):
            raise ValueError(f"the weight of Contrast must be finite; got {weight}. 1 is the default.")
        self.objective.check(self.estimator, critic)
        if self.objective.needs_log_ratio:
            _check_single(critic)
        self.num, self.den, self.critic = num, den, critic
        self.penalties, self.weight, self.learns = tuple(penalties), weight, learns

    def readings(self, draws: Draws) -> Readings:
        """The sites' values under both sources."""
        return Readings(*check_sites(read(draws, self.num, self.sites), read(draws, self.den, self.sites), "Contrast"))

    def loss_of(self, draws: Draws) -> Tensor:
        """The objective times weight and number N of data."""
        self.check_frozen()
        num, den = self.readings(draws)
        return stands_for(draws) * self.weight * self.objective.loss(self.estimator, self.critic, num, den)

    def critic_loss(self, readings: Readings) -> tuple[Tensor, dict[str, Tensor]]:
        """The estimator's loss and the penalties; how often the critic is right, and its mean log-ratios in nats."""
        num, den = self.critic(*readings.num), self.critic(*readings.den)
        loss = self.estimator.loss(num, den)
        penalties = [penalty(self.critic, *readings) for penalty in self.penalties]
        return loss + sum(penalties), self._facts(num.detach(), den.detach(), penalties)

    def critic_score(self, readings: Readings) -> Tensor:
        """The estimator's loss."""
        return self.estimator.criterion(self.critic(*readings.num), self.critic(*readings.den))

    def critic_parts(self) -> Mapping[str, nn.Module]:
        """Critic, estimator and penalties."""
        penalties = {f"penalty_{i}": penalty for i, penalty in enumerate(self.penalties)}
        return {"critic": self.critic, "estimator": self.estimator, **penalties}

    def after_critic_step(self) -> None:
        """Clips the critic's weights, if it has limits."""
        after = getattr(self.critic, "after_step", None)
        if after is not None:
            after()

    def log_ratio(self, *values: Tensor) -> Tensor:
        r"""The learned :math:`\log p_\mathrm{num} / p_\mathrm{den}` at values of the sites, in nats, (B,).

        Exact for an optimal critic only, which is in evaluation mode meanwhile; see ``as_likelihood`` for a model that
        is scored by it.

        Raises:
            ValueError: the estimator yields no ratio, or the critic scores several rows at once.
        """
        _check_single(self.critic)
        with in_evaluation_mode([self.critic]):
            return self.estimator.log_ratio(self.critic(*values))

    def as_likelihood(self, model: Program, observed: str | None = None) -> RatioLikelihood:
        """A model whose implicit observation is scored by the learned log-ratio: for SVI, importance sampling or NUTS.

        The critic must be trained, and the ratio one of pairs: of P to ``P.shuffled`` latents, say, whose log-ratio is
        log p(x | z) - log p(x).

        Arguments:
            model: the model, whose sites are those of this contrast.
            observed: the implicit observation; the first site when None.

        Raises:
            ValueError: the estimator yields no ratio, or the observation is none of the sites.
        """
        if not self.estimator.has_log_ratio:
            self.estimator.log_ratio(torch.zeros(1))  # says so
        return RatioLikelihood(model, self.log_ratio, self.sites, observed)

    def _facts(self, num: Tensor, den: Tensor, penalties: Sequence[Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            right = self.estimator.accuracy(num, den)
            facts = {"accuracy_num": right[0], "accuracy_den": right[1]}
            if self.estimator.has_log_ratio:
                facts["log_ratio_num"] = self.estimator.log_ratio(num).mean()
                facts["log_ratio_den"] = self.estimator.log_ratio(den).mean()
            if penalties:
                facts["penalty"] = torch.stack([penalty.detach() for penalty in penalties]).sum()
        return facts


def _check_single(critic: nn.Module) -> None:
    """Raises where a score is of several rows: its log-ratio is theirs together."""
    pac = getattr(critic, "pac", 1)
    if pac > 1:
        raise ValueError(
            f"a log-ratio is taken datum by datum; got a critic that packs {pac} rows. Use pac=1, or an objective "
            "without a log-ratio such as NonSaturating()."
        )
