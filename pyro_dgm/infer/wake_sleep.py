"""Wake-sleep and its kin: objectives whose guide learns at fixed points, each point with its weight."""

__all__ = ["ForwardKL", "ReweightedWakeSleep", "TailAdaptive", "WakeSleep"]

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from pyro_dgm.infer import bounds
from pyro_dgm.infer.checks import check_reads_data, check_scores_any_point, check_weights_are_per_datum
from pyro_dgm.infer.draws import Completed, Draws
from pyro_dgm.infer.estimation import Sampler
from pyro_dgm.infer.expectations import NLL
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.objective import ParticleTerm, without_model
from pyro_dgm.infer.objectives import IWAE
from pyro_dgm.infer.programs import Program
from pyro_dgm.infer.schedules import Schedule
from pyro_dgm.infer.sources import P
from pyro_dgm.infer.term import Term


@final
class ForwardKL(ParticleTerm):
    r"""The inclusive divergence :math:`\mathrm{KL}(p(z | x) \| q(z | x))`, which moves the guide only: wake-phi.

    Its gradient :math:`-\sum_k \tilde w_k \nabla_\phi \log q(z_k | x)` has self-normalised weights, per datum, and is
    biased for finite K, less so the larger K is; the loss is the estimate of the divergence in nats with the same
    weights. ``"score"``, the default, takes the draws as numbers, of any kind; ``"dreg"`` has the same expectation and
    less noise for reparameterised latents, and none where the guide is exact.

    References:
        Bornschein and Bengio (2015), Reweighted Wake-Sleep, equation 9, arXiv:1406.2751; Tucker, Lawson, Gu and
        Maddison (2019), equation 11, arXiv:1810.04152 (``"dreg"``).

    Arguments:
        num_particles: number K of latents drawn per datum, at least 2: a single weight is always 1.
        gradient: ``"score"`` or ``"dreg"``.
        options: ``vectorize_particles`` and ``max_plate_nesting`` of ``Objective``.

    Raises:
        ValueError: there are fewer than 2 particles, or another gradient is asked for; at the first step, as for
            ``IWAE``, or when a latent cannot be scored or has no path.
    """

    def __init__(self, num_particles: int, *, gradient: str = "score", **options: Any) -> None:
        super().__init__(num_particles, gradient=gradient, **options)
        _check_several(num_particles, "ForwardKL")
        if gradient not in ("score", "dreg"):
            raise ValueError(
                f"the gradient of ForwardKL must be 'score' or 'dreg'; got {gradient!r}. 'score' fits all."
            )

    def check_guide(self, guide: Program) -> None:
        """Raises where the guide cannot score given points, which its own draws are when their path is cut."""
        check_scores_any_point(guide, "ForwardKL")

    def loss_of(self, draws: Draws) -> Tensor:
        """The divergence, summed over the N data."""
        completed = draws.completed(self, is_cut=True)
        log_weights = _local_weights(completed, "ForwardKL").detach()
        normalized = log_weights.softmax(0)
        weighted = torch.where(normalized == 0, 0.0, normalized * log_weights).sum(0)
        divergence = (weighted - bounds.iwae(log_weights)).sum()
        if not torch.is_grad_enabled():
            gain = divergence.new_zeros(())
        elif self.gradient == "dreg":
            gain = _along_paths(completed, normalized - normalized.square())
        else:
            log_q = torch.cat([weigh(traces).log_q for traces in completed.runs])
            gain = (normalized * log_q).sum()
        return completed.runs[0].scale * (divergence - (gain - gain.detach()))


@final
class TailAdaptive(ParticleTerm):
    r"""A divergence whose weights are made of the ranks of the importance weights, so that no draw can dominate.

    The guide ascends :math:`\sum_k \gamma_k \partial_z \log w_k \, \partial_\phi z_k`, where :math:`\gamma_k` is
    proportional to the beta-th power of the share of draws whose weight is at least that of draw k; with beta = 0 it
    is the ELBO's sticking-the-landing gradient. It moves the guide only and needs reparameterised latents. The loss
    reported is minus the ELBO of the same draws; there is no bound whose gradient this is.

    References:
        Wang, Liu and Liu (2018), Variational Inference with Tail-adaptive f-Divergence, algorithm 1, arXiv:1810.11943.

    Arguments:
        num_particles: number K of latents drawn per datum, at least 2.
        beta: the power; -1 is the paper's.
        options: ``vectorize_particles`` and ``max_plate_nesting`` of ``Objective``.

    Raises:
        ValueError: there are fewer than 2 particles, or beta is not finite; at the first step, as for ``IWAE``, or when
            a latent has no path.
    """

    def __init__(self, num_particles: int, *, beta: float = -1.0, **options: Any) -> None:
        super().__init__(num_particles, gradient="dreg", **options)
        _check_several(num_particles, "TailAdaptive")
        if not math.isfinite(beta):
            raise ValueError(f"beta must be a finite number; got {beta}. The paper's is -1.")
        self.beta = beta

    def loss_of(self, draws: Draws) -> Tensor:
        """Minus the ELBO in value, the ranked gradient for the guide."""
        completed = draws.completed(self, is_cut=True)
        log_weights = _local_weights(completed, "TailAdaptive").detach()  # (K, B)
        at_least = (log_weights.unsqueeze(0) >= log_weights.unsqueeze(1)).to(log_weights).mean(1)
        factors = at_least.pow(self.beta)
        value = bounds.elbo(log_weights).sum()
        gain = value.new_zeros(())
        if torch.is_grad_enabled():
            gain = _along_paths(completed, factors / factors.sum(0))
        return -completed.runs[0].scale * (value + (gain - gain.detach()))


@final
class WakeSleep(ParticleTerm):
    r"""The wake-sleep algorithm: the model learns at the guide's draws, the guide at the model's dreams.

    ``NLL(of="model", at=Q) + NLL(of="guide", at=P)``, each of which moves its own program only. The sleep phase
    descends :math:`E_{p(x)} \mathrm{KL}(p(z | x) \| q(z | x))`, not the bound's own divergence, so that no single
    objective is minimised; the loss reported is minus the ELBO of the wake phase's draws.

    References:
        Hinton, Dayan, Frey and Neal (1995), The wake-sleep algorithm for unsupervised neural networks, Science 268;
        Dayan, Hinton, Neal and Zemel (1995), The Helmholtz Machine.

    Arguments:
        num_particles: number K of latents drawn per datum in the wake phase.
        options: ``vectorize_particles`` and ``max_plate_nesting`` of ``Objective``.

    Raises:
        ValueError: at the first step, as ``NLL``'s at P.
    """

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, gradient="score", **options)
        self._sleep = NLL(of="guide", at=P)

    def check_guide(self, guide: Program) -> None:
        """Raises where the guide cannot score given points, or does not read the data that it is to dream of."""
        check_scores_any_point(guide, "WakeSleep")
        check_reads_data(guide, "WakeSleep")

    def loss_of(self, draws: Draws) -> Tensor:
        """Minus the ELBO in value; in gradient the wake phase's for the model and the sleep phase's for the guide."""
        completed = draws.completed(self, is_cut=True)
        weights = [weigh(traces) for traces in completed.runs]
        scale = completed.runs[0].scale
        log_p = scale * torch.cat([own.log_p for own in weights]).mean(0).sum()
        log_q = scale * torch.cat([own.log_q for own in weights]).mean(0).sum()
        log_p = log_p + torch.cat([own.global_log_p for own in weights]).mean()
        log_q = log_q + torch.cat([own.global_log_q for own in weights]).mean()
        if not torch.is_grad_enabled():
            return log_q - log_p
        sleep = self._sleep.loss_of(draws)
        return log_q.detach() - log_p + (sleep - sleep.detach())


@final
class ReweightedWakeSleep(Term):
    r"""Reweighted wake-sleep: the model by the importance-weighted bound, the guide by wake and sleep phases.

    - wake-theta: the gradient of ``IWAE`` for the model, always;
    - wake-phi: ``ForwardKL``, with weights per datum (Pyro's has one vector of weights for the whole batch);
    - sleep-phi: ``NLL(of="guide", at=P)``.

    The draws are shared by the two wake phases, and are numbers: any latents will do, as long as the guide can score
    given points. Wake-theta is biased as a gradient of log p(x), as IWAE's; wake-phi is biased for finite K; sleep-phi
    is unbiased for a divergence averaged over the model's data instead of the real ones. The loss reported is minus the
    importance-weighted bound.

    References:
        Bornschein and Bengio (2015), Reweighted Wake-Sleep, equations 5, 9 and 10, arXiv:1406.2751; Le et al. (2019),
        Revisiting Reweighted Wake-Sleep, arXiv:1805.10469.

    Arguments:
        num_particles: number K of latents drawn per datum.
        wake_phi: weight of wake-phi, at least 0.
        sleep_phi: weight of sleep-phi, at least 0; the paper's best nets have both.
        gradient: of wake-phi, ``"score"`` or ``"dreg"``.
        options: ``vectorize_particles`` and ``max_plate_nesting`` of ``Objective``.

    Raises:
        ValueError: a weight is negative, or both are zero; wake-phi has fewer than 2 particles; at the first step, as
            for the three parts.
    """

    def __init__(
        self,
        num_particles: int,
        *,
        wake_phi: float = 1.0,
        sleep_phi: float = 0.0,
        gradient: str = "score",
        **options: Any,
    ) -> None:
        super().__init__(num_particles=num_particles)
        for name, weight in (("wake_phi", wake_phi), ("sleep_phi", sleep_phi)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} must be a number of at least 0; got {weight}. 0 leaves the phase out.")
        if wake_phi == sleep_phi == 0:
            raise ValueError("the guide must learn in one phase; got wake_phi=0 and sleep_phi=0. Set one to 1.")
        self.wake_phi, self.sleep_phi = wake_phi, sleep_phi
        self._theta = IWAE(num_particles, moves="model", gradient="score", **options)
        self._phi = ForwardKL(num_particles, gradient=gradient, **options) if wake_phi > 0 else None
        self._sleep = NLL(of="guide", at=P)

    def check_guide(self, guide: Program) -> None:
        """Raises where the guide cannot score given points or, for the sleep phase, does not read data."""
        check_scores_any_point(guide, "ReweightedWakeSleep")
        if self.sleep_phi > 0:
            check_reads_data(guide, "the sleep phase of ReweightedWakeSleep")

    def loss_of(self, draws: Draws) -> Tensor:
        """Minus the importance-weighted bound in value; in gradient the phases'."""
        guide = []
        if self._phi is not None:
            guide.append(self.wake_phi * self._phi.loss_of(draws))
        loss = self._theta.loss_of(draws)
        if self.sleep_phi > 0:
            guide.append(self.sleep_phi * self._sleep.loss_of(draws))
        total = torch.stack(guide).sum()
        return loss + (total - total.detach())

    def sampler(self) -> Sampler:
        """That of the wake phases."""
        return self._theta if self._phi is None else self._phi

    def parts(self) -> Mapping[str, nn.Module]:
        """None."""
        return {}

    def schedules(self) -> Sequence[Schedule]:
        """None."""
        return ()


def _local_weights(completed: Completed, name: str) -> Tensor:
    check_weights_are_per_datum(completed.runs[0], name)
    return torch.cat([weigh(traces).local for traces in completed.runs])


def _along_paths(completed: Completed, factors: Tensor) -> Tensor:
    """A scalar whose gradient for the guide is that of the log-weights' paths, each times its factor, (K, B)."""
    runs, estimation = completed
    correction = estimation.path_correction(runs, factors)
    total = torch.cat([weigh(traces).local for traces in runs]).sum()
    through = estimation.through_draws(runs, total)
    of_guide = torch.cat([without_model(weigh(traces)).local for traces in runs]).sum()
    return of_guide + through + correction


def _check_several(num_particles: int, name: str) -> None:
    if num_particles < 2:
        raise ValueError(
            f"{name} compares the weights of several draws, so num_particles must be at least 2; got {num_particles}. "
            "5 is a usual choice; with a single draw use ELBO or WakeSleep."
        )
