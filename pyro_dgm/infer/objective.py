"""What is minimised, in general: a bound of log-weights, and the estimator of its gradient."""

__all__ = ["Objective", "Part", "ParticleTerm", "check_kind", "without_model"]

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dgm.infer.baselines import Baseline
from pyro_dgm.infer.checks import check_weights_are_per_datum
from pyro_dgm.infer.draws import Completed, Draws
from pyro_dgm.infer.estimators import BIASED, check_estimator
from pyro_dgm.infer.log_weights import LogWeights, weigh
from pyro_dgm.infer.programs import check_num_particles
from pyro_dgm.infer.relaxations import Relaxation
from pyro_dgm.infer.schedules import Schedule
from pyro_dgm.infer.term import Term

_MOVES = ("both", "model", "guide")
_COUNTED = "Leave it None, and the plates are counted."


class ParticleTerm(Term):
    """A term that draws K latents per datum from the guide, each with its gradient estimator.

    Arguments:
        num_particles: number K of latents drawn per datum.
        options: see ``Objective``.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        gradient: str = "auto",
        baseline: Baseline | None = None,
        relaxation: Relaxation | None = None,
        vectorize_particles: bool = True,
        max_plate_nesting: int | None = None,
    ) -> None:
        super().__init__(num_particles=check_num_particles(num_particles))
        name = type(self).__name__
        self.gradient = check_estimator(gradient, name)
        cure = "Pass Baseline(net), or None for its running mean."
        check_kind(f"the baseline of {name}", baseline, Baseline | None, "a Baseline", cure)
        cure = "Pass for instance Relaxation(0.5), or None for a plain one."
        check_kind(f"the relaxation of {name}", relaxation, Relaxation | None, "a Relaxation", cure)
        check_kind(f"vectorize_particles of {name}", vectorize_particles, bool, "a bool", "True is the default.")
        check_kind(f"max_plate_nesting of {name}", max_plate_nesting, int | None, "a whole number", _COUNTED)
        if max_plate_nesting is not None and max_plate_nesting < 0:
            raise ValueError(f"max_plate_nesting of {name} must be at least 0; got {max_plate_nesting}. {_COUNTED}")
        self.baseline = Baseline() if baseline is None else baseline
        if relaxation is None and gradient in ("rebar", *BIASED):
            relaxation = Relaxation().requires_grad_(gradient == "rebar")  # the others take the temperature as it is
        self.relaxation = relaxation
        self.vectorize_particles = vectorize_particles
        self.max_plate_nesting = max_plate_nesting
        self.supports: dict[str, Tensor] | None = None
        self.latent_weight = 1.0
        self.needs_densities = True
        self.is_explicit = self.is_repeatable = False

    def sampler(self) -> "ParticleTerm":
        """Itself."""
        return self

    def parts(self) -> Mapping[str, nn.Module]:
        """Baseline and relaxation."""
        parts: dict[str, nn.Module] = {"baseline": self.baseline}
        return parts if self.relaxation is None else {**parts, "relaxation": self.relaxation}

    def schedules(self) -> Sequence[Schedule]:
        """That of the temperature, if it follows one."""
        schedule = None if self.relaxation is None else self.relaxation.schedule
        return () if schedule is None else (schedule,)


class Objective(ParticleTerm):
    """A bound to maximise.

    As in Pyro, a loss is minus the bound summed over the N data the plate stands for, in nats.

    The bound, a function of the log-weights, and the estimator of its gradient are chosen independently of each other.
    The estimator is the objective's, or a latent's own: ``infer={"pyro_dgm": {"gradient": "stl"}}`` at a guide site.
    ``"auto"`` is ``"reparam"`` where a latent has reparameterised samples; elsewhere ``"loo"``, or ``"nvil"`` with a
    single particle. ``pyro_dgm.infer.gradients`` says what each of them is, and which are biased when.

    Arguments:
        num_particles: number K of latents drawn per datum.
        gradient: ``"auto"``; for continuous latents ``"reparam"``, ``"stl"``, ``"dreg"``; for any latents ``"score"``,
            ``"loo"``, ``"nvil"``; for discrete ones ``"rebar"``, ``"relax"``, ``"disarm"``, ``"enumerate"``, and the
            biased ``"straight_through"`` and ``"gumbel"``, while continuous ones beside them take ``"reparam"``.
        baseline: what ``"nvil"`` subtracts from the learning signal; its running mean when None.
        relaxation: temperature, and for ``"relax"`` the network, of relaxed draws; a plain one when None.
        moves: whose parameters get a gradient: ``"both"``, ``"model"`` or ``"guide"``.
        vectorize_particles: draw them side by side (the default), along a plate to the left of all others, or in turn.
        max_plate_nesting: how many plate dimensions the programs use; found by running them once when None and needed.

    Raises:
        TypeError: an option is of another kind than it says here.
        ValueError: ``num_particles`` is below 1, ``max_plate_nesting`` below 0, or the gradient or ``moves`` unknown;
            at the first step, when model and guide do not fit together, or a latent and its estimator.
    """

    is_linear = False
    """Whether the bound is the mean of the log-weights, a sum over sites."""
    is_smooth = True
    """Whether the bound's derivatives are continuous."""

    def __init__(self, num_particles: int = 1, *, moves: str = "both", **options: Any) -> None:
        super().__init__(num_particles, **options)
        if moves not in _MOVES:
            raise ValueError(
                f"the moves of {type(self).__name__} must be one of {_MOVES}; got {moves!r}. 'both' trains model and "
                "guide."
            )
        self.moves = moves
        if self.gradient == "enumerate" and num_particles > 1 and not self.is_linear:
            raise ValueError(
                "exact summation is over the values of one draw, not over all K-tuples of them; got "
                f"gradient='enumerate' with num_particles={num_particles} for {type(self).__name__}. Use one particle, "
                "ELBO, or gradient='loo'."
            )

    @abstractmethod
    def bound_of(self, log_weights: Tensor) -> Tensor:
        """The bound of each datum, (B,), from its log-weights, (K, B)."""

    def loss_of(self, draws: Draws) -> Tensor:
        """Minus the bound, a scalar whose gradient is the estimators'."""
        if self.moves == "model":
            completed = draws.detached(self)
        else:
            completed = draws.completed(self, is_cut=self.moves == "guide")
        if not torch.is_grad_enabled():
            return -self.bound(completed)
        if self.moves == "model":
            return -self.bound(completed, _without_guide)
        correction = completed.estimation.correction(completed.runs, self.bound_of, self.is_linear, self.is_smooth)
        if self.moves == "both":
            return -(self.bound(completed) + correction)
        through = completed.estimation.through_draws(completed.runs, self.bound(completed))
        return -(self.bound(completed, without_model) + through + correction)

    def bound(self, completed: Completed, part: "Part | None" = None) -> Tensor:
        """The bound, summed over the N data.

        Arguments:
            completed: the draws.
            part: takes one program's gradient away from the weights.
        """
        runs = completed.runs
        check_weights_are_per_datum(runs[0], type(self).__name__)
        weights = [weigh(traces) for traces in runs]
        local = torch.cat([(part(own) if part else own).local for own in weights])  # (K, B)
        return runs[0].scale * self.bound_of(completed.estimation.expected(runs, local)).sum()


def check_kind(name: str, value: Any, kind: type | UnionType, words: str, cure: str) -> None:
    """Raises a ``TypeError`` where an argument is of another kind; a bool is no number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} must be {words}; got {value!r}. {cure}")


Part = Callable[[LogWeights], LogWeights]


def _without_guide(weights: LogWeights) -> LogWeights:
    """The weights with a gradient for the model alone."""
    return weights._replace(log_q=weights.log_q.detach(), global_log_q=weights.global_log_q.detach())


def without_model(weights: LogWeights) -> LogWeights:
    """The weights with a gradient for the guide alone."""
    return weights._replace(log_p=weights.log_p.detach(), global_log_p=weights.global_log_p.detach())
