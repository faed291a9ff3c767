"""Expectation maximisation: guide and model in turn, by gradient steps or, where a model knows how, exactly."""

__all__ = ["ExactEM", "VariationalEM"]

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, final, runtime_checkable

import torch
from pyro import poutine
from pyro.infer import ELBO as PyroELBO
from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_dgm.infer.optimizers import OptimizerFactory, build_optimizer
from pyro_dgm.infer.programs import Program, module_of, parameter_of
from pyro_dgm.infer.schedules import Schedule
from pyro_dgm.infer.svi import SVI, NonFiniteError
from pyro_dgm.infer.term import Term


@final
class VariationalEM:
    r"""Coordinate ascent on a bound: steps of the guide with the model fixed, then of the model with the guide fixed.

    The E-step brings :math:`q(z | x)` closer to :math:`p(z | x)`, the M-step raises :math:`E_q[\log p(x, z)]`; both
    are gradient steps on one objective, each with an optimiser of its own, and the gradient that a step leaves for the
    other program is thrown away. What the objective itself learns, baselines and relaxations, learns with the guide.
    Used like ``SVI``, which moves both at once. Schedules advance once in a ``step``, however many steps it takes. A
    batch norm's running statistics are no parameters and follow every pass.

    References:
        Neal and Hinton (1998), A View of the EM Algorithm that Justifies Incremental, Sparse, and other Variants.

    Arguments:
        model: a Pyro program that is a module, or a method of one.
        guide: likewise, of another module.
        optim: a callable from parameters to a torch optimiser, such as ``functools.partial(torch.optim.Adam,
            lr=1e-3)``, or a ``pyro.optim.PyroOptim``; it makes the model's optimiser.
        loss: an objective of this library or any ELBO of Pyro's.
        guide_optim: likewise for the guide; ``optim`` when None.
        e_steps: steps of the guide in one ``step``.
        m_steps: steps of the model in one ``step``.
        clip_norm: scales each step's gradient down to this norm when it is larger.
        nonfinite: what a NaN or infinite loss or gradient does: ``"raise"``, or ``"skip"`` the inner step.

    Raises:
        TypeError: an optimiser is a ready one, or the loss or an optimiser of no known kind.
        ValueError: a number of steps is below 1; a program has no parameters, or shares some with the other; at a
            step, when a program meets parameters that belong to neither module, or the objective trains only one; the
            parameters are as they were.
        NonFiniteError: at a step, as ``nonfinite`` says.

    Example:
        >>> import functools
        >>> from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
        >>> from pyro_dgm.guides import AmortizedGuide
        >>> from pyro_dgm.infer import ELBO
        >>> from pyro_dgm.models import LatentVariableModel
        >>> from pyro_dgm.nn import MLP
        >>> model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 8)))
        >>> guide = AmortizedGuide(z=DiagonalNormal(MLP(8, 4)))
        >>> adam = functools.partial(torch.optim.Adam, lr=1e-3)
        >>> trainer = VariationalEM(model, guide, adam, ELBO(), e_steps=3)
        >>> loss = trainer.step(torch.ones(5, 8))
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: OptimizerFactory | PyroOptim,
        loss: PyroELBO,
        guide_optim: OptimizerFactory | PyroOptim | None = None,
        e_steps: int = 1,
        m_steps: int = 1,
        *,
        clip_norm: float | None = None,
        nonfinite: str = "raise",
    ) -> None:
        self.e_steps, self.m_steps = _check_steps("e_steps", e_steps), _check_steps("m_steps", m_steps)
        own = {"model": _parameters(model, "model"), "guide": _parameters(guide, "guide")}
        _check_apart(own["model"], own["guide"])
        learned = _parameters_of_parts(loss)
        _check_apart(own["model"], learned)
        self._own = {name: tuple(parameters.values()) for name, parameters in own.items()}
        self._learned = tuple(learned.values())
        of_the_guide = {id(parameter) for parameter in self._own["guide"]}
        own["guide"].update({name: p for name, p in learned.items() if id(p) not in of_the_guide})
        options: dict[str, Any] = {"clip_norm": clip_norm, "nonfinite": nonfinite, "compile": False}
        e_optim = build_optimizer(_check_factory(optim if guide_optim is None else guide_optim), own["guide"])
        m_optim = build_optimizer(_check_factory(optim), own["model"])
        self._e_step = SVI(model, guide, e_optim, loss, **options)
        self._m_step = SVI(model, guide, m_optim, loss, **options)

    @property
    def guide_optimizer(self) -> Optimizer:
        """The guide's torch optimiser, for a learning-rate scheduler to hold."""
        return self._e_step.optimizer

    @property
    def model_optimizer(self) -> Optimizer:
        """The model's torch optimiser, for a learning-rate scheduler to hold."""
        return self._m_step.optimizer

    @property
    def num_skipped(self) -> int:
        """Inner steps that were skipped since their loss or gradient was not finite."""
        return self._e_step.num_skipped + self._m_step.num_skipped

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes all E-steps, then all M-steps, on one batch; returns the loss of the last of them, in nats.

        The schedules advance once, unless all these steps were skipped.
        """
        loss, num_skipped = math.nan, self.num_skipped
        inner_steps = [self._e_step] * self.e_steps + [self._m_step] * self.m_steps
        for inner in inner_steps:
            with self._checked(inner), self._schedules_held():
                loss = inner.step(*args, **kwargs)
        if self.num_skipped - num_skipped < len(inner_steps):
            for schedule in self.schedules():
                schedule.step()
        return loss

    def report(self, *, full: bool = False) -> dict[str, float]:
        """What ``SVI.report`` says of the last M-step."""
        return self._m_step.report(full=full)

    def schedules(self) -> Sequence[Schedule]:
        """What advances with each ``step``: the schedules of annealings and objective, each once."""
        return self._m_step.schedules()

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """Returns the loss of a batch without a step."""
        return self._m_step.evaluate_loss(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Everything a step depends on but the data and torch's generator: tensors and plain values, not copied."""
        m_step = self._m_step.state_dict()
        return {
            "e_step": self._e_step.state_dict(),
            "m_step": {name: part for name, part in m_step.items() if name not in ("modules", "store")},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what ``state_dict`` gave.

        Raises:
            ValueError: the state belongs to other programs; nothing has been changed then.
        """
        if set(state) != {"e_step", "m_step"}:
            raise ValueError(
                f"the state of VariationalEM must have the parts e_step and m_step; got {sorted(state)}. Load what its "
                "own state_dict gave."
            )
        before = copy.deepcopy(self.state_dict())
        try:
            self._load(state)
        except ValueError:
            self._load(before)
            raise

    def _load(self, state: Mapping[str, Any]) -> None:
        e_step = state["e_step"]
        self._e_step.load_state_dict(e_step)
        self._m_step.load_state_dict({**state["m_step"], "modules": e_step["modules"], "store": e_step["store"]})

    @contextmanager
    def _checked(self, inner: SVI) -> Iterator[None]:
        """Looks at the parameters met, and at their gradients, right before the optimiser changes the first of them."""
        with poutine.trace(param_only=True) as capture:

            def check(*_: Any) -> None:
                nodes = capture.trace.nodes.items()
                self._check_known({name: parameter_of(site) for name, site in nodes if site["type"] == "param"})
                self._check_both_train()

            handle = inner.optimizer.register_step_pre_hook(check)
            try:
                yield
            finally:
                handle.remove()

    @contextmanager
    def _schedules_held(self) -> Iterator[None]:
        """Takes back the advance of an inner step."""
        before = [(schedule, schedule.state_dict()) for schedule in self.schedules()]
        try:
            yield
        finally:
            for schedule, position in before:
                schedule.load_state_dict(position)

    def _check_both_train(self) -> None:
        for name, parameters in self._own.items():
            if all(parameter.grad is None for parameter in parameters):
                raise ValueError(
                    f"VariationalEM needs an objective that trains model and guide; got no gradient for the {name} by "
                    f"{type(self._m_step.loss).__name__}. Use an objective of both, or SVI."
                )

    def _check_known(self, met: Mapping[str, Tensor]) -> None:
        known = {id(parameter) for parameter in (*self._own["model"], *self._own["guide"], *self._learned)}
        unknown = [name for name, parameter in met.items() if id(parameter) not in known]
        if unknown:
            raise ValueError(
                "VariationalEM must know whose parameters are whose, by the modules that model and guide are; got the "
                f"parameters {unknown[:5]} of neither. Make them attributes of the modules (pyro.nn.PyroParam), or use "
                "SVI."
            )


@runtime_checkable
class _TakesEMSteps(Protocol):
    def em_step(self, x: Tensor, /) -> float:
        """Takes one step and returns the log-likelihood per datum before it."""

    def log_evidence(self, x: Tensor, /) -> Tensor:
        """Returns the log evidence of each datum."""


@final
class ExactEM:
    """Exact expectation maximisation, for ``training.fit``: each step is the model's own ``em_step``.

    A batch must be the whole data, ``fit(ExactEM(model), [x], epochs=100)``: only then no step lowers the likelihood.

    References:
        Dempster, Laird and Rubin (1977), Maximum Likelihood from Incomplete Data via the EM Algorithm.

    Arguments:
        model: a module with ``em_step`` and ``log_evidence``, such as ``GaussianMixture`` or ``LinearGaussian``.

    Raises:
        TypeError: the model has no such methods.
        NonFiniteError: at a step, when the likelihood or a parameter is NaN or infinite; the model is as it was.

    Example:
        >>> from pyro_dgm.models.linear_gaussian import LinearGaussian
        >>> x = torch.randn(50, 3)
        >>> trainer = ExactEM(LinearGaussian(1, 3))
        >>> trainer.step(x) >= trainer.step(x)
        True
    """

    def __init__(self, model: nn.Module) -> None:
        if not (isinstance(model, nn.Module) and isinstance(model, _TakesEMSteps)):
            raise TypeError(
                f"ExactEM takes a module with em_step and log_evidence; got {type(model).__name__}. Use "
                "GaussianMixture or LinearGaussian, or VariationalEM for a model whose posterior is not known."
            )
        self.model = model
        self.num_steps = 0

    def step(self, x: Tensor) -> float:
        """Takes one EM step; returns minus the log-likelihood before it, summed over the data, in nats."""
        before = copy.deepcopy(self.model.state_dict())
        loss = -float(self.model.em_step(x)) * len(x)
        ruined = [name for name, tensor in self.model.state_dict().items() if not tensor.isfinite().all()]
        if ruined or not math.isfinite(loss):
            self.model.load_state_dict(before)
            raise NonFiniteError(
                f"the likelihood and what a step sets must be finite; got loss {loss} at step {self.num_steps + 1}, "
                f"and NaN or infinity in {ruined or 'no parameter'}. The step was not taken. Look for data far from "
                "all others, and scale the data to about 1."
            )
        self.num_steps += 1
        return loss

    def evaluate_loss(self, x: Tensor) -> float:
        """Returns minus the log-likelihood, summed over the data, in nats, without a step."""
        with torch.no_grad():
            return -float(self.model.log_evidence(x).sum())

    def state_dict(self) -> dict[str, Any]:
        """The model's tensors, not copied, and the number of steps."""
        return {"model": dict(self.model.state_dict()), "num_steps": self.num_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what ``state_dict`` gave.

        Raises:
            ValueError: the state belongs to another model; nothing has been changed then.
        """
        own = self.state_dict()["model"]
        there = state.get("model", {})
        shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (own, there)]
        if shapes[0] != shapes[1] or "num_steps" not in state:
            raise ValueError(
                f"the state must come from an ExactEM of the same model, with the tensors {shapes[0]}; got "
                f"{shapes[1]}. Build the model as it was built when the state was saved."
            )
        self.model.load_state_dict(there)
        self.num_steps = state["num_steps"]


def _parameters(program: Program, name: str) -> dict[str, nn.Parameter]:
    module = module_of(program)
    found = {} if module is None else {f"{name}.{key}": parameter for key, parameter in module.named_parameters()}
    if not found:
        kind = "no module" if module is None else f"{type(module).__name__} without parameters"
        raise ValueError(
            f"VariationalEM trains model and guide in turn, so each must be a module with parameters; got {kind} as "
            f"{name}. Write the program as a PyroModule, call an AutoGuide once before, or use SVI."
        )
    return found


def _parameters_of_parts(loss: PyroELBO) -> dict[str, nn.Parameter]:
    parts = loss.parts() if isinstance(loss, Term) else {}
    return {f"{name}.{key}": parameter for name, part in parts.items() for key, parameter in part.named_parameters()}


def _check_apart(model: Mapping[str, nn.Parameter], guide: Mapping[str, nn.Parameter]) -> None:
    of_the_guide = {id(parameter) for parameter in guide.values()}
    shared = [name for name, parameter in model.items() if id(parameter) in of_the_guide]
    if shared:
        raise ValueError(
            "VariationalEM needs a model and a guide without common parameters, and what the objective learns counts "
            f"as the guide's; got {shared[:5]} in both. Give each its own, or use SVI, which trains both at once."
        )


def _check_factory(optim: OptimizerFactory | PyroOptim) -> OptimizerFactory | PyroOptim:
    if isinstance(optim, Optimizer):
        raise TypeError(
            f"each program needs an optimiser of its own; got a ready {type(optim).__name__}. Pass what makes one, "
            "such as functools.partial(torch.optim.Adam, lr=1e-3)."
        )
    if isinstance(optim, PyroLRScheduler):
        raise TypeError(
            "VariationalEM schedules no optimiser itself; got a PyroLRScheduler. Pass the plain optimiser, and make "
            "schedulers of torch's on guide_optimizer and model_optimizer."
        )
    return optim


def _check_steps(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer; got {value!r}. One of each is the plain EM.")
    return value
