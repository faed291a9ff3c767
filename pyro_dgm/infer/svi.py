"""The trainer of a model and a guide: the constructor and ``step`` of ``pyro.infer.SVI``, made safe."""

__all__ = ["SVI", "NonFiniteError"]

import copy
import functools
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, final

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO as PyroELBO
from pyro.infer import TraceEnum_ELBO
from pyro.infer.util import torch_item
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from pyro_dgm.infer.annealing import annealings_of, check_met
from pyro_dgm.infer.compiling import CompiledStep, Compiler, Payoff
from pyro_dgm.infer.compiling.capture import same_noise_afterwards
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.nonfinite import has_diverged, nonfinite_sites
from pyro_dgm.infer.optimizers import (
    OptimizerFactory,
    add_parameters,
    build_optimizer,
    check_optimizer,
    load_optimizer_state,
    named_parameters,
    optimizer_kind,
    optimizer_state,
    prepare_update,
    restore,
)
from pyro_dgm.infer.processes import Processes
from pyro_dgm.infer.programs import (
    Program,
    evaluation_mode,
    fork_rng,
    module_of,
    parameters_met,
    run,
)
from pyro_dgm.infer.schedules import Schedule
from pyro_dgm.infer.states import check_state
from pyro_dgm.infer.term import Term

MOST_WARM_UPS = 12  # four steps, and more if floats become inputs on the way


class NonFiniteError(ArithmeticError):
    """A loss or gradient was NaN or infinite; the step was not taken."""


@final
class SVI:
    """Stochastic variational inference with one torch optimiser over all parameters.

    Used like ``pyro.infer.SVI``, with six differences: the optimiser is one for all parameters, so that fused steps
    and the clipping of the global norm are possible; a NaN or infinite loss or gradient raises before the step
    instead of ruining the parameters; there is a ``state_dict``; programs without any parameter are refused; the
    schedules of a ``KLAnnealing`` around the programs, and of the objective, advance with each step taken; and steps
    can be compiled.

    A compiled step is model, guide, objective, backward pass and optimiser in one function, with the same random
    numbers as the step as written. Before each, everything the programs have read in Python is compared with what it
    was: a float that has changed becomes an input, anything else makes another version; what cannot be compiled safely
    is taken as written, with a warning that says why. Pyro's validation is not part of compiled steps.

    Arguments:
        model: a Pyro program: function, bound method or module.
        guide: likewise.
        optim: a ready torch optimiser; a callable from parameters to one, such as
            ``functools.partial(torch.optim.Adam, lr=1e-3)``; or a ``pyro.optim.PyroOptim``, whose ``clip_args`` clip
            each parameter's gradient, after ``clip_norm`` has clipped all of them. A ``PyroLRScheduler`` schedules the
            optimiser from its first step on, and its own ``step`` is called as with Pyro; its place is in the state.
        loss: an objective of this library or any ELBO of Pyro's.
        clip_norm: scales the gradient down to this norm, over all parameters together, when it is larger.
        nonfinite: what a NaN or infinite loss or gradient does: ``"raise"``, or ``"skip"`` the step.
        report_every: with annealed programs, ``report`` has the unweighted ELBO of the first step and of every so
            many; each costs about a forward pass.
        compile: ``"auto"`` compiles the step, in a thread while steps go on as written, where the steps to come would
            take a minute as written, if it has been told of them (``expect``; ``training.fit`` tells it), or else once
            half a minute has gone into steps, which is about what it costs. True does so at once, False never, and a
            ``compiling.Compiler`` says how. When the compiled step takes over depends on the machine, and its rounding
            differs: for runs that repeat bit by bit pass False or ``Compiler(wait=True)``.
        group: of ``torch.distributed``: all its processes train the same parameters, which the first of them gives to
            the others, each on data of its own and with noise of its own. Before each update gradients and losses
            become their means, so that every process should scale its loss to all the data. All of them must take the
            same steps. The optimiser's update is not part of compiled steps then. Buffers stay each process's own.

    Raises:
        TypeError: the optimiser or the loss is of no known kind.
        ValueError: the learning rate is negative or not finite; only one of the programs is annealed; at the first
            step, when there is nothing to train, or a site to be annealed is in neither program.
        NonFiniteError: at a step, as ``nonfinite`` says; the parameters are as they were.

    Example:
        >>> import functools
        >>> import pyro.distributions as dist
        >>> from pyro_dgm.infer import ELBO
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     slope = pyro.param("slope", torch.tensor(0.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(slope * x, 1.0))
        >>> svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.1), ELBO())
        >>> loss = svi.step(torch.randn(10))
        >>> pyro.clear_param_store()
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: Optimizer | OptimizerFactory | PyroOptim,
        loss: PyroELBO,
        *,
        clip_norm: float | None = None,
        nonfinite: str = "raise",
        report_every: int = 100,
        compile: bool | str | Compiler = "auto",
        group: ProcessGroup | None = None,
    ) -> None:
        if not (isinstance(compile, bool | Compiler) or compile == "auto"):
            raise ValueError(
                f"compile must be True, False, 'auto' or a Compiler; got {compile!r}. 'auto' decides by the time spent."
            )
        if not isinstance(loss, PyroELBO):
            raise TypeError(
                "loss must be an objective such as ELBO() or pyro.infer.Trace_ELBO(); "
                f"got {type(loss).__name__}. Make an instance of one."
            )
        check_optimizer(optim)
        if clip_norm is not None and not 0 < clip_norm < math.inf:
            raise ValueError(f"clip_norm must be a positive number; got {clip_norm}. Use None for no clipping.")
        if nonfinite not in {"raise", "skip"}:
            raise ValueError(f"nonfinite must be 'raise' or 'skip'; got {nonfinite!r}. 'raise' is the safe one.")
        if type(report_every) is not int or report_every < 1:
            raise ValueError(f"report_every must be a whole number from 1; got {report_every!r}. 100 is the default.")
        self.model, self.guide, self.loss = model, guide, loss
        self.clip_norm, self.nonfinite, self.report_every = clip_norm, nonfinite, report_every
        self.num_steps = self.num_skipped = 0
        self._annealings = annealings_of(model, guide)
        self._weights: list[float] = []  # of the annealings, in the last step
        self._batch: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None  # of the last step, if annealed
        self._optim = optim
        self._parameters: dict[str, Tensor] = dict(named_parameters(self._modules()))
        self._store_names: list[str] = []
        ready = isinstance(optim, Optimizer) or bool(self._parameters)
        self._optimizer = build_optimizer(optim, self._parameters) if ready else None
        self._processes = None if group is None else Processes(group)
        self._strangers = dict(self._parameters)  # what the processes have not agreed on yet
        self._compiled: CompiledStep | None = None
        self._cold: dict[str, int] = {}  # kinds of arguments that a state has, with their progress
        self._compiler = compile if isinstance(compile, Compiler) else Compiler()
        self._payoff = Payoff(compile if isinstance(compile, bool | str) else True)

    @property
    def optimizer(self) -> Optimizer:
        """The torch optimiser, for a learning-rate scheduler to hold."""
        if self._optimizer is None:
            raise ValueError(
                "the optimiser is made once parameters are known; got programs whose pyro.param statements have not "
                "run. Call step or evaluate_loss once first."
            )
        return self._optimizer

    @property
    def compiled(self) -> CompiledStep | None:
        """The compiled step, with its ``refusals``; None as long as steps are not to be compiled."""
        return self._compiled

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes one gradient step and returns the loss: minus the bound, summed over the data, in nats.

        With annealed programs it is the annealed loss; ``report`` has the unweighted ELBO.
        """
        self._batch = None
        self._agree()
        self._warm_up(args, kwargs)
        generator_state = torch.get_rng_state()
        if self._compiled is None and self._payoff.is_due:
            self._compiled = self._make_compiled()
        try:
            outcome = None if self._compiled is None else self._compiled.run(args, kwargs)
        except RuntimeError:  # of a draw that refuses NaN, as Bernoulli's does: the step as written says what is wrong
            torch.set_rng_state(generator_state)
            outcome = None
        if outcome is not None and outcome.is_updated:
            if math.isfinite(outcome.loss) and math.isfinite(outcome.norm):
                self.num_steps += 1
                self._advance(args, kwargs)
                return outcome.loss
            torch.set_rng_state(generator_state)  # nothing has been changed: the step as written says what is wrong
            outcome = None
        if outcome is not None:
            return self._update(outcome.loss, generator_state, args, kwargs)
        start = time.perf_counter()
        self._zero_grad()
        try:
            with nullcontext() if self._compiled is None else self._compiled.observing(args, kwargs):
                loss = self._loss(self.loss.loss_and_grads, args, kwargs)
            if self._agree():  # on parameters that were made in this run
                torch.set_rng_state(generator_state)
                self._zero_grad()
                loss = self._loss(self.loss.loss_and_grads, args, kwargs)
        except ValueError:  # Pyro's validation refuses the NaN parameters of a distribution before there is a loss
            if not has_diverged(self.model, self.guide, self.loss, generator_state, (args, kwargs)):
                raise
            self._average(math.nan)  # so that the other processes refuse the step, too
            self._refuse(math.nan, generator_state, args, kwargs)
            return math.nan
        if self.num_steps == 0:
            check_met(self._annealings)
        self._payoff.note(time.perf_counter() - start)
        return self._update(loss, generator_state, args, kwargs)

    def expect(self, num_steps: int) -> None:
        """Tells how many steps are to come, by which ``compile="auto"`` decides whether compiling pays.

        Raises:
            ValueError: the number is negative.
        """
        if num_steps < 0:
            raise ValueError(f"the number of steps to come must be at least 0; got {num_steps}. It is no total.")
        self._payoff.expect(num_steps)

    def _update(self, loss: float, generator_state: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        """The optimiser's part of a step, unless loss or gradient is not finite."""
        loss = self._average(loss)
        trained = [p for p in self._optimized() if p.grad is not None]
        if not trained:
            raise ValueError(
                "a step must train something; got no gradient for any parameter of the optimiser. Check that the "
                "programs use parameters with requires_grad=True, and that the optimiser holds them."
            )
        norm = get_total_norm([p.grad for p in trained if p.grad is not None])
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            self._refuse(loss, generator_state, args, kwargs)
            return loss
        if self.clip_norm is not None:
            clip_grads_with_norm_(trained, self.clip_norm, norm)
        prepare_update(self._optim, self.optimizer)
        self.optimizer.step()
        self.num_steps += 1
        self._advance(args, kwargs)
        return loss

    def steps(self, batches: Iterable[Any]) -> list[float]:
        """Takes one step for each batch, and returns the losses, each as from ``step``.

        Compiled steps are taken together, which saves some microseconds each: worth it for small models. The
        learning rate, and everything else that is kept in Python, must stand still meanwhile; with schedules of
        annealings or the objective, which advance at each step, the steps are taken one by one.

        Arguments:
            batches: for each step the argument of ``step``, or the tuple of its positional arguments.

        Raises:
            NonFiniteError: as ``step``; the steps before that one have been taken.
        """
        todo = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
        losses: list[float] = []
        while len(losses) < len(todo):
            rest = todo[len(losses) :]
            found = None
            if self._compiled is not None and len(rest) > 1 and not self.schedules():
                found = self._compiled.run_several(rest)
            if found:
                self.num_steps += len(found)
                losses += found
            if not found or len(found) < len(rest):
                losses.append(self.step(*todo[len(losses)]))
        return losses

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """Returns the loss of a batch without a step, and without annealing, to compare between any two steps."""
        with torch.no_grad(), self._unannealed():
            return self._loss(self.loss.loss, args, kwargs)

    def report(self, *, full: bool = False) -> dict[str, float]:
        """What there is to say about the last step beside its loss; nothing where no program is annealed.

        ``kl_weight``, or ``kl_weight_0`` and so on for several schedules, are the weights in that step. ``elbo`` is
        the unweighted ELBO of its batch after the step, in nats per datum, higher being better: an unbiased estimate
        by one particle (``TraceEnum_ELBO`` makes its own), with all modules in evaluation mode. It takes no random
        numbers from training. It is left out where it is not finite, and everything is after a skipped step.

        Arguments:
            full: have ``elbo`` in any case, and not only every ``report_every`` steps.
        """
        if self._batch is None:
            return {}
        several = len(self._weights) > 1
        report = {f"kl_weight_{i}" if several else "kl_weight": weight for i, weight in enumerate(self._weights)}
        if full or self.num_steps == 1 or self.num_steps % self.report_every == 0:
            elbo = self._unweighted_elbo(*self._batch)
            report.update({"elbo": elbo} if math.isfinite(elbo) else {})
        return report

    def schedules(self) -> Sequence[Schedule]:
        """What advances with each step taken: the schedules of annealings and objective, each once."""
        of_loss = self.loss.schedules() if isinstance(self.loss, Term) else ()
        found = [*(annealing.schedule for annealing in self._annealings), *of_loss]
        return list({id(schedule): schedule for schedule in found}.values())

    def state_dict(self) -> dict[str, Any]:
        """Everything a step depends on but the data and torch's generator: tensors and plain values.

        The tensors are the live ones, as torch's are: copy them to keep them while training goes on. Which kinds of
        arguments steps have been compiled for, or refused, or are on the way to it, is part of it: where it is loaded,
        the first step of each kind is preceded by what is needed for that, so that a run goes on bit by bit as it would
        have; docs/compiling.md names the exceptions.
        """
        modules = self._modules()
        return {
            "modules": {name: dict(module.state_dict()) for name, module in modules.items()},
            "store": {name: self._parameters[name].detach() for name in self._store_names},
            "optimizer_type": optimizer_kind(self._optim, self.optimizer),
            "optimizer": optimizer_state(self._optim, self.optimizer),
            "schedules": [schedule.state_dict() for schedule in self.schedules()],
            "num_steps": self.num_steps,
            "num_skipped": self.num_skipped,
            "compiled": json.dumps(self._progress()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what ``state_dict`` gave.

        Raises:
            ValueError: the state belongs to other programs; nothing has been changed then.
        """
        state = {"compiled": "{}", **state}
        check_state(self.state_dict(), state)
        progress = json.loads(state["compiled"])
        self._write(state)
        # copied, since torch would go on to write into it
        load_optimizer_state(self._optim, self.optimizer, copy.deepcopy(state["optimizer"]))
        self._batch = None
        if self._compiled is not None:
            self._compiled.reset()
        self._cold = progress if self._payoff.is_possible else {}

    def _progress(self) -> dict[str, int]:
        """As ``CompiledStep`` has it, with the kinds that have not come again since loading."""
        return {**self._cold, **({} if self._compiled is None else self._compiled.progress)}

    def _agree(self) -> bool:
        """Gives all processes the same values of parameters that are new to them."""
        if self._processes is None or not self._strangers:
            return False
        self._processes.agree(list(self._strangers.values()))
        self._strangers = {}
        return True

    def _warm_up(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Compiles a step that was compiled where the state was saved: takes it a few times, and takes that back.

        One that was on the way to it is taken as often as it had been; one that was refused is refused again.
        """
        if not self._cold:
            return
        self._compiled = self._compiled or self._make_compiled()
        kind = self._compiled.kind_of(args, kwargs)
        if kind not in self._cold:
            return
        num_taken = self._cold.pop(kind)
        if num_taken < 0:
            self._compiled.refuse(args, kwargs)
            return
        cold, self._cold = self._cold, {}
        generator_state, state = torch.get_rng_state(), copy.deepcopy(self.state_dict())
        try:
            with same_noise_afterwards():
                for _ in range(min(num_taken or MOST_WARM_UPS, MOST_WARM_UPS)):
                    if kind in self._compiled.kinds:
                        break
                    self.step(*args, **kwargs)
                    self._compiled.wait()
        except NonFiniteError:
            pass  # if this happens without the warm-up it will be raised again
        finally:
            self._write(state)
            restore(self.optimizer, state["optimizer"])
            self._cold = cold
            torch.set_rng_state(generator_state)

    def _write(self, state: Mapping[str, Any]) -> None:
        """Writes a state, but for the optimiser's, into the tensors at hand, which compiled steps hold on to."""
        for name, module in self._modules().items():
            module.load_state_dict(state["modules"][name])
        with torch.no_grad():
            for name, tensor in state["store"].items():
                self._parameters[name].copy_(tensor)
        for schedule, position in zip(self.schedules(), state["schedules"], strict=True):
            schedule.load_state_dict(position)
        self.num_steps, self.num_skipped = state["num_steps"], state["num_skipped"]

    def _average(self, loss: float) -> float:
        """The mean loss of all processes, whose gradients become their means; one process has its own."""
        parameters = self._optimized()
        return loss if self._processes is None or not parameters else self._processes.average(parameters, loss)

    def _optimized(self) -> list[Tensor]:
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        return [parameter for group in groups for parameter in group["params"]]

    def _make_compiled(self) -> CompiledStep:
        work, roots = functools.partial(self._run_loss, self.loss.loss_and_grads), (self.model, self.guide, self.loss)
        is_alone = self._processes is None
        return CompiledStep(work, roots, self._made_optimizer, self.clip_norm, self._compiler, with_update=is_alone)

    def _made_optimizer(self) -> Optimizer | None:
        return self._optimizer

    def _run_loss(self, loss: Any, *args: Any, **kwargs: Any) -> Any:
        return loss(self.model, self.guide, *args, **kwargs)

    def _loss(self, loss: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        with parameters_met() as met:
            value = loss(self.model, self.guide, *args, **kwargs)
        self._adopt(met)
        return float(sum(map(torch_item, value)) if isinstance(value, tuple) else torch_item(value))

    def _advance(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Moves the schedules on, and keeps what a report on the step needs."""
        if self._annealings:
            self._weights = [one.value for one in {id(one.schedule): one for one in self._annealings}.values()]
            self._batch = args, kwargs
        for schedule in self.schedules():
            schedule.step()

    @contextmanager
    def _unannealed(self) -> Iterator[None]:
        with ExitStack() as stack:
            for annealing in self._annealings:
                stack.enter_context(annealing.suspended())
            yield

    def _unweighted_elbo(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        """The ELBO per datum; without validation, so that programs that have diverged give NaN."""
        programs = self.model, self.guide
        with (
            self._unannealed(),
            fork_rng(),
            evaluation_mode(*programs),
            pyro.validation_enabled(False),
            poutine.block(),
        ):
            traces = run(*programs, args, kwargs)
            num_data = traces.num_data * traces.scale
            if isinstance(self.loss, TraceEnum_ELBO):  # whose latents need not all be in the guide
                return -float(torch_item(self.loss.loss(*programs, *args, **kwargs))) / num_data
            weights = weigh(traces)
            outer = (weights.global_log_p - weights.global_log_q).sum()
            return float(weights.local.sum() * weights.scale + outer) / num_data

    def _adopt(self, met: Mapping[str, Tensor]) -> None:
        """Takes in the parameters of the store that a run has met for the first time."""
        known = {id(parameter) for parameter in self._parameters.values()}
        new = {}
        for name, parameter in met.items():
            if name in self._store_names and id(parameter) not in known:
                self._exchange(name, parameter)
                known.add(id(parameter))
            elif id(parameter) not in known:
                new[name] = parameter
                known.add(id(parameter))  # two names may share a parameter
        if new and self._compiled is not None:
            self._compiled.reset()
        self._parameters.update(new)
        self._strangers.update(new)
        self._store_names += list(new)
        if self._optimizer is None:
            self._optimizer = build_optimizer(self._optim, self._parameters) if new else None
        elif new and not isinstance(self._optim, Optimizer):
            add_parameters(self._optim, self._optimizer, new)

    def _exchange(self, name: str, parameter: Tensor) -> None:
        """Trains what has taken the place of a parameter in the store, from the start; a running baseline does that."""
        old, self._parameters[name] = self._parameters[name], parameter
        assert self._optimizer is not None
        self._optimizer.state.pop(old, None)
        for group in self._optimizer.param_groups:
            group["params"] = [parameter if own is old else own for own in group["params"]]

    def _refuse(self, loss: float, generator_state: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        gradients = [
            f"the gradient of {name}"
            for name, p in self._parameters.items()
            if p.grad is not None and not p.grad.isfinite().all()
        ]
        self._zero_grad()
        self.num_skipped += 1
        if self.nonfinite == "skip":
            return
        sites = nonfinite_sites(self.model, self.guide, self.loss, generator_state, (args, kwargs))
        places = [*sites, *gradients[:3]]
        raise NonFiniteError(
            f"loss and gradient must be finite; got loss {loss} at step {self.num_steps + 1}, with NaN or infinity in "
            f"{', '.join(places) or 'the loss'}. The step was not taken. Check the data, lower the learning rate, "
            "set clip_norm, or pass nonfinite='skip'."
        )

    def _modules(self) -> dict[str, nn.Module]:
        pairs = {"model": module_of(self.model), "guide": module_of(self.guide)}
        if pairs["guide"] is pairs["model"]:
            del pairs["guide"]
        if isinstance(self.loss, Term):
            pairs.update(self.loss.parts())
        return {name: module for name, module in pairs.items() if module is not None}

    def _zero_grad(self) -> None:
        of_the_store = (parameter for _, parameter in pyro.get_param_store().named_parameters())
        for parameter in [*self._parameters.values(), *of_the_store]:
            parameter.grad = None
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
