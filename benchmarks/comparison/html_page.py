"""One HTML file that holds its scripts, styles and numbers, and asks nothing of any network."""

__all__ = ["page_content", "page_text"]

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison.bands import bands, broken
from benchmarks.comparison.cells import Cell, Metric
from benchmarks.comparison.ranks import MIN_METHODS, MIN_TASKS, Ranks, median_score, nemenyi_quantile
from benchmarks.comparison.reading import Reading
from benchmarks.comparison.summaries import (
    COSTS,
    DESCRIPTIVE,
    NOT_TIMED,
    Entry,
    Table,
    direction_of,
    heading_of,
    metrics_of,
    number_text,
    score,
    title_of,
    units_of,
    why_lost,
)
from benchmarks.comparison.tables import protocol_rows, titles_of

PARTS = Path(__file__).parent / "page"
SCRIPTS = ("elements", "protocol", "filters", "summary", "curves", "ranks", "numbers", "main")
COMMON = ("budget", "processor", "cores", "threads", "python", "torch", "pyro", "pyro dgm", "numpyro")
BETTER = {"higher": "higher", "lower": "lower", "zero": "nearer to zero"}
SLOWEST = 10.0  # the slowest method's time over the fastest's, from which on the axes begin as logarithmic
GLOSSARY = (
    ("cell", "one task by one method from one seed, in its own process"),
    ("± in the summary", "standard error of the mean over seeds, sd / sqrt(n); with one seed there is none"),
    ("± of every number", "standard error of that one number, where it was estimated from draws or data"),
    ("failed", "the cell ended with the error that is given; it stands in every table that it would have been in"),
    ("killed", "the cell was ended for passing its limit of time or memory, or by a signal"),
    ("no finite number", "the cell is done, but this number is not there or infinite; its meaning says why, if known"),
    ("not timed", "the cell is done, but the timing beside the reference method failed, for the reason given"),
    (
        "not ranked",
        "the metric describes: more or less of it is not better, so none is marked and none is ranked by it",
    ),
    ("–", "not measured: the metric does not apply to this method or task"),
    ("time per step, ratio", "median time of a step over that of a reference method run in turns with it in one job"),
)


def page_text(content: Mapping[str, Any]) -> str:
    """The page.

    No text of the content can end a script or become markup: it is JSON without angle brackets, read by a script that
    writes text only; and the page's own policy lets no script run but the one that was put in here.

    Arguments:
        content: as from :func:`page_content`.
    """
    style = (PARTS / "style.css").read_text(encoding="utf-8")
    script = "\n".join((PARTS / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    pieces = {
        "style": style,
        "script": script,
        "style_digest": _digest(style),
        "script_digest": _digest(script),
        "data": _inlined(content),
    }
    template = (PARTS / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: pieces[match[1]], template)


def page_content(reading: Reading, tables: Sequence[Table], ranks: Sequence[Ranks]) -> dict[str, Any]:
    """What the page shows, as JSON has it; tasks, methods and cells are numbered from 0.

    Arguments:
        reading: cells, and files that hold none.
        tables: of the cells.
        ranks: of the metrics that have them.
    """
    cells = reading.cells
    tasks, methods = (sorted({getattr(cell, kind) for cell in cells}) for kind in ("task", "method"))
    numbers = _Numbers(tasks, methods, {cell.file: index for index, cell in enumerate(cells)})
    qualities = {name for cell in cells for look in cell.curve for name in look} - {"step", "seconds"}
    names = dict.fromkeys([table.metric for table in tables] + sorted(qualities))
    lines = [numbers.lines(_rounded(band._asdict()) | {"num": band.num_seeds}) for band in bands(cells)]
    return {
        "about": _about(cells),
        "counts": _counts(reading),
        "tasks": _things("task", tasks, cells),
        "methods": _things("method", methods, cells),
        "metrics": [{"name": name, "title": title_of(name)} for name in names],
        "tables": [numbers.table(table, cells) for table in tables],
        "cells": [numbers.cell(cell) for cell in cells],
        "facts": numbers.facts.things,
        "kinds": numbers.kinds.things,
        "curves": [curve for name in names if name in qualities for curve in numbers.curves(name, cells, tables)],
        "bands": lines,
        "broken": [numbers.lines(_rounded(line._asdict())) for line in broken(cells)],
        "logarithmic": _is_spread(lines),
        "ranked": _ranked(tables, ranks),
        "quantiles": [nemenyi_quantile(number) for number in range(2, len(methods) + 1)],
        "unread": [list(unread) for unread in reading.unread],
        "glossary": list(GLOSSARY),
        "protocol": protocol_rows(cells),
    }


class _Numbered:
    """Gives things that recur in many cells a number, so that the page holds each of them once."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def __call__(self, thing: Any) -> int:
        return self.places.setdefault(json.dumps(thing), len(self.places))

    @property
    def things(self) -> list[Any]:
        """All of them, by number."""
        return [json.loads(thing) for thing in self.places]


class _Numbers:
    """Tasks, methods and cells by their number in the page.

    Arguments:
        tasks: names in order.
        methods: names in order.
        files: number of each cell by its file.
    """

    def __init__(self, tasks: list[str], methods: list[str], files: dict[str, int]) -> None:
        self.tasks = {name: index for index, name in enumerate(tasks)}
        self.methods = {name: index for index, name in enumerate(methods)}
        self.files = files
        self.facts, self.kinds = _Numbered(), _Numbered()

    def table(self, table: Table, cells: Sequence[Cell]) -> dict[str, Any]:
        groups: dict[tuple[str, str], list[Cell]] = {}
        for cell in cells:
            groups.setdefault((cell.task, cell.method), []).append(cell)
        meanings = [_meanings(table, entry) for entry in table.entries.values()]
        return {
            "metric": table.metric,
            "title": title_of(table.metric),
            "heading": heading_of(table.metric, table.unit, table.better),
            "unit": table.unit,
            "direction": direction_of(table.metric, table.better),
            "meanings": list(dict.fromkeys(meaning for found in meanings for meaning in found)),
            "tasks": [self.tasks[task] for task in table.tasks],
            "methods": [self.methods[method] for method in table.methods],
            "entries": [
                {
                    "task": self.tasks[pair[0]],
                    "method": self.methods[pair[1]],
                    **self._entry(table, entry, groups[pair]),
                }
                for pair, entry in table.entries.items()
            ],
        }

    def _entry(self, table: Table, entry: Entry, cells: Sequence[Cell]) -> dict[str, Any]:
        num_seeds = len(entry.values) + len(entry.lost)
        few = f"{len(entry.values)} of {num_seeds} seeds" if entry.lost and entry.values else None
        return {
            "text": _entry_text(entry),
            "score": None if entry.mean is None else score(entry.mean, table.better),
            "median": _finite(median_score(entry, table.better)),
            "best": entry.is_best,
            "bad": any(lost.status not in NOT_TIMED for lost in entry.lost),
            "few": "1 seed" if num_seeds == 1 and entry.values else few,
            "seeds": [(cell.seed, _value_text(table.metric, cell)) for cell in entry.cells],
            "lost": [list(lost) for lost in entry.lost],
            "meanings": _meanings(table, entry),
            "cells": [self.files[cell.file] for cell in cells],
        }

    def cell(self, cell: Cell) -> dict[str, Any]:
        return {
            "task": self.tasks[cell.task],
            "method": self.methods[cell.method],
            "seed": cell.seed,
            "status": cell.status,
            "reason": cell.reason,
            "seconds": cell.seconds,
            "budget": cell.budget,
            "protocol": [self.facts([field, value]) for field, value in cell.protocol.items()],
            "reference": cell.reference,
            "memory": cell.peak_memory_mb,
            "file": cell.file,
            "metrics": [
                [self.kinds(_kind(name, metric)), metric.value, _value_text(name, cell)]
                for name, metric in metrics_of(cell).items()
            ],
        }

    def curves(self, name: str, cells: Sequence[Cell], tables: Sequence[Table]) -> list[dict[str, Any]]:
        """What a curve's values are on which tasks: as the final numbers of that name, and a choice for each unit."""
        units = units_of(name, tables)
        drawn = sorted({cell.task for cell in cells for look in cell.curve if name in look})
        unknown = ("", next((better for _, better in units.values()), "higher"))  # where no cell came to its end
        found: dict[tuple[str, str], list[str]] = {}
        for task in drawn:
            found.setdefault(units.get(task, unknown), []).append(task)
        return [
            {
                "name": name,
                "title": title_of(name),
                "unit": unit,
                "better": better,
                "direction": direction_of(name, better),
                "tasks": [self.tasks[task] for task in own],
            }
            for (unit, better), own in found.items()
        ]

    def lines(self, line: dict[str, Any]) -> dict[str, Any]:
        numbered = {"task": self.tasks[line["task"]], "method": self.methods[line["method"]]}
        return {**line, **numbered}


def _entry_text(entry: Entry) -> str:
    if entry.mean is not None:
        return number_text(entry.mean, entry.error)
    first = entry.lost[0]
    return f"{first.status}: {first.reason}" if first.status in ("failed", "killed") else first.reason


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _meanings(table: Table, entry: Entry) -> list[str]:
    return list(dict.fromkeys(metrics_of(cell)[table.metric].meaning for cell in entry.cells))


def _value_text(name: str, cell: Cell) -> str:
    metric = metrics_of(cell)[name]
    lost = why_lost(name, metric, cell)
    return str(lost and lost.reason) if metric.value is None else number_text(metric.value, metric.standard_error)


def _kind(name: str, metric: Metric) -> dict[str, str]:
    return {
        "name": name,
        "title": title_of(name),
        "unit": metric.unit,
        "better": "not ranked" if name in DESCRIPTIVE else BETTER[metric.better],
        "direction": direction_of(name, metric.better),
        "meaning": metric.meaning,
    }


def _things(kind: str, names: Sequence[str], cells: Sequence[Cell]) -> list[dict[str, str]]:
    """Name, title and family, as the first cell has them."""
    titles = titles_of(cells)
    families = {name: next(cell.family[kind] for cell in cells if getattr(cell, kind) == name) for name in names}
    return [{"name": name, "title": titles[kind, name], "family": families[name]} for name in names]


def _about(cells: Sequence[Cell]) -> str:
    """What is alike in all cells."""
    found = {field: value for field, value in protocol_rows(cells) if ";" not in value and " values, " not in value}
    alike = ", ".join(f"{field} {found[field]}" for field in COMMON if field in found)
    return f"Each task by each method from each seed, in a process of its own. {alike[:1].upper()}{alike[1:]}."


def _counts(reading: Reading) -> list[tuple[str, int, bool]]:
    cells = reading.cells
    statuses = [cell.status for cell in cells]
    return [
        ("tasks", len({cell.task for cell in cells}), False),
        ("methods", len({cell.method for cell in cells}), False),
        ("seeds", len({cell.seed for cell in cells}), False),
        *((status, statuses.count(status), status != "done") for status in ("done", "failed", "killed")),
        ("not read", len(reading.unread), True),
    ]


def _ranked(tables: Sequence[Table], ranks: Sequence[Ranks]) -> list[int]:
    """Places of the tables that can be ranked by, those with ranks on most tasks first, but costs last."""
    sizes = {(found.metric, found.unit, found.better): len(found.tasks) for found in ranks}
    places = [
        k
        for k, own in enumerate(tables)
        if own.metric not in DESCRIPTIVE and len(own.tasks) >= MIN_TASKS and len(own.methods) >= MIN_METHODS
    ]
    return sorted(places, key=lambda k: (tables[k].metric in COSTS, -sizes.get(tables[k][:3], 0)))


def _is_spread(lines: Sequence[Mapping[str, Any]]) -> bool:
    ends = [line["x"][-1] for line in lines if line["axis"] == "seconds"]
    return bool(ends) and max(ends) > SLOWEST * min(ends)


def _rounded(line: dict[str, Any]) -> dict[str, Any]:
    """Six digits are more than a plot shows."""
    return {
        name: [float(f"{number:.6g}") for number in value] if isinstance(value, list) else value
        for name, value in line.items()
    }


def _inlined(content: Mapping[str, Any]) -> str:
    """JSON that no HTML parser sees anything in."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
