"""A step that is traced once and then run as one function, as long as nothing it read in Python has changed."""

__all__ = ["CompiledStep", "Compiler", "Outcome"]

import math
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import torch
from pyro.ops.provenance import detach_provenance
from pyro.poutine import runtime
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree
from tqdm import tqdm

from pyro_dgm.infer.compiling.backends import BACKENDS, Function, build
from pyro_dgm.infer.compiling.capture import Capture, capture
from pyro_dgm.infer.compiling.guards import Guards, Key, Recorder
from pyro_dgm.infer.compiling.refusals import CompileError
from pyro_dgm.infer.compiling.updates import Counters, Update, can_fold

MOST = 8  # kinds of arguments, and states of what is read in Python, after which the rest stays as written


@dataclass(frozen=True)
class Compiler:
    """How steps are compiled.

    Arguments:
        backend: ``"inductor"``, or ``"graph"``: the traced graph as it is, without a compiler.
        wait: compile where a step is due, instead of in a thread while steps go on as written.
        quiet: say nothing of refusals and of compiling.

    Raises:
        ValueError: there is no such backend.
    """

    backend: str = "inductor"
    wait: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(
                f"the backend must be one of {BACKENDS}; got {self.backend!r}. 'inductor' makes the fastest steps."
            )


class Outcome(NamedTuple):
    """What a compiled step found.

    Arguments:
        loss: the loss, summed over its parts.
        norm: the norm of the gradient, before clipping.
        is_updated: whether the optimiser's update was part of the step; if not, the parameters have their gradients.
    """

    loss: float
    norm: float
    is_updated: bool


@dataclass
class _Special:
    """The step for one kind of arguments and one state of everything it reads in Python."""

    guards: Guards
    trained: list[Tensor]
    is_watched: bool = False
    versions: list[int] = field(default_factory=list)
    changed: list[Tensor] = field(default_factory=list)
    lifted: list[tuple[dict[str, Any], str, Tensor]] = field(default_factory=list)
    capture: Capture | None = None
    update: Update | None = None
    kinds: list[tuple[bool, torch.dtype]] = field(default_factory=list)
    run: Function | None = None
    inputs: list[Tensor] = field(default_factory=list)
    thread: threading.Thread | None = None
    error: BaseException | None = None


class CompiledStep:
    """Compiles a step: work that leaves gradients, and an optimiser's update.

    A step of new arguments is taken as it is written twice, the first time to make what is made at first use, the
    second time to see what Python state it reads. Then it is traced twice, on different data and noise; if both traces
    agree it is compiled. Before every compiled step everything it read is compared with what it was then: a float that
    has changed becomes an input, any other change selects or makes another version of the step.

    Arguments:
        work: called with a step's arguments; leaves gradients in the parameters and returns the loss.
        roots: the objects the work starts from: programs and objective.
        optimizer: returns the optimiser, or None as long as there is none.
        clip_norm: scales the gradient down to this norm when it is larger.
        compiler: how.
    """

    def __init__(
        self,
        work: Callable[..., Any],
        roots: Sequence[Any],
        optimizer: Callable[[], Optimizer | None],
        clip_norm: float | None,
        compiler: Compiler,
    ) -> None:
        self._work, self._roots, self._optimizer = work, roots, optimizer
        self._clip_norm, self._compiler = clip_norm, compiler
        self._uses: dict[Any, int] = {}
        self._specials: dict[Any, list[_Special]] = {}
        self._refusals: dict[Any, str] = {}
        self._lifted: dict[Key, tuple[dict[str, Any], str]] = {}
        self._unliftable: set[Key] = set()
        self._counters: Counters | None = None
        self._fixed_floats = False  # whether float arguments are part of the key, because the step reads them

    @property
    def refusals(self) -> list[str]:
        """Why steps of some arguments are taken as they are written."""
        return list(self._refusals.values())

    @property
    def num_compiled(self) -> int:
        """How many versions of the step have been compiled."""
        return sum(special.run is not None for specials in self._specials.values() for special in specials)

    def wait(self) -> None:
        """Waits for what is being compiled."""
        for specials in self._specials.values():
            for special in specials:
                if special.thread is not None:
                    special.thread.join()

    def reset(self) -> None:
        """Forgets everything compiled, as when parameters were born."""
        self._uses.clear()
        self._specials.clear()
        self._refusals.clear()

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outcome | None:
        """Takes a step if it has been compiled; None if it is to be taken as it is written, which ``observing`` sees.

        Where loss or gradient is not finite nothing has been changed.
        """
        key, tensors = self._key(args, kwargs)
        if key is None or key in self._refusals:
            return None
        special = self._current(key)
        if special is None or not special.is_watched:
            return None
        if special.run is None:
            self._advance(key, special, args, kwargs)
        if special.run is None or (special.thread is not None and special.thread.is_alive()):
            return None
        return self._take(special, tensors)

    @contextmanager
    def observing(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[None]:
        """Around a step's work as it is written: sees what it reads, when that is not known yet."""
        key, _ = self._key(args, kwargs)
        if key is None or key in self._refusals:
            yield
            return
        self._uses[key] = self._uses.get(key, 0) + 1
        special = self._current(key)
        try:
            if self._uses[key] == 1 or (special is not None and special.is_watched):
                yield
            elif special is not None:
                yield
                self._watch(special)
            else:
                with Recorder() as recorder:
                    yield
                self._note(key, recorder, args, kwargs)
        except CompileError as error:
            self._refuse(key, error)

    def _note(self, key: Any, recorder: Recorder, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Writes down what a step has read."""
        if len(self._specials.get(key, ())) >= MOST or (len(self._specials) >= MOST and key not in self._specials):
            raise CompileError(self._too_many(key))
        others = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if not isinstance(leaf, Tensor)]
        guards = recorder.guards(*self._roots, *others).without(self._lifted)
        lifted = [
            (place, name, torch.tensor(float(place[name]), dtype=torch.get_default_dtype()))
            for place, name in self._lifted.values()
            if name in place
        ]
        versions = [tensor._version for tensor in guards.tensors]
        self._specials.setdefault(key, []).append(_Special(guards, self._trained(), lifted=lifted, versions=versions))

    def _watch(self, special: _Special) -> None:
        """Sees what a step has changed of what it reads."""
        changes = special.guards.changes()
        own = [change for change in changes if change.is_own]
        if own:
            raise CompileError(
                f"a program must not change its own Python state, which a compiled step cannot do; got {own[0]}. Keep "
                "it in a buffer, or change it outside of the programs."
            )
        if changes:  # what a library's object notes down while it runs
            special.guards = special.guards.without([change.key for change in changes])
        found = zip(special.guards.tensors, special.versions, strict=True)
        special.changed = [tensor for tensor, version in found if tensor._version != version]
        special.is_watched = True

    def _too_many(self, key: Any) -> str:
        specials = self._specials.get(key)
        if specials:
            changes = "; ".join(map(str, specials[-1].guards.changes()[:3]))
            return (
                f"at most {MOST} states of what a step reads in Python are compiled; got more, the last with {changes}"
                ". Pass it as a tensor or float argument, or keep it in a tensor."
            )
        return (
            f"at most {MOST} kinds of arguments are compiled, by shape, dtype and value of what is no tensor; got more"
            ". Give batches the same shape."
        )

    def _take(self, special: _Special, tensors: Sequence[Tensor]) -> Outcome:
        update = special.update
        if update is not None:
            update.before()
            update.refresh()
        for place, name, tensor in special.lifted:
            tensor.fill_(place[name])
        assert special.run is not None
        with torch.no_grad():
            report, *gradients = special.run(*special.inputs, *tensors)
        loss, norm = report.tolist()
        if update is None:
            for parameter, gradient in zip(special.trained, gradients, strict=True):
                parameter.grad = gradient
        elif math.isfinite(loss) and math.isfinite(norm):
            update.count()
        return Outcome(loss, norm, update is not None)

    def _current(self, key: Any) -> _Special | None:
        """The version of the step for the Python state at hand, the last used first."""
        specials = self._specials.get(key, [])
        for place, special in enumerate(specials):
            if special.guards.hold() and self._is_bound(special):
                if place:
                    specials.insert(0, specials.pop(place))
                return special
        if specials:
            self._lift(specials)
        return None

    def _is_bound(self, special: _Special) -> bool:
        """Whether parameters and optimiser are what the version was made for."""
        if special.kinds and self._kinds() != special.kinds:
            return False
        return special.update is None or special.update.is_current()

    def _lift(self, specials: list[_Special]) -> None:
        """Makes inputs of floats that have changed, if nothing else has."""
        changes = specials[0].guards.changes()
        floats = [
            change
            for change in changes
            if change.place is not None and type(change.old) is float and type(change.new) is float
        ]
        liftable = [change for change in floats if change.key not in self._unliftable]
        if liftable and len(floats) == len(changes):
            for change in liftable:
                assert change.place is not None
                self._lifted[change.key] = (change.place, change.name)
            specials.clear()

    def _advance(self, key: Any, special: _Special, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Traces, or starts to compile what has been traced twice."""
        if special.thread is not None:
            if not special.thread.is_alive():
                self._refuse(key, special.error or CompileError("compiling came to nothing"))
            return
        try:
            self._trace(special, args, kwargs)
        except CompileError as error:
            self._unlift_or_refuse(key, special, args, kwargs, error)
        except Exception as error:  # of torch's, whose tracing and compiling may fail in any way; eager goes on
            self._refuse(key, error)

    def _unlift_or_refuse(
        self, key: Any, special: _Special, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: CompileError
    ) -> None:
        """Takes floats as they are, for the step looks at them, and tries again; or gives up."""
        if special.lifted:
            for place, name, _ in special.lifted:
                self._unliftable.add((id(place), name))
                self._lifted.pop((id(place), name), None)
            self._specials.pop(key, None)
        elif not self._fixed_floats and any(type(leaf) is float for leaf in pytree.tree_leaves((args, kwargs))):
            self._fixed_floats = True
            self.reset()
        else:
            self._refuse(key, error)

    def _trace(self, special: _Special, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        optimizer = self._optimizer()
        assert optimizer is not None
        if special.update is None and can_fold(optimizer):
            if self._counters is None or not self._counters.are_bound():
                self._counters = Counters(optimizer)
            special.update = Update(optimizer, special.trained, self._counters)
        special.kinds = self._kinds()
        others = self._others(special)
        found = self._captured(special, others, args, kwargs)
        if special.capture is None:
            special.capture = found
            return
        if not special.capture.agrees_with(found):
            raise CompileError(
                "a step must do the same on other data and noise; got two traces that differ, so it draws from "
                "Python's or NumPy's random numbers, reads a clock, or counts. Draw with torch, and pass what changes "
                "as an argument."
            )
        special.inputs = [*found.live, *found.outside]
        special.capture = found
        self._compile(special, [*special.inputs, *_tensors_of(args, kwargs, self._fixed_floats)])

    def _captured(
        self, special: _Special, others: list[Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Capture:
        tensors = _tensors_of(args, kwargs, self._fixed_floats)
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        store = pyro.get_param_store()._params

        def work(*batch: Tensor) -> list[Tensor]:
            given = iter(batch)
            filled = [next(given) if _is_input(leaf, self._fixed_floats) else leaf for leaf in leaves]
            own_args, own_kwargs = pytree.tree_unflatten(filled, spec)
            versions = [(tensor, tensor.clone(), tensor._version) for tensor in others]
            entries = dict(store)
            with torch.enable_grad(), _as_tensors(special.lifted):
                parts = pytree.tree_leaves(self._work(*own_args, **own_kwargs))
            self._put_back(entries, store)
            return self._outputs(special, parts, versions)

        before = dict(store)
        try:
            return capture(work, [*special.trained, *others], tensors)
        finally:
            for parameter in special.trained:
                parameter.grad = None
            store.clear()
            store.update(before)

    def _put_back(self, before: dict[str, Tensor], store: dict[str, Tensor]) -> None:
        """Writes what has replaced an entry of the store, such as a running baseline, into the old one."""
        if set(store) - set(before):
            raise CompileError(
                f"parameters must have been made before a step is compiled; got new ones, {set(store) - set(before)}. "
                "Make them at the first step."
            )
        for name, old in before.items():
            if store[name] is not old:
                detach_provenance(old).copy_(detach_provenance(store[name]).detach())

    def _outputs(
        self, special: _Special, parts: Sequence[Any], versions: Sequence[tuple[Tensor, Tensor, int]]
    ) -> list[Tensor]:
        """Does the update, and returns loss and norm, and the gradients if they are to be used outside."""
        if not parts or not all(isinstance(part, Tensor) for part in parts):
            raise CompileError(
                f"a loss must be a tensor to be compiled; got {[type(part).__name__ for part in parts]}. Do not turn "
                "it into a number inside the objective."
            )
        optimizer = self._optimizer()
        assert optimizer is not None
        all_parameters = [p for group in optimizer.param_groups for p in group["params"]]
        trained = [parameter for parameter in all_parameters if parameter.grad is not None]
        if set(map(id, trained)) != set(map(id, special.trained)):
            raise CompileError(
                "the same parameters must get a gradient at every step; got others than the step before. Freeze or "
                "unfreeze them between steps, not by chance."
            )
        loss = torch.stack([part.detach() for part in parts]).sum()
        gradients = [parameter.grad for parameter in special.trained if parameter.grad is not None]
        norm = torch.stack([(gradient * gradient).sum().to(loss) for gradient in gradients]).sum().sqrt()
        report = torch.stack([loss, norm])
        if special.update is None:
            return [report, *gradients]
        is_fine = report.isfinite().all()
        if self._clip_norm is not None:
            factor = (self._clip_norm / (norm + 1e-6)).clamp(max=1.0)
            gradients = [gradient * factor.to(gradient) for gradient in gradients]
        special.update(gradients, is_fine)
        mine = set(map(id, special.update.tensors))
        for tensor, old, version in versions:
            if tensor._version != version and id(tensor) not in mine:
                tensor.copy_(torch.where(is_fine, tensor, old))
        return [report]

    def _compile(self, special: _Special, inputs: list[Tensor]) -> None:
        captured, compiler = special.capture, self._compiler
        assert captured is not None

        def compile_it() -> None:
            start = time.perf_counter()
            try:
                special.run = build(captured.graph, inputs, compiler.backend)
            except Exception as error:  # shown by whoever finds the thread at its end
                special.error = error
                return
            if compiler.backend == "inductor" and not compiler.quiet:
                tqdm.write(f"compiled the step in {time.perf_counter() - start:.0f} s", file=sys.stderr)

        if compiler.wait or compiler.backend == "graph":
            compile_it()
            if special.error is not None:
                raise CompileError(f"the backend failed: {special.error}") from special.error
            return
        if not compiler.quiet:
            tqdm.write("compiling the step; until it is done, steps are taken as written", file=sys.stderr)
        special.thread = threading.Thread(target=compile_it, daemon=True, name="compile")
        special.thread.start()

    def _kinds(self) -> list[tuple[bool, torch.dtype]]:
        """What may change of a parameter that keeps its identity."""
        optimizer = self._optimizer()
        groups = [] if optimizer is None else optimizer.param_groups
        return [(parameter.requires_grad, parameter.dtype) for group in groups for parameter in group["params"]]

    def _trained(self) -> list[Tensor]:
        optimizer = self._optimizer()
        groups = [] if optimizer is None else optimizer.param_groups
        return [parameter for group in groups for parameter in group["params"] if parameter.grad is not None]

    def _others(self, special: _Special) -> list[Tensor]:
        """Everything else the step may change or that changes between steps."""
        modules = [value for value in special.guards.keep if isinstance(value, nn.Module)]
        tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        tensors += [detach_provenance(value) for value in pyro.get_param_store()._params.values()]
        tensors += [] if special.update is None else special.update.tensors
        tensors += [*special.changed, *(tensor for _, _, tensor in special.lifted)]
        trained = set(map(id, special.trained))
        return [tensor for tensor in {id(t): t for t in tensors}.values() if id(tensor) not in trained]

    def _key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Sequence[Tensor]]:
        """What selects a version of the step, None for what is never compiled; and the arguments that are inputs."""
        if runtime._PYRO_STACK or not torch.is_grad_enabled():
            return None, ()
        modes = torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        if not kwargs and all(type(value) is Tensor for value in args):
            kinds = tuple((t.shape, t.stride(), t.dtype, t.device) for t in args)
            return (None if any(t.requires_grad for t in args) else (modes, kinds)), args
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        parts: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                if leaf.requires_grad:
                    return None, ()
                parts.append((leaf.shape, leaf.stride(), leaf.dtype, leaf.device))
            elif type(leaf) is float and not self._fixed_floats:
                parts.append(float)
            else:
                parts.append((type(leaf), leaf if isinstance(leaf, str | int | float | bool | None) else id(leaf)))
        return (modes, spec, tuple(parts)), _tensors_of(args, kwargs, self._fixed_floats)

    def _refuse(self, key: Any, error: BaseException) -> None:
        """Leaves steps of these arguments as they are written, and says why, once."""
        reason = str(error) if isinstance(error, CompileError) else f"{type(error).__name__}: {error}"
        self._specials.pop(key, None)
        is_known = reason in self._refusals.values()
        self._refusals[key] = reason
        if not self._compiler.quiet and not is_known:
            warnings.warn(f"a step is not compiled and taken as written. {reason}", RuntimeWarning, stacklevel=4)


@contextmanager
def _as_tensors(lifted: Sequence[tuple[dict[str, Any], str, Tensor]]) -> Iterator[None]:
    """Puts tensors in the place of numbers."""
    before = [place[name] for place, name, _ in lifted]
    try:
        for place, name, tensor in lifted:
            place[name] = tensor
        yield
    finally:
        for (place, name, _), value in zip(lifted, before, strict=True):
            place[name] = value


def _is_input(leaf: Any, fixed_floats: bool) -> bool:
    return isinstance(leaf, Tensor) or (type(leaf) is float and not fixed_floats)


def _tensors_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], fixed_floats: bool) -> list[Tensor]:
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    return [torch.as_tensor(leaf) for leaf in leaves if _is_input(leaf, fixed_floats)]
