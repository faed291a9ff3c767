"""The gradient audit: what an estimator's gradient is worth, parameter by parameter."""

__all__ = ["GradientAudit", "ParameterAudit", "gradient_audit"]

import copy
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer import ELBO as PyroELBO
from torch import Tensor
from tqdm import tqdm

from pyro_dgm.infer import ELBO, Objective
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.programs import Program, fork_rng, is_deterministic, module_of, parameters_met, sample_sites
from pyro_dgm.infer.term import Term


class ParameterAudit(NamedTuple):
    """One parameter's gradient over many independent steps.

    Arguments:
        name: of the parameter.
        mean: the mean gradient, of the parameter's shape.
        variance: the variance of one step's gradient, element by element.
        bias: the mean less the reference.
        z: the bias in standard errors, those of the mean and of the reference together; 0 where both are 0.
    """

    name: str
    mean: Tensor
    variance: Tensor
    bias: Tensor
    z: Tensor

    @property
    def signal_to_noise(self) -> float:
        """The norm of the mean gradient over the root of the summed variance; infinite without noise."""
        noise = self.variance.sum().sqrt().item()
        return self.mean.norm().item() / noise if noise else math.inf


class GradientAudit(NamedTuple):
    """The audit of an objective: a row for every parameter, and the seconds of one step."""

    rows: list[ParameterAudit]
    num_steps: int
    seconds_per_step: float

    @property
    def largest_z(self) -> float:
        """The largest bias of any element, in standard errors; with many elements expect 4 or 5 of an unbiased one.

        NaN where one is NaN.
        """
        return max((float(row.z.abs().max()) for row in self.rows), key=lambda z: (math.isnan(z), z))

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines = [f"{'parameter':<{width}}  largest |z|  total variance  signal / noise"]
        for row in self.rows:
            z, variance = float(row.z.abs().max()), float(row.variance.sum())
            lines.append(f"{row.name:<{width}}  {z:11.2f}  {variance:14.4g}  {row.signal_to_noise:14.4g}")
        return "\n".join([*lines, f"{self.num_steps} steps of {1000 * self.seconds_per_step:.2f} ms"])


def gradient_audit(
    objective: PyroELBO,
    model: Program,
    guide: Program,
    *args: Any,
    num_steps: int = 200,
    reference: Mapping[str, Tensor] | PyroELBO | str = "auto",
    num_reference_steps: int = 1000,
    progress: bool = False,
    **kwargs: Any,
) -> GradientAudit:
    r"""Draws an objective's gradient many times and says how biased and how noisy it is.

    The bias is measured against a reference: exact gradients where they are known, or the mean gradient of another
    objective over ``num_reference_steps``, whose own error enters the z-score. The reference ``"auto"`` is exact for an
    ELBO (plain or with a ``beta``) of latents that can all be enumerated: its gradient by ``"enumerate"``. Any other of
    this library's bounds is compared with itself by the estimator ``"auto"``, which is unbiased; for what is no such
    bound, wake-sleep and Pyro's objectives among them, the reference must be given.

    Gradients are those of the loss, as a trainer sees them. Parameters and their ``grad`` are left as they were; the
    draws come from torch's generator. A running baseline learns as it would in training, on a copy; what an objective
    learns by gradient (a baseline's network, a relaxation) is as it is, and not itself audited.

    Arguments:
        objective: an objective of this library, or any ELBO of Pyro's.
        model: a Pyro program with observed sites.
        guide: its guide.
        args: positional arguments of both.
        num_steps: number of independent gradients, at least 2.
        reference: exact gradients of the loss by parameter, named as in the result; or an objective; or ``"auto"``.
        num_reference_steps: gradients of the reference objective, at least 2.
        progress: show a bar.
        kwargs: keyword arguments of both programs.

    Returns:
        The audit; printing it gives a table.

    Raises:
        ValueError: there are fewer than 2 steps, no reference can be made, it lacks a parameter, or has a gradient of
            another shape.
    """
    for name, count in (("num_steps", num_steps), ("num_reference_steps", num_reference_steps)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise ValueError(
                f"{name} must be an integer of at least 2; got {count!r}. 200 give a variance within 10 %."
            )
    if not isinstance(reference, Mapping | PyroELBO) and reference != "auto":
        raise ValueError(
            f"the reference must be 'auto', an objective, or gradients by parameter; got {reference!r}. Use 'auto', or "
            "an objective such as ELBO(gradient='score')."
        )
    if isinstance(reference, Mapping):
        _check_tensors(reference)
    with _own_gradients(model, guide):
        if isinstance(reference, str):
            exact = _exact(objective, model, guide, args, kwargs)
            reference = _sampled(objective) if exact is None else exact
        start = time.perf_counter()
        found = _moments(objective, model, guide, args, kwargs, num_steps, progress)
        seconds = (time.perf_counter() - start) / num_steps
        if isinstance(reference, PyroELBO):
            truth = _moments(reference, model, guide, args, kwargs, num_reference_steps, progress)
        else:
            truth = {name: (tensor.double(), torch.zeros_like(tensor).double()) for name, tensor in reference.items()}
    errors = num_reference_steps if isinstance(reference, PyroELBO) else 1
    missing = [name for name in found if name not in truth]
    if missing:
        raise ValueError(
            f"the reference must have a gradient for every parameter; got none for {missing}. The parameters are "
            f"{list(found)}."
        )
    reshaped = [
        f"{name}: {tuple(truth[name][0].shape)} for {tuple(mean.shape)}"
        for name, (mean, _) in found.items()
        if truth[name][0].shape != mean.shape
    ]
    if reshaped:
        raise ValueError(
            f"a gradient of the reference must have its parameter's shape; got {', '.join(reshaped)}. Broadcast or sum "
            "it first."
        )
    rows = [_row(name, *found[name], num_steps, *truth[name], errors) for name in found]
    return GradientAudit(rows, num_steps, seconds)


def _check_tensors(reference: Mapping[str, Tensor]) -> None:
    wrong = [f"{name}: {value!r}" for name, value in reference.items() if not isinstance(value, Tensor)]
    if wrong:
        raise ValueError(
            f"the gradients of the reference must be tensors; got {', '.join(wrong)}. Pass for instance "
            "torch.tensor(0.0)."
        )


def _exact(
    objective: PyroELBO, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Tensor] | None:
    """The gradient of an ELBO summed over all values of its latents, or None if it is not, or they cannot be listed."""
    if not isinstance(objective, ELBO) or objective.moves != "both":
        return None
    if objective.analytic_kl or objective.free_bits or objective.capacity is not None:
        return None
    exact = ELBO(gradient="enumerate", beta=objective.beta, max_plate_nesting=objective.max_plate_nesting)
    with fork_rng():
        try:
            with torch.no_grad():
                (traces,) = Draws(model, guide, args, kwargs, exact).completed(exact).runs
            found = _gradients(exact, model, guide, args, kwargs)
            again = _gradients(exact, model, guide, args, kwargs)
        except ValueError:  # a latent cannot be listed, or has an estimator of its own
            return None
    drawn = {name for name, site in sample_sites(traces.guide).items() if not is_deterministic(site)}
    is_same = all(torch.equal(gradient, again[name]) for name, gradient in found.items())  # not so with dropout
    return found if is_same and drawn <= set(exact.supports or {}) else None


def _sampled(objective: PyroELBO) -> PyroELBO:
    """The same objective by the estimator ``"auto"``."""
    if not isinstance(objective, Objective):
        raise ValueError(
            "a reference must be given for an objective that is not one of this library's bounds; got none for "
            f"{type(objective).__name__}. Pass exact gradients, or an objective such as ELBO()."
        )
    other = copy.deepcopy(objective)
    other.gradient, other.supports = "auto", None
    return other


def _moments(
    objective: PyroELBO,
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    num_steps: int,
    progress: bool,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of every parameter's gradient, in float64, by Welford's update."""
    objective = copy.deepcopy(objective)
    moments: dict[str, tuple[Tensor, Tensor]] = {}
    for step in tqdm(range(1, num_steps + 1), desc="gradients", disable=not progress, leave=False):
        for name, gradient in _gradients(objective, model, guide, args, kwargs).items():
            mean, squares = moments.get(name, (torch.zeros_like(gradient), torch.zeros_like(gradient)))
            new = mean + (gradient - mean) / step
            moments[name] = new, squares + (gradient - mean) * (gradient - new)
    return {name: (mean, squares / (num_steps - 1)) for name, (mean, squares) in moments.items()}


def _gradients(
    objective: PyroELBO, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """One step's gradient by parameter: of the programs' modules, and of the store."""
    with parameters_met() as met:
        objective.loss_and_grads(model, guide, *args, **kwargs)
    parameters = _named_parameters(model, guide)
    known = {id(parameter) for parameter in [*parameters.values(), *_own_parameters(objective)]}
    parameters |= {name: parameter for name, parameter in met.items() if id(parameter) not in known}
    found = {}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found[name] = gradient.detach().double().clone()
            parameter.grad = None
    return found


def _own_parameters(objective: PyroELBO) -> list[Tensor]:
    parts = objective.parts().values() if isinstance(objective, Term) else ()
    return [parameter for part in parts for parameter in part.parameters()]


def _named_parameters(model: Program, guide: Program) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in (("model", module_of(model)), ("guide", module_of(guide))):
        for name, parameter in [] if module is None else module.named_parameters():
            if id(parameter) not in seen:
                named[f"{prefix}.{name}"] = parameter
                seen.add(id(parameter))
    return named


@contextmanager
def _own_gradients(model: Program, guide: Program) -> Iterator[None]:
    """Sets the parameters' gradients aside and puts them back."""
    of_the_store = dict(pyro.get_param_store().named_parameters())
    parameters = [*_named_parameters(model, guide).values(), *of_the_store.values()]
    before = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


def _row(
    name: str, mean: Tensor, variance: Tensor, steps: int, truth: Tensor, truth_variance: Tensor, truth_steps: int
) -> ParameterAudit:
    error = (variance / steps + truth_variance / truth_steps).sqrt()
    bias = mean - truth.to(mean)
    rounding = 1e-6 * (1 + mean.abs())  # of float32 gradients: less than this is no bias
    z = torch.where(bias.abs() < rounding, 0.0, bias / error.clamp(min=1e-300))
    return ParameterAudit(name, mean, variance, bias, z)
