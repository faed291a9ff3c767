"""The record of one cell of the grid, task x method x seed, and the file it is kept in."""

__all__ = ["STATUSES", "Cell", "Metric", "cell_path", "read_cell", "read_cells", "write_cell"]

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, final

from pyro_dgm.files import replace_atomically

VERSION = 1
STATUSES = ("done", "failed", "killed")
BETTER = ("higher", "lower", "zero")
NAME = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*\Z")  # no two hyphens in a row, which part the names of a file

_KINDS: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "method": str,
    "seed": int,
    "title": dict,
    "family": dict,
    "status": str,
    "reason": (str, type(None)),
    "budget": dict,
    "protocol": dict,
    "curve": list,
    "metrics": dict,
    "seconds": (int, float, type(None)),
    "reference": (dict, type(None)),
    "peak_memory_mb": (int, float, type(None)),
}


class Metric(NamedTuple):
    """A measured number, with what it says.

    Arguments:
        value: the number; None where there is none, and ``meaning`` then says why.
        unit: such as ``"nats per datum"``.
        better: which way is good: ``"higher"``, ``"lower"``, or ``"zero"`` for what should vanish.
        meaning: in words: what it is, of how many draws, from which side it bounds.
        standard_error: of the value, where it is known.
    """

    value: float | None
    unit: str
    better: str
    meaning: str
    standard_error: float | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method on one task from one seed: what was measured, and all that has to be said of it.

    Arguments:
        task: name of the task.
        method: name of the method.
        seed: of initialisation, order of the data and all noise.
        title: of ``"task"`` and ``"method"``, to be shown.
        family: of ``"task"``, ``"exact"`` or ``"data"``, and of ``"method"``, whose code it is.
        status: ``"done"``, ``"failed"`` by an error of its own, or ``"killed"``, by a signal or over its limit.
        reason: why it is not done, in one line; else None.
        budget: ``{"steps": number}`` or ``{"seconds": number}``.
        protocol: data, their digest, binarisation and split, versions, machine, threads, and whether cells ran beside
            each other.
        curve: what was seen on the way: step, seconds of training, and some metrics by name.
        metrics: at the end, by name.
        seconds: of training; None where it is not known, or cells ran beside each other.
        reference: time per step against another method, taken in turns in the same process; or None.
        peak_memory_mb: the most the process held, in megabytes.
    """

    task: str
    method: str
    seed: int
    title: Mapping[str, str]
    family: Mapping[str, str]
    status: str
    budget: Mapping[str, float]
    reason: str | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    seconds: float | None = None
    reference: Mapping[str, Any] | None = None
    peak_memory_mb: float | None = None


def cell_path(folder: Path, task: str, method: str, seed: int) -> Path:
    """Where a cell is kept: ``TASK--METHOD--SEED.json``."""
    return folder / f"{task}--{method}--{seed}.json"


def write_cell(folder: Path, cell: Cell) -> Path:
    """Writes a cell's file, whole or not at all; numbers that are not finite become null.

    Raises:
        ValueError: the cell is not as it should be; nothing is written then.
    """
    content = _finite({"version": VERSION, **asdict(cell)})
    content["metrics"] = {name: _finite(metric._asdict()) for name, metric in cell.metrics.items()}
    path = cell_path(folder, cell.task, cell.method, cell.seed)
    _checked(content, path)
    folder.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as draft:
        draft.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def read_cell(path: Path) -> Cell:
    """Reads a cell's file.

    Raises:
        ValueError: the file is damaged, of another version, or is not named as the cell in it; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as err:
        raise ValueError(f"a cell's file must hold JSON; got {path} with: {err}. Delete it, and run again.") from err
    _checked(content, path)
    metrics = {name: Metric(**metric) for name, metric in content["metrics"].items()}
    return Cell(**{name: content[name] for name in _KINDS if name != "metrics"}, metrics=metrics)


def read_cells(folder: Path) -> list[Cell]:
    """All cells of a folder, in the order of their files' names.

    Raises:
        ValueError: there is no such folder, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"cells are read from a folder; got {folder}, which is none. Run the grid with --runs first.")
    return [read_cell(path) for path in sorted(folder.glob("*.json"))]


def _finite(value: Any) -> Any:
    """The same with None for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(own) for key, own in value.items()}
    return [_finite(own) for own in value] if isinstance(value, list | tuple) else value


def _checked(content: Any, path: Path) -> None:
    """Raises a ``ValueError`` that names the file unless the content is that of a cell."""
    wrong = _wrong(content, path)
    if wrong is not None:
        raise ValueError(f"a cell must be as benchmarks/comparison/cells.py says; got {path} {wrong}. Delete the file "
                         "if it is damaged, and run again.")  # fmt: skip


def _wrong(content: Any, path: Path) -> str | None:
    if not isinstance(content, dict) or content.get("version") != VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        return f"of version {version!r} instead of {VERSION}"
    missing = [name for name in _KINDS if name not in content]
    if missing:
        return f"without {missing}"
    kinds = [name for name, kind in _KINDS.items() if not isinstance(content[name], kind)]
    if kinds or isinstance(content["seed"], bool):
        return f"with another kind of value than it should have for {kinds or ['seed']}"
    names = [content["task"], content["method"]]
    if not all(map(NAME.match, names)) or path.name != cell_path(path.parent, *names, content["seed"]).name:
        return f"with the cell {'--'.join([*names, str(content['seed'])])} in it, which is not its name"
    if content["status"] not in STATUSES or (content["status"] == "done") != (content["reason"] is None):
        return f"with the status {content['status']!r} and the reason {content['reason']!r}"
    if list(content["budget"]) not in (["steps"], ["seconds"]):
        return f"with the budget {content['budget']!r}"
    return _wrong_numbers(content)


def _wrong_numbers(content: Mapping[str, Any]) -> str | None:
    for name, metric in content["metrics"].items():
        if not isinstance(metric, dict) or set(metric) != set(Metric._fields) or metric["better"] not in BETTER:
            return f"with the metric {name!r} that is {metric!r}"
        if not _is_number(metric["value"]) or not _is_number(metric["standard_error"]):
            return f"with the metric {name!r} whose value or error is no number"
    for look in content["curve"]:
        if not isinstance(look, dict) or "step" not in look or not all(map(_is_number, look.values())):
            return f"with the look {look!r} in its curve"
    return None


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
