"""The Python state a program reads, and whether it is still what it was when the program was traced.

A trace of tensors knows nothing of numbers, flags and strings: whatever a program took from its attributes, closures
and globals is frozen into it. So one run is observed, what it may have read is written down, and before every compiled
step it is compared: a few microseconds.
"""

__all__ = ["Change", "Guards", "Recorder"]

import dis
import functools
import operator
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.infer.compiling.refusals import LIBRARIES, CompileError

LIMIT = 50_000  # items compared before every step
MISSING = object()
DYNAMIC = {"getattr", "vars", "__dict__", "eval", "exec", "globals", "__getattribute__"}
LOOKUPS = DYNAMIC | {"hasattr", "__getattr__"}
LEAVES = (
    Tensor,
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    type,
    types.BuiltinFunctionType,
    types.CodeType,
    torch.dtype,
    torch.device,
    torch.Size,
    weakref.ref,
    range,
    slice,
)

Key = tuple[int, str]
"""The identity of a dictionary of attributes, and a name in it."""


class Change(NamedTuple):
    """One thing a program may read that is no longer what it was.

    Arguments:
        owner: what holds it, for people.
        name: of the attribute, variable or item.
        old: what it was.
        new: what it is.
        key: the identity of what holds it, and its name there.
        place: the dictionary that holds it, if it is an attribute or a global.
        is_own: whether it belongs to the user's code, not to a library's object.
    """

    owner: str
    name: str
    old: Any
    new: Any
    key: Key
    place: dict[str, Any] | None
    is_own: bool

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}, {_shown(self.old)} before and {_shown(self.new)} now"


class _Guard(NamedTuple):
    get: Callable[[Any], Any]
    source: Any
    saved: Any
    owner: str
    names: tuple[str, ...]
    is_own: bool


class Guards:
    """What a program may have read, and what it was then.

    Arguments:
        entries: how to read it again, and what was found.
        keep: what must stay alive so that identities mean something.
        tensors: those that were found, which a program may change in place.
    """

    def __init__(self, entries: Sequence[_Guard], keep: Sequence[Any], tensors: Sequence[Tensor]) -> None:
        self._entries = list(entries)
        self.keep, self.tensors = keep, tensors
        boxes = [entry for entry in entries if entry.get is _same]
        self._empty = [entry.source for entry in boxes if not entry.saved]
        self._boxes = [entry.source for entry in boxes if entry.saved]
        self._copies = [entry.saved for entry in boxes if entry.saved]
        self._rest = [(entry.get, entry.source, entry.saved) for entry in entries if entry.get is not _same]
        numbers = [(entry.source, _numbers_in(entry)) for entry in entries if _is_of_attributes(entry)]
        self._kinds = [
            (get, source, tuple(map(type, get(source))))
            for source, names in numbers
            if names
            for get in (operator.itemgetter(*names, names[0]),)
        ]

    def __len__(self) -> int:
        return sum(len(entry.names) for entry in self._entries)

    def hold(self) -> bool:
        """Whether everything is what it was."""
        try:
            if any(self._empty) or self._boxes != self._copies:
                return False
            for get, source, saved in self._rest:
                if get(source) != saved:
                    return False
            for get, source, kinds in self._kinds:  # 1, 1.0 and True are equal, and make different tensors
                if tuple(map(type, get(source))) != kinds:
                    return False
        except Exception:  # a key is gone, or two tensors were compared: then they are not the same one
            return False
        return True

    def changes(self) -> list[Change]:
        """What is no longer what it was."""
        return [change for entry in self._entries for change in _changes_of(entry)]

    def without(self, keys: Iterable[Key]) -> "Guards":
        """The same guards but for some attributes."""
        dropped = set(keys)
        entries = []
        for entry in self._entries:
            names = tuple(name for name in entry.names if (id(entry.source), name) not in dropped)
            if names == entry.names:
                entries.append(entry)
            elif names and _is_of_attributes(entry):
                entries.append(_of_dict(entry.source, names, entry.owner, entry.is_own))
        return Guards(entries, self.keep, self.tensors)


class Recorder:
    """Observes one run of a program, as a context, and then knows what it may have read."""

    def __init__(self) -> None:
        self._codes: set[types.CodeType] = set()
        self._globals: dict[int, tuple[dict[str, Any], set[str]]] = {}
        self._selves: dict[int, weakref.ref[Any]] = {}
        self._before: Any = None

    def __enter__(self) -> "Recorder":
        self._before = sys.getprofile()
        sys.setprofile(self._observe)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self._before)

    def guards(self, *roots: Any) -> Guards:
        """Everything reachable from some objects that the run may have read, as it is now.

        Raises:
            CompileError: it is too much to be compared before every step.
        """
        alive = [found for found in (ref() for ref in self._selves.values()) if found is not None]
        walk = _Walk(self._codes)
        for scope, names in self._globals.values():
            walk.scope(scope, names)
        for root in (*roots, *alive):
            walk.visit(root, type(root).__name__)
        walk.finish()
        return Guards(walk.entries, walk.keep, walk.tensors)

    def _observe(self, frame: types.FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        is_new = code not in self._codes
        self._codes.add(code)
        if _is_library(frame.f_globals.get("__name__", "")):
            return
        if is_new:
            scope = self._globals.setdefault(id(frame.f_globals), (frame.f_globals, set()))
            scope[1].update(_globals_of(code))
        if code.co_argcount:
            own = frame.f_locals.get(code.co_varnames[0])
            if hasattr(own, "__dict__") and not isinstance(own, LEAVES) and id(own) not in self._selves:
                try:
                    self._selves[id(own)] = weakref.ref(own)
                except TypeError:
                    return


class _Walk:
    """Goes through what is reachable, and writes down what is found."""

    def __init__(self, codes: set[types.CodeType]) -> None:
        self.entries: list[_Guard] = []
        self.keep: list[Any] = []
        self.tensors: list[Tensor] = []
        self._codes = codes
        self._seen: set[int] = set()
        self._queue: deque[tuple[Any, str, bool]] = deque()
        self._count = 0
        self._names = {name for code in codes for name in _attributes_of(code)}
        own = [code for code in codes if not _is_library_file(code.co_filename)]
        self._is_dynamic = any(DYNAMIC & set(code.co_names) for code in own)

    def scope(self, scope: dict[str, Any], names: set[str]) -> None:
        """Globals that a function names."""
        found = tuple(sorted(name for name in names if name in scope))
        self._add(scope, found, scope.get("__name__", "globals"), is_own=True)

    def visit(self, value: Any, owner: str, is_own: bool = True) -> None:
        """Puts an object on the list of those to go through."""
        if id(value) in self._seen:
            return
        if isinstance(value, Tensor):
            self._seen.add(id(value))
            self.tensors.append(value)
        if isinstance(value, LEAVES):
            return
        self._seen.add(id(value))
        self.keep.append(value)
        self._queue.append((value, owner, is_own))

    def finish(self) -> None:
        """Goes through all of them."""
        while self._queue:
            self._go_through(*self._queue.popleft())

    def _go_through(self, value: Any, owner: str, is_own: bool) -> None:
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self.visit(value.__self__, owner)
            self.visit(value.__func__, owner)
        elif isinstance(value, functools.partial):
            for item in (value.func, *value.args, *value.keywords.values()):
                self.visit(item, owner)
            self._instance(value, owner)
        elif isinstance(value, types.ModuleType):
            if not _is_library(value.__name__):
                self._add(value.__dict__, self._read_from(value.__dict__), value.__name__, is_own=True)
        elif isinstance(value, np.ndarray):
            self._entry(np.ndarray.tobytes, value, value.tobytes(), owner, ("contents",), True, value.size)
        elif isinstance(value, dict):
            self._box(value, owner, is_own, value.values())
        elif isinstance(value, list | set | deque):
            self._box(value, owner, is_own, value)
        elif isinstance(value, tuple | frozenset):
            for item in value:
                self.visit(item, owner, is_own)
        elif isinstance(value, types.CellType):
            self._cells((value,), owner)
        else:
            self._instance(value, owner)

    def _function(self, function: types.FunctionType) -> None:
        if function.__code__ not in self._codes:
            return
        if function.__closure__:
            self._cells(function.__closure__, function.__qualname__, function.__code__.co_freevars)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.visit(value, function.__qualname__)

    def _cells(self, cells: Sequence[types.CellType], owner: str, names: Sequence[str] = ()) -> None:
        contents = _contents(cells)
        self._entry(_contents, tuple(cells), contents, owner, tuple(names) or ("cell",), True, len(contents))
        for content in contents:
            self.visit(content, owner)

    def _instance(self, value: Any, owner: str) -> None:
        kind = type(value)
        is_own = not _is_library(kind.__module__)
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            everything = self._is_dynamic and is_own
            names = tuple(attributes) if everything else self._read_from(attributes)
            self._add(attributes, names, kind.__qualname__, is_own)
        slots = [name for base in kind.__mro__ for name in _slots_of(base) if name in self._names]
        for name in slots:
            if hasattr(value, name):
                content = getattr(value, name)
                get = operator.attrgetter(name, name)
                self._entry(get, value, (content, content), kind.__qualname__, (name,), is_own, 1)
                self.visit(content, kind.__qualname__, is_own)
        for base in kind.__mro__:
            if not _is_library(base.__module__):
                names = tuple(n for n in self._read_from(vars(base)) if not _is_code(vars(base)[n]))
                self._add(vars(base), names, base.__qualname__, is_own=True)
                for member in vars(base).values():
                    function = _function_of(member)
                    if function is not None:
                        self.visit(function, base.__qualname__)

    def _box(self, value: Any, owner: str, is_own: bool, items: Iterable[Any]) -> None:
        """A container that can change."""
        self._entry(_same, value, value.copy(), owner, ("items",), is_own, len(value))
        for item in items:
            self.visit(item, owner, is_own)

    def _read_from(self, attributes: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(name for name in attributes if name in self._names)

    def _add(self, attributes: Any, names: tuple[str, ...], owner: str, is_own: bool) -> None:
        if not names or (id(attributes) in self._seen):
            return
        self._seen.add(id(attributes))
        self._count += len(names)
        self._check(owner)
        self.entries.append(_of_dict(attributes, names, owner, is_own))
        self.keep.append(attributes)
        for name in names:
            self.visit(attributes[name], f"{owner}.{name}", is_own)

    def _entry(
        self,
        get: Callable[[Any], Any],
        source: Any,
        saved: Any,
        owner: str,
        names: tuple[str, ...],
        own: bool,
        size: int,
    ) -> None:
        self._count += size
        self._check(owner)
        self.entries.append(_Guard(get, source, saved, owner, names, own))

    def _check(self, owner: str) -> None:
        if self._count > LIMIT:
            raise CompileError(
                f"a program's Python state must have at most {LIMIT:,} items, for they are compared before every step; "
                f"got more, the last in {owner}. Keep large lists and arrays out of model and guide, or make them "
                "tensors."
            )


def _is_of_attributes(entry: _Guard) -> bool:
    return isinstance(entry.get, operator.itemgetter)


def _numbers_in(entry: _Guard) -> tuple[str, ...]:
    return tuple(name for name in entry.names if type(entry.source[name]) in (int, float))


def _of_dict(attributes: Any, names: tuple[str, ...], owner: str, is_own: bool) -> _Guard:
    get = operator.itemgetter(*names, names[0])  # at least two, so that it gives a tuple
    return _Guard(get, attributes, get(attributes), owner, names, is_own)


def _changes_of(entry: _Guard) -> Iterator[Change]:
    if _is_of_attributes(entry):
        old, new = entry.saved, tuple(entry.source.get(name, MISSING) for name in entry.names)
    elif entry.get is _contents or isinstance(entry.get, operator.attrgetter):
        old, new = entry.saved, entry.get(entry.source)
    else:
        old, new = (entry.saved,), (entry.get(entry.source),)
    place = entry.source if _is_of_attributes(entry) and isinstance(entry.source, dict) else None
    for name, before, now in zip(entry.names, old, new, strict=False):
        if not _is_same(before, now):
            yield Change(entry.owner, name, before, now, (id(entry.source), name), place, entry.is_own)


def _is_same(one: Any, other: Any) -> bool:
    try:
        return bool(one is other or (type(one) is type(other) and one == other))
    except Exception:
        return False


def _same(value: Any) -> Any:
    return value


def _contents(cells: Sequence[types.CellType]) -> tuple[Any, ...]:
    return tuple(_content(cell) for cell in cells)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return MISSING


@functools.cache
def _globals_of(code: types.CodeType) -> frozenset[str]:
    """Names of globals that a function may read, the functions inside of it included."""
    found = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return frozenset(found.union(*map(_globals_of, inner)))


@functools.cache
def _attributes_of(code: types.CodeType) -> frozenset[str]:
    """Names of attributes that a function may read; all its strings, where it looks attributes up by strings."""
    found = set(code.co_names)
    if found & LOOKUPS:
        found |= {constant for constant in code.co_consts if isinstance(constant, str) and constant.isidentifier()}
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return frozenset(found.union(*map(_attributes_of, inner)))


@functools.cache
def _is_library(module: str) -> bool:
    root = module.partition(".")[0]
    return root in LIBRARIES or (root in sys.stdlib_module_names and root != "__main__")


@functools.cache
def _is_library_file(path: str) -> bool:
    own = [getattr(sys.modules.get(name), "__file__", None) for name in LIBRARIES]
    folders = [file.rpartition("/")[0] + "/" for file in own if file]
    is_standard = path.startswith(functools.__file__.rpartition("/")[0] + "/") and "site-packages" not in path
    return is_standard or path.startswith("<frozen") or any(path.startswith(folder) for folder in folders)


def _slots_of(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ()) if not _is_library(kind.__module__) else ()
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_code(value: Any) -> bool:
    return isinstance(value, types.FunctionType | classmethod | staticmethod | property | functools.cached_property)


def _function_of(member: Any) -> types.FunctionType | None:
    if isinstance(member, classmethod | staticmethod):
        member = member.__func__
    elif isinstance(member, property):
        member = member.fget
    return member if isinstance(member, types.FunctionType) else None


def _shown(value: Any) -> str:
    if value is MISSING:
        return "not there"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
