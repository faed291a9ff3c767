"""One torch optimiser over all parameters, from whatever a Pyro user passes."""

__all__ = [
    "CLIP_NORM",
    "CLIP_VALUE",
    "OptimizerFactory",
    "add_parameters",
    "build_optimizer",
    "check_optimizer",
    "load_optimizer_state",
    "named_parameters",
    "optimizer_kind",
    "optimizer_state",
    "prepare_update",
    "restore",
]

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

from pyro.optim import PyroLRScheduler, PyroOptim
from pyro.params.param_store import module_from_param_with_module_name, normalize_param_name, user_param_name
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]

CLIP_NORM, CLIP_VALUE = "clip_norm_of_each", "clip_value_of_each"  # entries of groups; ClippedAdam has a clip_norm
LIMITS = {"clip_norm": CLIP_NORM, "clip_value": CLIP_VALUE}


def build_optimizer(optim: Optimizer | OptimizerFactory | PyroOptim, parameters: Mapping[str, Tensor]) -> Optimizer:
    """Makes the optimiser of the named parameters.

    Arguments:
        optim: a ready torch optimiser, which is returned; a callable from parameters to one, such as
            ``functools.partial(torch.optim.Adam, lr=1e-3)``; or a ``pyro.optim.PyroOptim``, whose constructor,
            arguments and ``clip_args`` are used. If they are a function of the parameter's name, that is its name in
            the store; of a module's parameter it is ``model.`` or ``guide.`` and its name in the module. A function of
            two gets what Pyro's would: the name before and after the ``$$$`` of ``pyro.module``, or twice the name.
        parameters: the parameters by name.

    Raises:
        TypeError: ``optim`` is none of these.
        ValueError: a learning rate is negative or not finite, or ``clip_args`` are not what Pyro takes.
    """
    check_optimizer(optim)
    limits = {name: _limits(optim, name) for name in parameters} if isinstance(optim, PyroOptim) else {}
    try:
        optimizer = _make(optim, parameters, limits)
    except ValueError as err:
        raise ValueError(
            f"the optimiser must accept its arguments; got {str(err).rstrip('.')!r}. Adam likes lr=1e-3."
        ) from err
    for group in optimizer.param_groups:
        _check_learning_rate(group.get("lr", 0.0))  # AdagradRMSProp has none
    return optimizer


def check_optimizer(optim: object) -> None:
    """Raises where an optimiser is of no known kind, before there are parameters to make it for."""
    if not (isinstance(optim, Optimizer | PyroOptim) or callable(optim)):
        raise TypeError(
            "optim must be a torch optimiser, a callable from parameters to one, or a pyro.optim.PyroOptim; got "
            f"{type(optim).__name__}. For instance functools.partial(torch.optim.Adam, lr=1e-3)."
        )
    if isinstance(optim, PyroOptim) and not callable(optim.pt_clip_args):
        _check_limits(optim.pt_clip_args)


def add_parameters(optim: OptimizerFactory | PyroOptim, optimizer: Optimizer, new: Mapping[str, Tensor]) -> None:
    """Adds parameters that appeared after the optimiser was made."""
    for name, parameter in new.items():
        arguments = {**_arguments(optim, name), **_limits(optim, name)} if isinstance(optim, PyroOptim) else {}
        optimizer.add_param_group({"params": [parameter], **arguments})


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters of several modules by name, each once: some may be shared (a VampPrior)."""
    named: dict[int, tuple[str, nn.Parameter]] = {}
    for name, module in modules.items():
        for key, parameter in module.named_parameters():
            named.setdefault(id(parameter), (f"{name}.{key}", parameter))
    return dict(named.values())


def restore(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Writes an earlier state of the same optimiser into the tensors it has now, where they are still there."""
    groups = optimizer.param_groups
    parameters = dict(enumerate(parameter for group in groups for parameter in group["params"]))
    for number, parameter in parameters.items():
        before = state["state"].get(number)
        if before is None:
            optimizer.state.pop(parameter, None)
            continue
        for name, value in before.items():
            if isinstance(value, Tensor):
                optimizer.state[parameter][name].copy_(value)
            else:
                optimizer.state[parameter][name] = value
    for group, old in zip(groups, state["param_groups"], strict=False):  # groups of parameters born since come last
        group.update({name: value for name, value in old.items() if name != "params"})


def prepare_update(optim: object, optimizer: Optimizer) -> None:
    """Does what Pyro does right before an update: schedules what is updated for the first time, and clips gradients.

    Each parameter's norm is clipped first and then its values, as ``clip_args`` say. A scheduler begins with the first
    update; parameters that were born later have one of their own, which begins with theirs. All of them are in the
    ``optim_objs`` of the ``PyroLRScheduler``, whose ``step`` steps them.
    """
    if isinstance(optim, PyroLRScheduler):
        first, last = max((one.last for one in _cohorts(optim, optimizer)), default=0), len(optimizer.param_groups)
        if first < last:
            _schedule(optim, _Cohort(optimizer, first, last))
    for group in optimizer.param_groups:
        norm, value = group.get(CLIP_NORM), group.get(CLIP_VALUE)
        for parameter in group["params"] if norm is not None or value is not None else ():
            if norm is not None:
                clip_grad_norm_(parameter, norm)
            if value is not None:
                clip_grad_value_(parameter, value)


def optimizer_kind(optim: object, optimizer: Optimizer) -> str:
    """What a state must have in common with the optimiser it is loaded into."""
    kind = type(optimizer).__name__
    if not isinstance(optim, PyroLRScheduler):
        return kind
    constructor = optim.pt_scheduler_constructor
    return f"{kind} under {getattr(constructor, '__name__', type(constructor).__name__)}"


def optimizer_state(optim: object, optimizer: Optimizer) -> dict[str, Any]:
    """The state of an optimiser and of its schedulers, without limits of gradients, which are no state."""
    state = optimizer.state_dict()
    is_scheduled = isinstance(optim, PyroLRScheduler)
    known = {"params", *optimizer.defaults}
    for group in state["param_groups"]:
        for name in list(group):
            if name in LIMITS.values() or (is_scheduled and name not in known):  # a scheduler makes the latter anew
                del group[name]
    if isinstance(optim, PyroLRScheduler):
        state["lr_schedulers"] = [
            {"num_groups": cohort.last - cohort.first, "scheduler": scheduler.state_dict()}
            for cohort, scheduler in _cohorts(optim, optimizer).items()
        ]
    return state


def load_optimizer_state(optim: object, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Puts back what ``optimizer_state`` gave; what groups have beyond that stays."""
    if isinstance(optim, PyroLRScheduler):
        gone = set(map(id, _cohorts(optim, optimizer).values()))
        optim.optim_objs = {key: one for key, one in optim.optim_objs.items() if id(one) not in gone}
        first = 0
        for part in state["lr_schedulers"]:
            scheduler = _schedule(optim, _Cohort(optimizer, first, first + part["num_groups"]))
            scheduler.load_state_dict(part["scheduler"])
            first += part["num_groups"]
    own = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, before in zip(optimizer.param_groups, own, strict=True):
        for name, value in before.items():
            group.setdefault(name, value)


@final
class _Cohort(Optimizer):
    """The groups of an optimiser that were born together: what a scheduler of torch's holds. It does not step.

    With Pyro each parameter has a scheduler, on an optimiser of its own, from its first update.

    Arguments:
        whole: the optimiser.
        first: its first group that belongs to this.
        last: the one after the last.
    """

    def __init__(self, whole: Optimizer, first: int, last: int) -> None:
        self.whole, self.first, self.last = whole, first, last
        self.defaults = whole.defaults

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]  # loading a state makes new ones
        return self.whole.param_groups[self.first : self.last]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Only lets the scheduler know that there was an update."""

    def state_dict(self) -> dict[str, Any]:
        """The whole optimiser's, for ``PyroOptim.get_state``."""
        return self.whole.state_dict()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def _cohorts(optim: PyroLRScheduler, optimizer: Optimizer) -> dict[_Cohort, LRScheduler]:
    """The scheduled groups of an optimiser, in their order, with their schedulers."""
    schedulers = [one for one in optim.optim_objs.values() if isinstance(one.optimizer, _Cohort)]
    own = [one for one in schedulers if one.optimizer.whole is optimizer]
    return {one.optimizer: one for one in sorted(own, key=lambda one: one.optimizer.first)}


def _schedule(optim: PyroLRScheduler, cohort: _Cohort) -> LRScheduler:
    scheduler: LRScheduler = optim.pt_scheduler_constructor(cohort, **optim.kwargs)
    cohort.step()
    parameters = [parameter for group in cohort.param_groups for parameter in group["params"]]
    key = next(one for one in (*parameters, cohort) if one not in optim.optim_objs)  # another SVI may have the first
    optim.optim_objs[key] = scheduler
    return scheduler


def _make(
    optim: Optimizer | OptimizerFactory | PyroOptim,
    parameters: Mapping[str, Tensor],
    limits: Mapping[str, dict[str, float]],
) -> Optimizer:
    if isinstance(optim, Optimizer):
        return optim
    if not isinstance(optim, PyroOptim):
        return optim(list(parameters.values()))
    constructor, arguments = optim.pt_optim_constructor, optim.pt_optim_args
    if callable(arguments) or callable(optim.pt_clip_args):
        groups = [{"params": [p], **_arguments(optim, name), **limits[name]} for name, p in parameters.items()]
        return constructor(groups, **({} if callable(arguments) else arguments))
    optimizer = constructor(list(parameters.values()), **arguments)
    for group in optimizer.param_groups:
        group.update(_named_limits(optim.pt_clip_args))
    return optimizer


def _arguments(optim: PyroOptim, name: str) -> dict[str, Any]:
    arguments = optim.pt_optim_args
    return _of(arguments, name, callable(arguments) and optim.pt_optim_args_argc != 1)


def _limits(optim: PyroOptim, name: str) -> dict[str, float]:
    """The entries of a parameter's group that say how its gradient is clipped."""
    arguments = optim.pt_clip_args
    limits = _of(arguments, name, callable(arguments) and _takes_two(arguments))
    _check_limits(limits)
    return _named_limits(limits)


def _of(arguments: Any, name: str, of_two: bool) -> dict[str, Any]:
    if not callable(arguments):
        return dict(arguments)
    if of_two:
        return dict(arguments(module_from_param_with_module_name(name), user_param_name(name)))
    return dict(arguments(normalize_param_name(name)))


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function of ``clip_args`` takes what Pyro gives it."""
    try:
        inspect.signature(function).bind("module", "name")
    except TypeError:
        return False
    return True


def _named_limits(limits: Mapping[str, Any]) -> dict[str, float]:
    return {LIMITS[name]: value for name, value in limits.items() if value is not None}


def _check_limits(limits: Mapping[str, Any]) -> None:
    for name, value in limits.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in LIMITS or not (value is None or (is_number and value > 0)):
            raise ValueError(
                "clip_args must be positive numbers under clip_norm and clip_value; "
                f"got {value!r} under {name!r}. For instance {{'clip_norm': 10.0}}."
            )


def _check_learning_rate(rate: float | Tensor) -> None:
    value = float(rate)
    if not 0 <= value < math.inf:
        raise ValueError(f"the learning rate must be a finite number of at least 0; got {value}. Adam likes 1e-3.")
