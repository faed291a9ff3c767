"""Reads the cells of a comparison, one JSON file for each task, method and seed; what cannot be read is listed."""

__all__ = ["VERSION", "Cell", "Metric", "Reading", "Unread", "read_cells"]

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

VERSION = 1
STATUSES = ("done", "failed", "killed")
DIRECTIONS = ("higher", "lower", "zero")


class Metric(NamedTuple):
    """A number and what it is.

    Arguments:
        value: the number; None where it was not finite.
        standard_error: of this one number, not over seeds; None where there is none.
        unit: in which the number is.
        better: ``"higher"``, ``"lower"``, or ``"zero"`` for an error with a sign.
        meaning: a sentence.
    """

    value: float | None
    standard_error: float | None
    unit: str
    better: str
    meaning: str


class Cell(NamedTuple):
    """One task by one method from one seed.

    Arguments:
        file: name of the file that it was read from.
        task: name of the task.
        method: name of the method.
        seed: of initialisation and all noise.
        titles: of task and method, for people.
        families: of task and method.
        status: ``"done"``, ``"failed"`` or ``"killed"``.
        reason: why it is not done, in a line; None if it is.
        budget: ``{"steps": ...}`` or ``{"seconds": ...}``.
        protocol: how the numbers were made, by field.
        curve: for every look, ``step``, ``seconds`` and metrics by name.
        metrics: by name.
        seconds: of training; None if not known.
        reference: the time of a step beside that of a reference method in the same job, or None.
        peak_memory_mb: in megabytes, or None.
    """

    file: str
    task: str
    method: str
    seed: int
    titles: dict[str, str]
    families: dict[str, str]
    status: str
    reason: str | None
    budget: dict[str, float]
    protocol: dict[str, Any]
    curve: list[dict[str, float | None]]
    metrics: dict[str, Metric]
    seconds: float | None
    reference: dict[str, Any] | None
    peak_memory_mb: float | None

    @property
    def is_sequential(self) -> bool:
        """Whether nothing else of the comparison ran beside it, so that its times can be compared."""
        return not self.protocol.get("parallel", False)


class Unread(NamedTuple):
    """A file that holds no cell.

    Arguments:
        file: its name.
        reason: in a line.
    """

    file: str
    reason: str


class Reading(NamedTuple):
    """What a folder holds: every JSON file of it is in one list or the other.

    Arguments:
        cells: ordered by task, method and seed.
        unread: files that hold no cell of this version.
    """

    cells: list[Cell]
    unread: list[Unread]


def read_cells(folder: Path) -> Reading:
    """Reads every ``*.json`` of a folder.

    Arguments:
        folder: with the cells of one comparison.

    Returns:
        Cells, and files that are none with the reason.

    Raises:
        ValueError: the folder is not there, or no file of it holds a cell.
    """
    if not folder.is_dir():
        raise ValueError(f"the cells of a comparison are in a folder; got {folder}, which is none. {_CURE}")
    cells: dict[tuple[str, str, int], Cell] = {}
    unread = []
    for path in sorted(folder.glob("*.json")):
        try:
            cell = _cell(path)
            first = cells.setdefault((cell.task, cell.method, cell.seed), cell)
            if first is not cell:
                raise ValueError(f"the same task, method and seed as {first.file}")
        except (OSError, ValueError) as error:
            unread.append(Unread(path.name, " ".join(str(error).split())))
    if not cells:
        refused = "; ".join(f"{file}: {reason}" for file, reason in unread) or "no *.json"
        raise ValueError(f"a report needs at least one cell; got {folder} with {refused}. {_CURE}")
    return Reading([cells[key] for key in sorted(cells)], unread)


_CURE = "Make cells by python -m benchmarks run, and name their folder by --runs."


def _cell(path: Path) -> Cell:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"a JSON {type(content).__name__} and not an object")
    if content.get("version") != VERSION:
        raise ValueError(f"version {content.get('version')!r}, where {VERSION} is read")
    status = _get(content, "status", _one_of(STATUSES))
    reason = _get(content, "reason", _or_none(_text))
    if status != "done" and not reason:
        raise ValueError(f"status {status!r} without a reason")
    return Cell(
        file=path.name,
        task=_get(content, "task", _name),
        method=_get(content, "method", _name),
        seed=_get(content, "seed", _integer),
        titles=_both(content, "title"),
        families=_both(content, "family"),
        status=status,
        reason=None if reason is None else " ".join(reason.split()),
        budget=_numbers(_get(content, "budget", _object)),
        protocol=_get(content, "protocol", _object),
        curve=_get(content, "curve", _curve),
        metrics={name: _metric(name, metric) for name, metric in _get(content, "metrics", _object).items()},
        seconds=_get(content, "seconds", _or_none(_number)),
        reference=_get(content, "reference", _or_none(_reference)),
        peak_memory_mb=_get(content, "peak_memory_mb", _or_none(_number)),
    )


def _get(content: Mapping[str, Any], key: str, check: Callable[[Any], Any]) -> Any:
    if key not in content:
        raise ValueError(f"no {key!r}")
    try:
        return check(content[key])
    except ValueError as error:
        raise ValueError(f"{key!r}: {error}") from None


def _both(content: Mapping[str, Any], key: str) -> dict[str, str]:
    found = _get(content, key, _object)
    return {part: _get(found, part, _name) for part in ("task", "method")}


def _metric(name: str, content: Any) -> Metric:
    try:
        found = _object(content)
        return Metric(
            value=_get(found, "value", _or_none(_number)),
            standard_error=_get(found, "standard_error", _or_none(_number)),
            unit=_get(found, "unit", _text),
            better=_get(found, "better", _one_of(DIRECTIONS)),
            meaning=_get(found, "meaning", _text),
        )
    except ValueError as error:
        raise ValueError(f"metric {name!r}: {error}") from None


def _reference(value: Any) -> dict[str, Any]:
    found = _object(value)
    _get(found, "method", _name)
    _get(found, "ratio", _or_none(_number))
    _get(found, "blocks", _or_none(_integer))
    return found


def _curve(value: Any) -> list[dict[str, float | None]]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list")
    return [_numbers(_object(look)) for look in value]


def _numbers(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _or_none(_number)(value) for name, value in content.items()}


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not an object")
    return value


def _number(value: Any) -> float:
    """A number as it was written; one that is not finite, against the contract, is refused."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not an integer")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _name(value: Any) -> str:
    if not _text(value).strip():
        raise ValueError("an empty text")
    return str(value)


def _one_of(values: tuple[str, ...]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in values:
            raise ValueError(f"{value!r} is none of {', '.join(values)}")
        return str(value)

    return check


def _or_none(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)
