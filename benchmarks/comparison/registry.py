"""Tasks and methods by name: those that are here, and those of a user's files."""

__all__ = ["Registry", "load"]

import importlib.util
import inspect
import sys
from collections.abc import Sequence
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

    The files are run: they are trusted as any program is that one starts.

    Raises:
        ValueError: a file cannot be read or has neither, or a name is taken or no name.
    """
    registry = Registry({task.name: task for task in TASKS}, {method.name: method for method in METHODS})
    for path in user_files:
        found = _instances(_module(path))
        if not found:
            raise ValueError(
                f"a user's file must have a subclass of Task or Method; got {path}, which has none. See "
                "benchmarks/README.md."
            )
        for own in found:
            known = registry.tasks if isinstance(own, Task) else registry.methods
            _check_name(getattr(own, "name", None), known, path, type(own).__name__)
            known[own.name] = own  # type: ignore[assignment]  # of its own kind
    return registry


def _module(path: Path) -> ModuleType:
    name = f"benchmarks_of_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"--user names a Python file; got {path}. Give its path, such as my_method.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # which dataclasses and pickles look in
    spec.loader.exec_module(module)
    return module


def _instances(module: ModuleType) -> list[Task | Method]:
    classes = [own for own in vars(module).values() if inspect.isclass(own) and own.__module__ == module.__name__]
    return [own() for own in classes if issubclass(own, Task | Method) and not inspect.isabstract(own)]


def _check_name(name: object, known: dict[str, Task] | dict[str, Method], path: Path, kind: str) -> None:
    if not isinstance(name, str) or not NAME.match(name):
        raise ValueError(
            f"a name is made of small letters, digits and single hyphens; got {name!r} of {kind} in {path}. Set for "
            "instance name = 'my-method'."
        )
    if name in known:
        raise ValueError(
            f"a name must be new; got {name!r} of {kind} in {path}, which there is already. Choose another."
        )
