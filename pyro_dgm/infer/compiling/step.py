"""A step that is traced once and then run as one function, as long as nothing it read in Python has changed."""

__all__ = ["CompiledStep", "Outcome"]

import copy
import itertools
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro.ops.provenance import detach_provenance
from pyro.poutine import runtime
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from pyro_dgm.infer.compiling.building import Build, Compiler, is_busy, wait_for_all
from pyro_dgm.infer.compiling.chaining import chained, is_total, num_chained
from pyro_dgm.infer.compiling.guards import Key, Recorder
from pyro_dgm.infer.compiling.refusals import CompileError
from pyro_dgm.infer.compiling.tracing import Arguments, Version, trace
from pyro_dgm.infer.compiling.updates import Counters, Update, can_fold

MOST = 8  # kinds of arguments, and states of what is read in Python, after which the rest stays as written


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
        with_update: make the optimiser's update a part of it, where that is possible.
    """

    def __init__(
        self,
        work: Callable[..., Any],
        roots: Sequence[Any],
        optimizer: Callable[[], Optimizer | None],
        clip_norm: float | None,
        compiler: Compiler,
        with_update: bool = True,
    ) -> None:
        self._work, self._roots, self._optimizer = work, roots, optimizer
        self._clip_norm, self._compiler, self._with_update = clip_norm, compiler, with_update
        self._uses: dict[Any, int] = {}  # steps taken as written
        self._versions: dict[Any, list[Version]] = {}
        self._refusals: dict[Any, str] = {}
        self._lifted: dict[Key, tuple[dict[str, Any], str]] = {}
        self._unliftable: set[Key] = set()
        self._counters: Counters | None = None
        self._fixed_floats = False  # whether float arguments are part of the key, because the step reads them

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledStep":
        """A step of the copied programs, nothing of which has been compiled."""
        work, roots, optimizer = copy.deepcopy((self._work, self._roots, self._optimizer), memo)
        return CompiledStep(work, roots, optimizer, self._clip_norm, self._compiler, self._with_update)

    @property
    def refusals(self) -> list[str]:
        """Why steps of some arguments are taken as they are written."""
        return list(self._refusals.values())

    @property
    def num_compiled(self) -> int:
        """How many versions of the step have been compiled."""
        return sum(version.run is not None for versions in self._versions.values() for version in versions)

    @property
    def kinds(self) -> list[str]:
        """The kinds of arguments for which the step has been compiled."""
        return [str(key) for key, versions in self._versions.items() if any(v.run for v in versions)]

    @property
    def progress(self) -> dict[str, int]:
        """How many steps of each kind have been taken as written; 0 for compiled kinds, and -1 for refused ones."""
        found = {str(key): number for key, number in self._uses.items()}
        return {**found, **dict.fromkeys(self.kinds, 0), **dict.fromkeys(map(str, self._refusals), -1)}

    def refuse(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Takes steps of some arguments as written from now on, because they were in the run that is gone on with."""
        self._refusals[self._key(args, kwargs)[0]] = "it was taken as written before the state was saved"

    def kind_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The kind of some arguments: shapes, types, what is no tensor, and torch's modes."""
        return str(self._key(args, kwargs)[0])

    def wait(self) -> None:
        """Waits for what is being compiled."""
        for versions in self._versions.values():
            for version in versions:
                for build in (version.build, version.chain):
                    if build is not None:
                        build.wait()

    def reset(self) -> None:
        """Forgets everything compiled, as when parameters were born."""
        self._uses.clear()
        self._versions.clear()
        self._refusals.clear()

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outcome | None:
        """Takes a step if it has been compiled; None if it is to be taken as it is written, which ``observing`` sees.

        Where loss or gradient is not finite nothing has been changed.
        """
        key, tensors = self._key(args, kwargs)
        if key is None or key in self._refusals:
            return None
        version = self._current(key)
        if version is None or not version.is_watched:
            return None
        if version.run is None:
            self._advance(key, version, args, kwargs)
        return None if version.run is None else self._take(version, tensors)

    @contextmanager
    def observing(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[None]:
        """Around a step's work as it is written: sees what it reads, when that is not known yet."""
        key, _ = self._key(args, kwargs)
        if key is None or key in self._refusals:
            yield
            return
        self._uses[key] = self._uses.get(key, 0) + 1
        version = self._current(key)
        try:
            if self._uses[key] == 1 or (version is not None and version.is_watched):
                yield
            elif version is not None:
                yield
                self._watch(version)
            else:
                with Recorder() as recorder:
                    yield
                self._note(key, recorder, args, kwargs)
        except CompileError as error:
            self._refuse(key, error)

    def _note(self, key: Any, recorder: Recorder, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Writes down what a step has read."""
        if len(self._versions.get(key, ())) >= MOST or (len(self._versions) >= MOST and key not in self._versions):
            raise CompileError(self._too_many(key))
        others = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if not isinstance(leaf, Tensor)]
        guards = recorder.guards(*self._roots, *others).without(self._lifted)
        lifted = [
            (place, name, torch.tensor(float(place[name]), dtype=torch.get_default_dtype()))
            for place, name in self._lifted.values()
            if name in place
        ]
        counts = [tensor._version for tensor in guards.tensors]
        self._versions.setdefault(key, []).append(Version(guards, self._trained(), lifted=lifted, write_counts=counts))

    def _watch(self, version: Version) -> None:
        """Sees what a step has changed of what it reads."""
        changes = version.guards.changes()
        own = [change for change in changes if change.is_own]
        if own:
            raise CompileError(
                f"a program must not change its own Python state, which a compiled step cannot do; got {own[0]}. Keep "
                "it in a buffer, or change it outside of the programs."
            )
        if changes:  # what a library's object notes down while it runs
            version.guards = version.guards.without([change.key for change in changes])
        found = zip(version.guards.tensors, version.write_counts, strict=True)
        version.changed = [tensor for tensor, count in found if tensor._version != count]
        version.is_watched = True

    def _too_many(self, key: Any) -> str:
        versions = self._versions.get(key)
        if versions:
            changes = "; ".join(map(str, versions[-1].guards.changes()[:3]))
            return (
                f"at most {MOST} states of what a step reads in Python are compiled; got more, the last with {changes}"
                ". Pass it as a tensor or float argument, or keep it in a tensor."
            )
        return (
            f"at most {MOST} kinds of arguments are compiled, by shape, dtype and value of what is no tensor; got more"
            ". Give batches the same shape."
        )

    def _take(self, version: Version, tensors: Sequence[Tensor]) -> Outcome:
        update = version.update
        if update is not None:
            update.refresh()
        for place, name, tensor in version.lifted:
            tensor.fill_(place[name])
        assert version.run is not None
        with torch.no_grad():
            report, *gradients = version.run(*version.inputs, *tensors)
        loss, norm = report.tolist()
        if update is None:
            for parameter, gradient in zip(version.trained, gradients, strict=True):
                parameter.grad = gradient
        elif math.isfinite(loss) and math.isfinite(norm):
            update.count()
        else:
            update.release()
        return Outcome(loss, norm, update is not None)

    def run_several(self, batches: Sequence[tuple[Any, ...]]) -> list[float] | None:
        """Takes a step for each batch of positional arguments, and looks at the losses only then.

        What a step reads in Python is compared once, before the first. Only the first batches of one kind are taken,
        and from the first whose loss or gradient is not finite on nothing has been changed: the losses of those before
        are returned, and torch's generator is where it was after them. None if they are of no compiled version with
        the update in it.
        """
        key, _ = self._key(batches[0], {})
        if key is None or key in self._refusals:
            return None
        kinds = (self._key(batch, {}) for batch in batches)
        inputs = [tensors for _, tensors in itertools.takewhile(lambda found: found[0] == key, kinds)]
        version = self._current(key)
        if version is None or version.run is None or version.update is None or not version.update.counts_itself:
            return None
        if not version.is_total:
            return None
        version.update.refresh()
        for place, name, tensor in version.lifted:
            tensor.fill_(place[name])
        generator_state = torch.get_rng_state()
        with torch.no_grad():
            calls = self._calls(version, inputs)
            reports = torch.cat([function(*version.inputs, *tensors)[0].view(-1, 2) for function, tensors in calls])
            is_fine = reports.isfinite().all(dim=1).tolist()
            if False in is_fine:
                reports = reports[: is_fine.index(False)]
                torch.set_rng_state(generator_state)
                for tensors in inputs[: len(reports)]:  # which are halted, and do nothing but draw
                    version.run(*version.inputs, *tensors)
                version.update.release()
        losses: list[float] = reports[:, 0].tolist()
        return losses

    def _calls(self, version: Version, inputs: list[Sequence[Tensor]]) -> Iterator[tuple[Any, Sequence[Tensor]]]:
        """The functions to call one after the other, chains first, with the batches of each."""
        assert version.capture is not None
        graph, live = version.capture.graph, version.inputs
        size = version.num_chained or num_chained(graph, [*live, *inputs[0]], len(inputs))
        if version.chain is None and size > 1 and not is_busy():
            version.num_chained = size
            several = chained(graph, len(inputs[0]), size), [*live, *itertools.chain(*inputs[:size])]
            version.chain = Build(*several, self._compiler, f"{size} steps in one", is_whole=True)
        chain = None if version.chain is None else version.chain.function
        num_in_chains = 0 if chain is None else len(inputs) - len(inputs) % size
        for start in range(0, num_in_chains, size):
            yield chain, list(itertools.chain(*inputs[start : start + size]))
        for tensors in inputs[num_in_chains:]:
            yield version.run, tensors

    def _current(self, key: Any) -> Version | None:
        """The version of the step for the Python state at hand, the last used first."""
        versions = self._versions.get(key, [])
        for place, version in enumerate(versions):
            if version.guards.hold() and self._is_bound(version):
                if place:
                    versions.insert(0, versions.pop(place))
                return version
        if versions:
            self._lift(versions)
        return None

    def _is_bound(self, version: Version) -> bool:
        """Whether parameters and optimiser are what the version was made for."""
        if version.kinds and self._kinds() != version.kinds:
            return False
        if version.capture is not None and any(tensor._version != count for tensor, count in version.capture.frozen):
            return False
        return (version.update is None or version.update.is_current()) and self._is_stored(version)

    def _is_stored(self, version: Version) -> bool:
        """Whether the store has the same parameters; what is not trained may have been replaced, as baselines are."""
        store = pyro.get_param_store()._params
        if version.run is None or _is_same_store(store, version.store):
            return True
        if store.keys() != version.store.keys():
            return False
        trained, places = set(map(id, version.trained)), {id(tensor): i for i, tensor in enumerate(version.inputs)}
        for name, old in version.store.items():
            before, now = detach_provenance(old), detach_provenance(store[name])
            if now is not before and id(before) in places:
                if id(before) in trained or (now.shape, now.dtype) != (before.shape, before.dtype):
                    return False
                version.inputs[places[id(before)]] = now
        version.store = dict(store)
        return True

    def _lift(self, versions: list[Version]) -> None:
        """Makes inputs of floats that have changed, if nothing else has."""
        changes = versions[0].guards.changes()
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
            versions.clear()

    def _advance(self, key: Any, version: Version, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Traces, or starts to compile what has been traced twice."""
        if version.build is not None:
            if version.build.is_over:
                self._refuse(key, version.build.error or CompileError("compiling came to nothing"))
            return
        if self._compiler.wait:
            wait_for_all()
        if is_busy():
            return
        try:
            self._trace(version, args, kwargs)
        except CompileError as error:
            self._unlift_or_refuse(key, version, args, kwargs, error)
        except Exception as error:  # of torch's, whose tracing and compiling may fail in any way; eager goes on
            self._refuse(key, error)

    def _unlift_or_refuse(
        self, key: Any, version: Version, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: CompileError
    ) -> None:
        """Takes floats as they are, for the step looks at them, and tries again; or gives up."""
        if version.lifted:
            for place, name, _ in version.lifted:
                self._unliftable.add((id(place), name))
                self._lifted.pop((id(place), name), None)
            self._versions.pop(key, None)
        elif not self._fixed_floats and any(type(leaf) is float for leaf in pytree.tree_leaves((args, kwargs))):
            self._fixed_floats = True
            self.reset()
        else:
            self._refuse(key, error)

    def _trace(self, version: Version, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        optimizer = self._optimizer()
        assert optimizer is not None
        if version.update is None and self._with_update and can_fold(optimizer):
            if self._counters is None or not self._counters.are_bound():
                self._counters = Counters(optimizer)
            version.update = Update(optimizer, version.trained, self._counters)
        version.kinds = self._kinds()
        found = trace(version, self._work, optimizer, self._clip_norm, Arguments(args, kwargs, self._fixed_floats))
        if version.capture is None:
            version.capture = found
            return
        if not version.capture.agrees_with(found):
            raise CompileError(
                "a step must do the same on other data and noise; got two traces that differ, so it draws from "
                "Python's or NumPy's random numbers, reads a clock, or counts. Draw with torch, and pass what changes "
                "as an argument."
            )
        version.inputs, version.store = [*found.live, *found.outside], dict(pyro.get_param_store()._params)
        version.capture = found
        inputs = [*version.inputs, *Arguments(args, kwargs, self._fixed_floats).tensors]
        version.is_total = is_total(found.graph)
        version.build = Build(found.graph, inputs, self._compiler, "the step")
        if version.build.is_over and version.build.error is not None:
            raise CompileError(f"the backend failed: {version.build.error}") from version.build.error

    def _kinds(self) -> list[tuple[bool, torch.dtype]]:
        """What may change of a parameter that keeps its identity."""
        optimizer = self._optimizer()
        groups = [] if optimizer is None else optimizer.param_groups
        return [(parameter.requires_grad, parameter.dtype) for group in groups for parameter in group["params"]]

    def _trained(self) -> list[Tensor]:
        optimizer = self._optimizer()
        groups = [] if optimizer is None else optimizer.param_groups
        return [parameter for group in groups for parameter in group["params"] if parameter.grad is not None]

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
        return (modes, spec, tuple(parts)), Arguments(args, kwargs, self._fixed_floats).tensors

    def _refuse(self, key: Any, error: BaseException) -> None:
        """Leaves steps of these arguments as they are written, and says why, once."""
        reason = str(error) if isinstance(error, CompileError) else f"{type(error).__name__}: {error}"
        self._versions.pop(key, None)
        is_known = reason in self._refusals.values()
        self._refusals[key] = reason
        if not self._compiler.quiet and not is_known:
            warnings.warn(f"a step is not compiled and taken as written. {reason}", RuntimeWarning, stacklevel=4)


def _is_same_store(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one.values(), other.values()))
