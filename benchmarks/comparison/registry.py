"""Tasks and methods by name: those that are here, and those of a user's files."""

__all__ = ["Registry", "load"]

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from benchmarks.comparison.cells import NAME
from benchmarks.comparison.method import Method
from benchmarks.comparison.methods import METHODS
from benchmarks.comparison.task import Task
from benchmarks.comparison.tasks import TASKS


class Registry(NamedTuple):
    """All tasks and methods by name."""

    tasks: dict[str, Task]
    methods: dict[str, Method]

    def task(self, name: str) -> Task:
        """The task of a name.

        Raises:
            ValueError: there is none.
        """
        if name not in self.tasks:
            raise ValueError(
                f"a task must be one of {list(self.tasks)}; got {name!r}. python -m benchmarks list has them."
            )
        return self.tasks[name]

    def method(self, name: str) -> Method:
        """The method of a name.

        Raises:
            ValueError: there is none.
        """
        if name not in self.methods:
            raise ValueError(
                f"a method must be one of {list(self.methods)}; got {name!r}. python -m benchmarks list has them."
            )
        return self.methods[name]


def load(user_files: Sequence[Path] = ()) -> Registry:
    """What is here, and the subclasses of ``Task`` and ``Method`` in Python files, each made without arguments.

    The files are run: they are trusted as any program is that one starts. Their folders come first in ``sys.path`` from
    then on, as a program's does.

    Raises:
        ValueError: a file cannot be run or has neither, a class cannot be made, a name is taken, or name, title,
            family, reference or requires are not what they have to be.
    """
    registry = Registry({task.name: task for task in TASKS}, {method.name: method for method in METHODS})
    for path in user_files:
        found = _instances(_module(path), path)
        if not found:
            raise ValueError(
                f"a user's file must have a subclass of Task or Method; got {path}, which has none. See "
                "benchmarks/README.md."
            )
        for own in found:
            known = registry.tasks if isinstance(own, Task) else registry.methods
            _check(own, known, path)
            known[own.name] = own  # type: ignore[assignment]  # of its own kind
    return registry


def _module(path: Path) -> ModuleType:
    whole = path.resolve()
    name = f"benchmarks_of_user_{path.stem}_{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, whole)
    if spec is None or spec.loader is None or not whole.is_file():
        raise ValueError(f"--user names a Python file; got {path}. Give its path, such as my_method.py.")
    module = importlib.util.module_from_spec(spec)
    if str(whole.parent) not in sys.path:
        sys.path.insert(0, str(whole.parent))
    sys.modules[name] = module  # which dataclasses and pickles look in
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as err:
        del sys.modules[name]
        raise ValueError(
            f"a user's file must run without an error; got {path}{_line(err, whole)}: {_said(err)}. Mend the file."
        ) from err
    return module


def _instances(module: ModuleType, path: Path) -> list[Task | Method]:
    classes = [own for own in vars(module).values() if inspect.isclass(own) and own.__module__ == module.__name__]
    found = []
    for own in dict.fromkeys(classes):  # once, also under two names
        if issubclass(own, Task | Method) and not inspect.isabstract(own):
            try:
                found.append(own())
            except (Exception, SystemExit) as err:
                raise ValueError(
                    f"a user's class must be made without arguments; got {own.__name__} in {path}: {_said(err)}. Give "
                    "its arguments defaults, or make it a subclass that sets them."
                ) from err
    return found


def _said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}".rstrip(".")


def _line(error: BaseException, path: Path) -> str:
    """Where in the file the error came from, if it did."""
    numbers = [seen.lineno for seen in traceback.extract_tb(error.__traceback__) if Path(seen.filename) == path]
    return f", line {numbers[-1]}" if numbers else ""


def _check(own: Task | Method, known: Mapping[str, Task] | Mapping[str, Method], path: Path) -> None:
    """Raises a ``ValueError`` that names class and file unless what the class says of itself can be used."""
    where = f"of {type(own).__name__} in {path}"
    name = getattr(own, "name", None)
    if not isinstance(name, str) or not NAME.match(name):
        raise ValueError(
            f"a name is made of small letters, digits and single hyphens; got {name!r} {where}. Set for instance "
            "name = 'my-method'."
        )
    if name in known:
        raise ValueError(f"a name must be new; got {name!r} {where}, which there is already. Choose another.")
    words = {"title": "My method", "family": "user"}
    if isinstance(own, Task):
        words = {"title": "My task", "family": "data", "reference": "pyro-trace-elbo"}
    for attribute, example in words.items():
        value = getattr(own, attribute, None)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(
                f"a {attribute} must be a text that is not empty; got {value!r} {where}. Set for instance "
                f"{attribute} = {example!r}."
            )
    if isinstance(own, Method) and not _are_packages(own.requires):
        raise ValueError(
            f"requires must be a tuple of names of packages; got {own.requires!r} {where}. Set for instance "
            "requires = ('numpyro',)."
        )


def _are_packages(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) and name.strip() for name in value)
