"""The results as tables."""

__all__ = ["text"]

from collections.abc import Sequence
from typing import Any

from benchmarks.protocol import describe_machine, markdown_table
from benchmarks.step_time.contestants import CONTESTANTS
from benchmarks.step_time.measuring import LEAST

STOCK, OURS, AGAIN = "pyro", "compiled", "compiled-blocks"
COMPILED = (OURS, AGAIN, "torch-compile", "numpyro", "numpyro-scan")
Row = dict[str, Any]


def text(content: dict[str, Any]) -> str:
    """The whole file."""
    rows = content["rows"]
    names = [name for name in CONTESTANTS if any(name in row["cells"] for row in rows)]
    lines = [*_beginning(content), "", *_times(rows, names)]
    lines += [line for part in (_ratios(rows, names), _compiling(rows, names)) if part for line in ("", *part)]
    return "\n".join([*lines, "", *content["notes"], describe_machine(content["machine"]), ""])


def _beginning(content: dict[str, Any]) -> list[str]:
    settings, threads = content["settings"], content["machine"]["threads"]
    return [
        f"# The time of a training step, with {threads} thread{'' if threads == 1 else 's'}",
        "",
        f"`python -m benchmarks step-time --threads {threads}`: milliseconds of a step, the median over "
        f"{settings['rounds']} rounds of blocks of {settings['steps']} steps that the contestants take in turns, in "
        f"one process; fewer rounds, but at least {min(LEAST, settings['rounds'])}, where those of a task take more "
        f"than {settings['seconds']:g} s. Quartiles and all rounds are in the JSON file.",
        "",
        "All have the same model, loss, first parameters and batches, and Adam at 0.001; every step but those of a "
        "block taken together gives its loss to Python. Pyro has no VIMCO, so its trainer gets this library's "
        "objective there. By hand, all of it is plain torch, without distributions; under `torch.compile` are the loss "
        "and the optimiser's step, as two functions. Compiled steps have no validation. Ours are compiled by the "
        f"backend `{settings['backend']}`. JAX has as many threads as torch.",
    ]


def _times(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    remarks: list[str] = []
    table = [[row["title"], *(_time(row, name, remarks) for name in names)] for row in rows]
    lines = markdown_table(["task", *(CONTESTANTS[name].title for name in names)], table)
    return lines + [line for remark in remarks for line in ("", remark)]


def _time(row: Row, name: str, remarks: list[str]) -> str:
    """A median, with a number that refers to what is to be said of it."""
    cell = row["cells"].get(name)
    if cell is None:
        return "-"
    said = [cell["none"]] if "none" in cell else cell["notes"]
    shown = "none" if "none" in cell else f"{cell['ms']:.3g}"
    if not said:
        return shown
    remarks.append(f"[{len(remarks) + 1}] `{row['task']}`, {CONTESTANTS[name].title}: {'; '.join(said)}")
    return f"{shown} [{len(remarks)}]"


def _ratios(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    others = [name for name in names if name != OURS]
    if OURS not in names or not others:
        return []
    table = [[row["title"], *(_ratio(row["cells"], name) for name in others)] for row in rows]
    return [
        "How many times as long as our compiled step the others take, from the medians:",
        "",
        *markdown_table(["task", *(CONTESTANTS[name].title for name in others)], table),
    ]


def _ratio(cells: dict[str, Any], name: str) -> str:
    theirs, ours = _number(cells, name, "ms"), _number(cells, OURS, "ms")
    return "-" if theirs is None or ours is None else f"{theirs / ours:.2g}"


def _compiling(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """What compiling costs, and when it has paid for itself."""
    shown = [name for name in COMPILED if name in names]
    if not shown:
        return []
    titles = {name: kind.title for name, kind in CONTESTANTS.items()}
    titles |= {OURS: "pyro_dgm, cold", AGAIN: f"pyro_dgm, {'warm' if OURS in names else 'cold'}"}
    pays = [name for name in (OURS, AGAIN) if {name, OURS, STOCK} <= set(names)]
    heads = [titles[name] for name in shown] + [titles[name].replace("pyro_dgm", "steps to pay") for name in pays]
    table = []
    for row in rows:
        seconds = [_number(row["cells"], name, "extra_seconds") for name in shown]
        found = ["-" if number is None else f"{number:.1f}" for number in seconds]
        table.append([row["title"], *found, *(_steps_to_pay(row["cells"], name) for name in pays)])
    return [
        "Seconds that the first steps take beyond their usual time, which is what compiling costs. Cold is with "
        "Inductor's cache empty, warm with the files of the cold run and nothing of Inductor's in memory, as in a "
        "second process; for the smallest models the latter has the compiling of several steps in one besides, which "
        "the cold run does not do. The first task's also have what is done once in a process; the C++ headers that "
        "Inductor compiles once on a machine may have been there. The steps after which our compiling has paid for "
        "itself are against stock Pyro, by single compiled steps:",
        "",
        *markdown_table(["task", *heads], table),
    ]


def _steps_to_pay(cells: dict[str, Any], name: str) -> str:
    """Of single steps, after the seconds of that contestant's compiling."""
    seconds = _number(cells, name, "extra_seconds")
    theirs, ours = _number(cells, STOCK, "ms"), _number(cells, OURS, "ms")
    if seconds is None or theirs is None or ours is None:
        return "-"
    return f"{1000 * seconds / (theirs - ours):,.0f}" if theirs > ours else "never"


def _number(cells: dict[str, Any], name: str, kind: str) -> float | None:
    found: float | None = cells.get(name, {}).get(kind)
    return found
