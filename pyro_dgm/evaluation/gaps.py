"""Where a bound loses: to the family of the guide, or to its amortization."""

__all__ = ["InferenceGaps", "inference_gaps"]

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_dgm.evaluation.batching import Estimate, Piece, pieces
from pyro_dgm.evaluation.evidence import WeightSums, weights_in_parts
from pyro_dgm.infer import ELBO
from pyro_dgm.infer.programs import (
    Program,
    check_num_particles,
    count_plates,
    evaluation_mode,
    fork_rng,
    module_of,
    parameters_met,
)


class InferenceGaps(NamedTuple):
    r"""The log evidence of every datum and two bounds on it, in nats; their differences are the gaps.

    Arguments:
        log_evidence: the best estimate of log p(x) there is, (N,), by importance sampling with the guide or with the
            refitted guide.
        refitted_bound: the ELBO of the guide refitted to each datum alone, :math:`L[q^*]`, (N,).
        amortized_bound: the ELBO of the guide as it is, :math:`L[q]`, (N,).
        evidence_error: Monte Carlo standard error of each ``log_evidence``, (N,), by the delta method.
        refitted_error: Monte Carlo standard error of each ``refitted_bound``, (N,).
        amortized_error: Monte Carlo standard error of each ``amortized_bound``, (N,).
        pareto_k: shape of the tail of the weights that gave the evidence, (N,). Above 0.7 it is not to be trusted.
        num_particles: number of draws behind each bound and each estimate of the evidence.
    """

    log_evidence: Tensor
    refitted_bound: Tensor
    amortized_bound: Tensor
    evidence_error: Tensor
    refitted_error: Tensor
    amortized_error: Tensor
    pareto_k: Tensor
    num_particles: int

    @property
    def approximation_gap(self) -> Tensor:
        r"""What the family loses at its best, :math:`\log p(x) - L[q^*]`, (N,)."""
        return self.log_evidence - self.refitted_bound

    @property
    def amortization_gap(self) -> Tensor:
        r"""What is lost by one network for all data, :math:`L[q^*] - L[q]`, (N,)."""
        return self.refitted_bound - self.amortized_bound

    @property
    def inference_gap(self) -> Tensor:
        r"""What is lost in all, :math:`\log p(x) - L[q]`, (N,)."""
        return self.log_evidence - self.amortized_bound

    @property
    def approximation(self) -> Estimate:
        """The mean approximation gap, with the standard error of sampling the data."""
        return Estimate.of(self.approximation_gap)

    @property
    def amortization(self) -> Estimate:
        """The mean amortization gap, with the standard error of sampling the data."""
        return Estimate.of(self.amortization_gap)

    @property
    def inference(self) -> Estimate:
        """The mean inference gap, with the standard error of sampling the data."""
        return Estimate.of(self.inference_gap)

    def __str__(self) -> str:
        return (
            f"inference gap {self.inference} = approximation gap {self.approximation} + amortization gap "
            f"{self.amortization} nats per datum, {len(self.log_evidence)} data"
        )


def inference_gaps(
    model: Program,
    guide: Program,
    *args: Any,
    num_steps: int = 500,
    learning_rate: float = 1e-3,
    num_particles: int = 10,
    evidence_particles: int = 5000,
    progress: bool = False,
    **kwargs: Any,
) -> InferenceGaps:
    r"""Splits what the guide's bound lacks into the part of its family and the part of its amortization.

    .. math::
        \underbrace{\log p(x) - L[q]}_{\text{inference gap}}
        = \underbrace{\log p(x) - L[q^*]}_{\text{approximation gap}}
        + \underbrace{L[q^*] - L[q]}_{\text{amortization gap}}.

    For each datum a copy of the guide is refitted to that datum alone, all its parameters together, by Adam on the
    ELBO, with a learning rate that falls linearly to zero; the model stays as it is. Its bound is that of
    :math:`q^*`. One datum takes a second or two, so this is for a hundred of them.

    Every gap is an estimate, and its bias has a known side:

    - the refitted bound is unbiased for a guide that may not be the best of its family, so that the amortization gap
      is too small in expectation, and the approximation gap too large by as much. More steps make this less; do the
      numbers stand still when ``num_steps`` is doubled?
    - a refit that does not beat the guide is given up, and the amortization gap is then exactly zero;
    - the evidence is too small in expectation, by about half the relative variance of its weights over the number of
      draws, and so are approximation and inference gap. It is importance sampling with the refitted guide, or with the
      guide where that finds more, by two standard errors.

    What decides are draws that are not used again, so that deciding makes no bias of its own: the larger one of two
    noisy numbers would be too large.

    The programs, their modes, parameters and gradients are left as they were. Modules are in evaluation mode
    meanwhile, the guide's copies as well; the draws come from torch's generator.

    References:
        Cremer, Li and Duvenaud (2018), Inference Suboptimality in Variational Autoencoders, equations 3 to 5,
        arXiv:1801.03558.

    Arguments:
        model: a Pyro program with observed sites.
        guide: its guide, a module or a method of one, whose parameters are its own: they are copied. Those that
            require no gradient stay fixed, unless none of them does.
        args: data, (N, *event), and whatever else both programs take; tensors with N rows are cut into rows.
        num_steps: steps of Adam for each datum.
        learning_rate: of the first step. 1e-3 suits networks with hidden layers; parameters of the posterior itself,
            as a ``PerDatumGuide`` has them, bear 0.05.
        num_particles: draws per step.
        evidence_particles: draws behind each bound and each estimate of the evidence.
        progress: show a bar.
        kwargs: keyword arguments of both programs, cut like ``args``. Those named as this function's own arguments are
            not passed on: bind the programs' own with ``functools.partial``.

    Raises:
        TypeError: the guide is no module, or a number of particles no integer.
        ValueError: a number is out of range, the data are empty, the guide has no parameters or some in Pyro's global
            store alone, the programs do not fit together, or have sites outside the data plate.
    """
    check_num_particles(num_particles)
    for name, count, least in (("num_steps", num_steps, 1), ("evidence_particles", evidence_particles, 2)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name} must be an integer of at least {least}; got {count!r}. The default is usual.")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be a positive number; got {learning_rate}. 1e-3 suits most networks.")
    _check_module(guide)
    found: list[InferenceGaps] = []
    with evaluation_mode(model, guide):
        for piece in pieces(args, kwargs, num_particles=1, max_rows=1, label="inference gaps", progress=progress):
            if not found:
                _check_parameters(guide, piece)
            refitted = _refitted(model, guide, piece, num_steps, learning_rate, num_particles)
            found.append(_compare(model, guide, refitted, piece, evidence_particles))
    return InferenceGaps(
        log_evidence=torch.cat([own.log_evidence for own in found]),
        refitted_bound=torch.cat([own.refitted_bound for own in found]),
        amortized_bound=torch.cat([own.amortized_bound for own in found]),
        evidence_error=torch.cat([own.evidence_error for own in found]),
        refitted_error=torch.cat([own.refitted_error for own in found]),
        amortized_error=torch.cat([own.amortized_error for own in found]),
        pareto_k=torch.cat([own.pareto_k for own in found]),
        num_particles=evidence_particles,
    )


def _compare(model: Program, guide: Program, refitted: Program, piece: Piece, count: int) -> InferenceGaps:
    """The gaps of one datum: first draws decide which guide's numbers are taken, further ones are those numbers."""

    def draw(program: Program) -> Tensor:
        return torch.cat(list(weights_in_parts(model, program, piece, count)))  # (count, 1)

    trial = draw(guide)
    other = _trial(draw, refitted)
    is_better = other is not None and bool(other.mean() > trial.mean())
    amortized = draw(guide)
    best = draw(refitted) if is_better else amortized
    is_amortized = other is None or not is_better or _is_larger(trial, other)
    evidence = WeightSums.of(amortized if is_amortized else best, count)
    return InferenceGaps(
        log_evidence=evidence.log_mean(),
        refitted_bound=best.mean(0),
        amortized_bound=amortized.mean(0),
        evidence_error=evidence.standard_error(),
        refitted_error=best.std(0) / math.sqrt(count),
        amortized_error=amortized.std(0) / math.sqrt(count),
        pareto_k=evidence.pareto_k(),
        num_particles=count,
    )


def _trial(draw: Callable[[Program], Tensor], refitted: Program) -> Tensor | None:
    """Weights of the refitted guide, or None where it has diverged; what else is wrong, the guide itself has shown."""
    try:
        return draw(refitted)
    except (ValueError, RuntimeError):
        return None


def _is_larger(log_w: Tensor, other: Tensor) -> bool:
    """Whether weights give more evidence than others do, by two standard errors."""
    one, two = (WeightSums.of(own, len(own)) for own in (log_w, other))
    margin = 2 * torch.hypot(one.standard_error(), two.standard_error())
    return bool((one.log_mean() - two.log_mean() > margin).all())


def _refitted(
    model: Program, guide: Program, piece: Piece, num_steps: int, learning_rate: float, num_particles: int
) -> Program:
    """A copy of the guide, trained on one datum as long as it goes; no step is taken along what is not finite."""
    copied = copy.deepcopy(guide)  # which torch can do, since the guide has last been run without gradients
    refitted = _in_a_store_of_its_own(copied)
    module = module_of(copied)
    assert module is not None
    parameters = [p for p in module.parameters() if p.requires_grad] or list(module.requires_grad_().parameters())
    nesting = count_plates(model, refitted, piece.args, piece.kwargs)
    objective = ELBO(num_particles, max_plate_nesting=nesting)
    optimizer = torch.optim.Adam(parameters, learning_rate)
    with torch.enable_grad():
        for step in range(num_steps):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / num_steps)
            try:
                loss = objective.differentiable_loss(model, refitted, *piece.args, **piece.kwargs)
            except (ValueError, RuntimeError):
                if step == 0:
                    raise  # the programs do not fit
                break  # it has diverged
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            if all(bool(part.isfinite().all()) for part in (loss, *gradients) if part is not None):
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
    return refitted


def _in_a_store_of_its_own(program: Program) -> Program:
    """Runs a copied program beside Pyro's global store, where a ``PyroModule`` would find the original's parameters."""
    store = pyro.get_param_store()
    state: Any = {"params": {}, "constraints": {}}

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            with store.scope(state):
                return program(*args, **kwargs)
        finally:
            for name in store:
                store[name]  # which gives back the attribute that Pyro takes from its parameters meanwhile

    return run


def _check_module(guide: Program) -> None:
    module = module_of(guide)
    if module is None:
        raise TypeError(
            "a guide must be a module, or a method of one, to be copied and refitted; got "
            f"{type(guide).__name__}. Write it as a PyroModule that holds its parameters."
        )
    if not any(True for _ in module.parameters()):
        raise ValueError(
            f"a guide must have parameters to be refitted; got {type(module).__name__} without. It is what it can be: "
            "its gap is that of log_evidence to elbo_parts."
        )


def _check_parameters(guide: Program, piece: Piece) -> None:
    """Raises where a guide uses parameters that a copy of it would share with it."""
    module = module_of(guide)
    own = set() if module is None else {id(parameter) for parameter in module.parameters()}
    with fork_rng(), parameters_met() as met:
        guide(*piece.args, **piece.kwargs)
    shared = [name for name, leaf in met.items() if leaf.requires_grad and id(leaf) not in own]
    if shared:
        raise ValueError(
            f"a guide's parameters must be its own to be refitted; got {shared} in Pyro's global store alone. Make "
            "them nn.Parameters or PyroParams of the guide."
        )
