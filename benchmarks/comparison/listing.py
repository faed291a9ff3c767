"""Lists the tasks and methods that ``python -m benchmarks run`` knows, those of a user's files included."""

__all__ = ["main"]

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.comparison.cell import missing_packages
from benchmarks.comparison.method import Method
from benchmarks.comparison.registry import load
from benchmarks.comparison.task import Task


def main(argv: Sequence[str] | None = None) -> None:
    """Prints names, families and titles."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks list", description=__doc__)
    parser.add_argument("--user", type=Path, nargs="+", default=[], help="Python files with tasks and methods of yours")
    options = parser.parse_args(argv)
    try:
        registry = load(options.user)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    print("tasks")
    _print((task.name, task.family, task.title) for task in registry.tasks.values())
    print("\nmethods")
    _print((method.name, method.family, _title(method)) for method in registry.methods.values())


def _title(own: Task | Method) -> str:
    missing = missing_packages(own) if isinstance(own, Method) else []
    return f"{own.title} (not installed: {', '.join(missing)})" if missing else own.title


def _print(rows: Iterable[tuple[str, str, str]]) -> None:
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, family, title in rows:
        print(f"  {name:<{widths[0]}}  {family:<{widths[1]}}  {title}")


if __name__ == "__main__":
    main()
