"""The long CSV, a line for each cell and metric, and the Markdown tables, one for each metric."""

__all__ = ["count_text", "csv_text", "long_rows", "markdown_text", "protocol_rows", "titles_of"]

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.comparison.cells import Cell, Metric
from benchmarks.comparison.ranks import Ranks, rank_text
from benchmarks.comparison.reading import Reading
from benchmarks.comparison.summaries import (
    Entry,
    Lost,
    Table,
    budgets_of,
    heading_of,
    metrics_of,
    number_text,
    title_of,
)
from benchmarks.protocol import markdown_table

WIDTH = 48  # characters of a reason inside a table
LEGEND = (
    "Mean over seeds ± standard error over seeds, sd / sqrt(n). **Bold**: the task's best and those after it, up to "
    "the first that Welch's test at 5 % tells from it; marks need three seeds, and who lost one takes no part. The "
    "errors of single numbers, and the protocol of each, are in the CSV."
)


def long_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row for each cell and metric, and one without a metric for a cell that has none.

    Arguments:
        cells: of one comparison.

    Returns:
        Rows with equal keys: what the cell is, the metric, the costs, and each field of the protocol of any cell after
        ``protocol_``. What a cell lacks is None.
    """
    fields = list(dict.fromkeys(name for cell in cells for name in cell.protocol))
    budgets = list(dict.fromkeys(["steps", "seconds", *(name for cell in cells for name in cell.budget)]))
    return [
        {**_identity(cell), **_number(name, metric), **_costs(cell, budgets), **_protocol(cell, fields)}
        for cell in cells
        for name, metric in _metrics(cell)
    ]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with equal keys as CSV with a header; None is empty, floats have all their digits."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def markdown_text(reading: Reading, tables: Sequence[Table], ranks: Sequence[Ranks], name: str) -> str:
    """The comparison as Markdown: a table for each metric, average ranks, failures, protocol.

    Arguments:
        reading: cells, and files that hold none.
        tables: of the cells.
        ranks: of the metrics that have them.
        name: of the files of the report.
    """
    cells = reading.cells
    lines = ["# Comparison of inference methods", ""]
    lines += [f"{count_text(reading)} The numbers: [{name}.csv]({name}.csv); to sort: [{name}.html]({name}.html).", ""]
    lines += [LEGEND, ""]
    for table in tables:
        lines += [f"## {_escaped(heading_of(table.metric, table.unit, table.better))}", ""]
        lines += [*_meanings(table), *_grid(table, cells), ""]
    protocol = [[_escaped(text) for text in row] for row in protocol_rows(cells)]
    lines += _ranks(ranks, cells) + _failures(reading, tables)
    return "\n".join([*lines, "## Protocol", "", *markdown_table(["field", "value"], protocol), ""])


def count_text(reading: Reading) -> str:
    """How many tasks, methods and cells there are, and how the cells ended."""
    cells = reading.cells
    statuses = [cell.status for cell in cells]
    parts = [f"{statuses.count(status)} {status}" for status in ("done", "failed", "killed") if status in statuses]
    if reading.unread:
        parts.append(f"{len(reading.unread)} not read")
    tasks, methods = {cell.task for cell in cells}, {cell.method for cell in cells}
    numbers = ((len(tasks), "task"), (len(methods), "method"), (len(cells) + len(reading.unread), "cell"))
    counted = [f"{number} {word}" + "s" * (number != 1) for number, word in numbers]
    return f"{counted[0]} by {counted[1]}, {counted[2]}: {', '.join(parts)}."


def protocol_rows(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Each field of the protocol once, with its values, or how many it takes if they are more than three.

    The budget is that of most tasks, followed by the names of the others with theirs.
    """
    fields = dict.fromkeys(name for cell in cells for name in cell.protocol)
    values = {field: {_shown(cell.protocol.get(field)) for cell in cells} for field in fields}
    return [
        ("budget", _budgets(cells)),
        *(
            (field.replace("_", " "), "; ".join(sorted(own)) if len(own) <= 3 else f"{len(own)} values, in the CSV")
            for field, own in values.items()
        ),
    ]


def titles_of(cells: Sequence[Cell]) -> dict[tuple[str, str], str]:
    """Titles of tasks and methods by kind and name, in order; the name stands beside a title that two share."""
    found: dict[tuple[str, str], str] = {}
    for cell in sorted(cells, key=lambda cell: cell.method):
        for kind, name in (("task", cell.task), ("method", cell.method)):
            found.setdefault((kind, name), cell.title[kind])
    texts = [(kind, title) for (kind, _), title in found.items()]
    return {
        (kind, name): title if texts.count((kind, title)) == 1 else f"{title} ({name})"
        for (kind, name), title in found.items()
    }


def _budgets(cells: Sequence[Cell]) -> str:
    tasks: dict[str, list[str]] = {}
    for task, budget in sorted(budgets_of(cells).items()):
        tasks.setdefault(budget, []).append(task)
    usual, *others = sorted(tasks, key=lambda budget: -len(tasks[budget]))
    return "; ".join([usual, *(f"{', '.join(tasks[budget])}: {budget}" for budget in others)])


def _identity(cell: Cell) -> dict[str, Any]:
    return {
        "task": cell.task,
        "method": cell.method,
        "seed": cell.seed,
        "task_title": cell.title["task"],
        "method_title": cell.title["method"],
        "task_family": cell.family["task"],
        "method_family": cell.family["method"],
        "status": cell.status,
        "reason": cell.reason,
    }


def _metrics(cell: Cell) -> list[tuple[str, Metric] | tuple[None, None]]:
    found = list(metrics_of(cell).items())
    return [*found] if found else [(None, None)]


def _number(name: str | None, metric: Metric | None) -> dict[str, Any]:
    fields = ("value", "standard_error", "unit", "better", "meaning")
    return {"metric": name, **{field: getattr(metric, field, None) for field in fields}}


def _costs(cell: Cell, budgets: Sequence[str]) -> dict[str, Any]:
    reference = cell.reference or {}
    return {
        **{f"budget_{name}": cell.budget.get(name) for name in budgets},
        "training_seconds": cell.seconds,
        "peak_memory_mb": cell.peak_memory_mb,
        "reference_method": reference.get("method"),
        "reference_ratio": reference.get("ratio"),
        "reference_blocks": reference.get("blocks"),
        "file": cell.file,
    }


def _protocol(cell: Cell, fields: Sequence[str]) -> dict[str, Any]:
    return {f"protocol_{name}": _plain(cell.protocol.get(name)) for name in fields}


def _plain(value: Any) -> Any:
    """A value of a protocol for one field of the CSV: booleans as JSON has them, lists and objects as JSON."""
    return json.dumps(value) if isinstance(value, bool | list | dict) else value


def _meanings(table: Table) -> list[str]:
    """What the numbers mean, with the methods where they mean different things."""
    found: dict[str, dict[str, None]] = {}
    for entry in table.entries.values():
        for cell in entry.cells:
            found.setdefault(metrics_of(cell)[table.metric].meaning, {})[cell.title["method"]] = None
    if len(found) < 2:
        return [*(_escaped(meaning) + "." for meaning in found), ""]
    return [*(f"- {_escaped(meaning)}: {_escaped('; '.join(methods))}." for meaning, methods in found.items()), ""]


def _grid(table: Table, cells: Sequence[Cell]) -> list[str]:
    """Tasks by methods; the longer of the two downwards."""
    titles = _escaped_titles(cells)
    texts = {pair: _entry_text(entry) for pair, entry in table.entries.items()}
    rows = [
        [titles["task", task], *(texts.get((task, method), "") for method in table.methods)] for task in table.tasks
    ]
    grid = [["task \\ method", *(titles["method", method] for method in table.methods)], *rows]
    if len(table.methods) > len(table.tasks):
        grid = [list(column) for column in zip(*grid, strict=True)]
        grid[0][0] = "method \\ task"
    grid[0][0] = grid[0][0].replace("\\", "\\\\")
    return markdown_table(grid[0], grid[1:])


def _entry_text(entry: Entry) -> str:
    num_seeds = len(entry.values) + len(entry.lost)
    if entry.mean is None:
        first = entry.lost[0]
        word = f"{first.status}: " if first.status in ("failed", "killed") else ""
        return _escaped(word + _shortened(first.reason))
    text = number_text(entry.mean, entry.error)
    if entry.lost:
        text += f" ({len(entry.values)} of {num_seeds} seeds)"
    elif num_seeds == 1:
        text += " (1 seed)"
    return f"**{text}**" if entry.is_best else text


def _ranks(ranks: Sequence[Ranks], cells: Sequence[Cell]) -> list[str]:
    titles = _escaped_titles(cells)
    lines = ["## Average ranks over tasks", ""]
    if not ranks:
        return [*lines, "No metric has two tasks by three methods in common.", ""]
    for found in ranks:
        lines += [
            f"### {_escaped(heading_of(found.metric, found.unit, found.better))}",
            "",
            _escaped(found.sentence(titles_of(cells))),
            "",
        ]
        rows = [
            [titles["method", method], rank_text(rank)]
            for method, rank in zip(found.methods, found.average, strict=True)
        ]
        lines += [*markdown_table(["method", "average rank"], rows), ""]
    return lines


def _failures(reading: Reading, tables: Sequence[Table]) -> list[str]:
    """Every cell that is not done, every number that a cell which is done lacks, every file that is no cell."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for cell in reading.cells:
        if cell.status != "done":
            found.setdefault((cell.task, cell.method, cell.status, str(cell.reason)), []).append(str(cell.seed))
    for table in tables:
        for (task, method), entry in sorted(table.entries.items()):
            for one in entry.lost:
                if one.status in ("done", "untimed"):
                    found.setdefault((task, method, "done", _without(table, one)), []).append(str(one.seed))
    titles = _escaped_titles(reading.cells)
    rows = [
        [titles["task", task], titles["method", method], ", ".join(seeds), status, _escaped(reason)]
        for (task, method, status, reason), seeds in found.items()
    ]
    lines = ["## Failures and what is missing", ""]
    lines += markdown_table(["task", "method", "seeds", "status", "reason"], rows) if rows else ["None."]
    if reading.unread:
        lines += ["", "Files that were not read:", ""]
        lines += [f"- {_escaped(file)}: {_escaped(reason)}" for file, reason in reading.unread]
    return [*lines, ""]


def _without(table: Table, lost: Lost) -> str:
    return f"{title_of(table.metric)}: {lost.reason}" + (f" ({lost.meaning})" if lost.meaning else "")


def _escaped_titles(cells: Sequence[Cell]) -> dict[tuple[str, str], str]:
    return {key: _escaped(title) for key, title in titles_of(cells).items()}


def _shown(value: Any) -> str:
    return "none" if value is None else str(_plain(value))


def _shortened(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 1].rstrip() + "…"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", " ".join(text.replace("&", "&amp;").split()))
