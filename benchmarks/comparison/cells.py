"""The record of one cell of the grid, task x method x seed, and the file it is kept in."""

__all__ = ["STATUSES", "Cell", "DamagedCell", "Metric", "cell_path", "read_cell", "write_cell"]

import json
import math
import re
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, final

from pyro_dgm.files import replace_atomically

VERSION = 1
STATUSES = ("done", "failed", "killed")
BETTER = ("higher", "lower", "zero")
BUDGETS = ("steps", "seconds")
NAME = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*\Z")  # no two hyphens in a row, which part the names of a file


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

    @property
    def file(self) -> str:
        """Name of the file that it is kept in."""
        return cell_path(Path(), self.task, self.method, self.seed).name

    @property
    def is_sequential(self) -> bool:
        """Whether nothing else of the comparison ran beside it, so that its times can be compared."""
        return not self.protocol.get("parallel", False)


@final
class DamagedCell(ValueError):
    """A file does not hold the cell that its name says.

    Arguments:
        path: of the file.
        reason: what is wrong where, in a line.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"a cell's file must be as benchmarks/comparison/cells.py says; got {path}: {reason}. Delete it if it is "
            "damaged, and run again."
        )
        self.reason = reason


def cell_path(folder: Path, task: str, method: str, seed: int) -> Path:
    """Where a cell is kept: ``TASK--METHOD--SEED.json``."""
    return folder / f"{task}--{method}--{seed}.json"


def write_cell(folder: Path, cell: Cell) -> Path:
    """Writes a cell's file, whole or not at all; numbers that are not finite become null.

    Raises:
        DamagedCell: the cell is not as it should be; nothing is written then.
    """
    content = _finite({"version": VERSION, **vars(cell)})
    path = folder / cell.file
    _checked(content, path)
    folder.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as draft:
        draft.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def read_cell(path: Path) -> Cell:
    """Reads a cell's file.

    Raises:
        DamagedCell: the file is damaged, of another version, or is not named as the cell in it; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise DamagedCell(path, "not UTF-8") from None
    except json.JSONDecodeError as err:
        raise DamagedCell(path, f"not JSON: {err}") from err
    return _checked(content, path)


def _finite(value: Any) -> Any:
    """The same as JSON has it, with None for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Metric):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _finite(own) for key, own in value.items()}
    return [_finite(own) for own in value] if isinstance(value, list | tuple) else value


def _checked(content: Any, path: Path) -> Cell:
    try:
        cell = _cell(content)
        if cell.file != path.name:
            raise ValueError(f"it holds the cell of {cell.file}")
    except ValueError as err:
        raise DamagedCell(path, str(err)) from err
    return cell


def _cell(content: Any) -> Cell:
    """The cell that a JSON value is; a ``ValueError`` says in a line what is wrong where."""
    found = _object(content)
    if found.get("version") != VERSION:
        raise ValueError(f"version {reprlib.repr(found.get('version'))}, where {VERSION} is read")
    cell = Cell(
        task=_get(found, "task", _name),
        method=_get(found, "method", _name),
        seed=_get(found, "seed", _integer),
        title=_get(found, "title", _of_both),
        family=_get(found, "family", _of_both),
        status=_get(found, "status", _one_of(STATUSES)),
        reason=_get(found, "reason", _or_none(_words)),
        budget=_get(found, "budget", _budget),
        protocol=_get(found, "protocol", _object),
        curve=_get(found, "curve", _curve),
        metrics=_get(found, "metrics", _metrics),
        seconds=_get(found, "seconds", _or_none(_number)),
        reference=_get(found, "reference", _or_none(_reference)),
        peak_memory_mb=_get(found, "peak_memory_mb", _or_none(_number)),
    )
    if (cell.status == "done") != (cell.reason is None):
        raise ValueError(f"status {cell.status!r} {'without' if cell.reason is None else 'with'} a reason")
    return cell


def _get(content: Mapping[str, Any], key: str, check: Callable[[Any], Any]) -> Any:
    if key not in content:
        raise ValueError(f"no {key!r}")
    try:
        return check(content[key])
    except ValueError as err:
        raise ValueError(f"{key!r}: {err}") from err


def _of_both(value: Any) -> dict[str, str]:
    found = _object(value)
    return {part: _get(found, part, _words) for part in ("task", "method")}


def _budget(value: Any) -> dict[str, float]:
    found = _object(value)
    if len(found) != 1 or not found.keys() <= {*BUDGETS}:
        raise _refusal(value, f"one of {', '.join(BUDGETS)}")
    return {name: _get(found, name, _number) for name in found}


def _curve(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise _refusal(value, "a list")
    looks = [_object(look) for look in value]
    for look in looks:
        _get(look, "step", _number)
        for name in look:
            _get(look, name, _or_none(_number))
    return looks


def _metrics(value: Any) -> dict[str, Metric]:
    found = _object(value)
    return {name: _get(found, name, _metric) for name in found}


def _metric(value: Any) -> Metric:
    found = _object(value)
    return Metric(
        value=_get(found, "value", _or_none(_number)),
        unit=_get(found, "unit", _text),
        better=_get(found, "better", _one_of(BETTER)),
        meaning=_get(found, "meaning", _text),
        standard_error=_get(found, "standard_error", _or_none(_number)),
    )


def _reference(value: Any) -> dict[str, Any]:
    found = _object(value)
    _get(found, "method", _words)
    _get(found, "ratio", _or_none(_number))
    _get(found, "blocks", _or_none(_integer))
    return found


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refusal(value, "an object")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise _refusal(value, "a finite number")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refusal(value, "an integer")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _refusal(value, "a text")
    return value


def _words(value: Any) -> str:
    if not _text(value).strip():
        raise ValueError("an empty text")
    return str(value)


def _name(value: Any) -> str:
    if not NAME.match(_text(value)):
        raise _refusal(value, "a name of small letters and digits, parted by single '-', '_' or '.'")
    return str(value)


def _one_of(values: tuple[str, ...]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in values:
            raise _refusal(value, f"one of {', '.join(values)}")
        return str(value)

    return check


def _or_none(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _refusal(value: Any, rule: str) -> ValueError:
    return ValueError(f"{reprlib.repr(value)} is not {rule}")
