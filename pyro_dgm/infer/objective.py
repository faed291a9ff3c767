"""What is minimised, in general: a bound of log-weights, and the estimator of its gradient."""

__all__ = ["BoundObjective", "Objective"]

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import pyro.infer
import torch
from torch import Tensor, nn

from pyro_dgm.infer.baselines import Baseline
from pyro_dgm.infer.checks import check_gradients, check_traces, check_weights_are_per_datum
from pyro_dgm.infer.estimators import Estimation, check_estimator
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.programs import (
    DrawHandler,
    Program,
    Traces,
    check_num_particles,
    count_plates,
    module_of,
    run,
    run_in_turn,
)


class BoundObjective(nn.Module):
    """An objective bound to its two programs: a module whose call gives the loss of a batch.

    Its parameters are the programs' own, also where a program is a bound method of a module.

    Arguments:
        objective: what is minimised.
        model: a Pyro program that is a module, or a method of one.
        guide: likewise.

    Raises:
        ValueError: neither program is, or belongs to, a module; at the call, when they have no parameter to train
            (an AutoGuide has its parameters after its first call, so call this once before making the optimiser).
    """

    def __init__(self, objective: "Objective", model: Program, guide: Program) -> None:
        super().__init__()
        self.objective = objective
        self.model_module, self.guide_module, self.baseline = module_of(model), module_of(guide), objective.baseline
        self._programs = (model, guide)
        if self.model_module is None and self.guide_module is None:
            self._refuse("no module")

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the loss of a batch, a scalar: minus the bound, summed over the data."""
        loss = self.objective.differentiable_loss(*self._programs, *args, **kwargs)
        programs = [module for module in (self.model_module, self.guide_module) if module is not None]
        if not any(True for module in programs for _ in module.parameters()):
            self._refuse("no parameter")
        return loss

    def _refuse(self, found: str) -> NoReturn:
        raise ValueError(
            f"objective(model, guide) needs a module with parameters; got {found} in either program. Write the "
            "programs as PyroModules, or pass them to SVI, which trains pyro.param and pyro.module parameters."
        )


class Objective(pyro.infer.ELBO):
    """A bound to maximise, in each of the three ways Pyro users ask for one.

    - ``SVI(model, guide, optim, objective)`` calls ``loss`` and ``loss_and_grads``;
    - ``objective(model, guide)`` is a module whose call is ``differentiable_loss``;
    - ``objective.differentiable_loss(model, guide, *args)`` is a scalar to call ``backward()`` on.

    As in Pyro, a loss is minus the bound summed over the N data the plate stands for, in nats.

    The bound, a function of the log-weights, and the estimator of its gradient are chosen independently of each other.
    The estimator is the objective's, or a latent's own: ``infer={"pyro_dgm": {"gradient": "stl"}}`` at a guide site.
    ``"auto"`` is ``"reparam"`` where a latent has reparameterised samples; elsewhere ``"loo"``, or ``"nvil"`` with a
    single particle. ``pyro_dgm.infer.gradients`` says what each of them is, and which are biased when.

    Arguments:
        num_particles: number K of latents drawn per datum.
        gradient: ``"auto"``, ``"reparam"``, ``"stl"``, ``"dreg"``, ``"score"``, ``"loo"`` or ``"nvil"``.
        baseline: what ``"nvil"`` subtracts from the learning signal; its running mean when None.
        vectorize_particles: draw them side by side (the default), along a plate to the left of all others, or in turn.
        max_plate_nesting: how many plate dimensions the programs use; found by running them once when None and needed.

    Raises:
        TypeError: ``num_particles`` is not an integer.
        ValueError: ``num_particles`` is below 1, or the gradient unknown; at the first step, when model and guide do
            not fit together, or a latent and its estimator.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        gradient: str = "auto",
        baseline: Baseline | None = None,
        vectorize_particles: bool = True,
        max_plate_nesting: int | None = None,
    ) -> None:
        super().__init__(num_particles=check_num_particles(num_particles))
        self.gradient = check_estimator(gradient, "the objective")
        self.baseline = Baseline() if baseline is None else baseline
        self.vectorize_particles = vectorize_particles
        self.max_plate_nesting = max_plate_nesting

    def __call__(self, model: Program, guide: Program) -> BoundObjective:
        """Binds the objective to two programs; the result is a module whose call gives the loss."""
        return BoundObjective(self, model, guide)

    @abstractmethod
    def bound_of(self, log_weights: Tensor) -> Tensor:
        """The bound of each datum, (B,), from its log-weights, (K, B)."""

    def bound(self, runs: Sequence[Traces]) -> Tensor:
        """The bound, summed over the N data, from one run of K particles or from K runs of one."""
        check_weights_are_per_datum(runs[0], type(self).__name__)
        weights = torch.cat([weigh(traces).local for traces in runs])  # (K, B)
        return runs[0].scale * self.bound_of(weights).sum()

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, a scalar whose gradient is the estimator's."""
        if not torch.is_grad_enabled():
            return -self.bound(self._get_traces(model, guide, args, kwargs))
        estimation = Estimation(guide, args, kwargs, self.gradient, self.num_particles, self.baseline)
        runs = self._get_traces(model, guide, args, kwargs, estimation)
        estimation.rescore(runs)
        check_gradients(runs[0], model, guide, estimation.scored)
        return -(self.bound(runs) + estimation.correction(runs, self.bound_of))

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, a scalar without gradient."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, its gradient added to the parameters' ``grad``."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.detach()

    def _get_trace(self, model: Program, guide: Program, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Traces:
        return self._get_traces(model, guide, args, kwargs)[0]

    def _get_traces(
        self,
        model: Program,
        guide: Program,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        draws: DrawHandler | None = None,
    ) -> list[Traces]:
        if self.vectorize_particles and self.num_particles > 1:
            if self.max_plate_nesting is None:
                self.max_plate_nesting = count_plates(model, guide, args, kwargs)
            runs = [run(model, guide, args, kwargs, self.num_particles, self.max_plate_nesting, draws)]
        else:
            runs = run_in_turn(model, guide, args, kwargs, self.num_particles, draws)
        check_traces(runs[0])
        return runs
