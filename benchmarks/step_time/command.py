"""The time of a training step, by stock Pyro, this library, torch by hand and NumPyro, taken in turns in one process.

Every contestant trains the same model by the same loss from the same parameters on the same batches, with Adam. They
take blocks of steps in turns for many rounds, and the median over the rounds counts, so that whatever else the machine
does is shared. Results go to ``benchmarks/results/step_time.json`` and ``.md``. NumPyro takes part where it is
installed.

    python -m benchmarks.step_time --threads 1
"""

__all__ = ["main"]

import argparse
import importlib.util
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch._inductor.utils import fresh_cache
from tqdm import tqdm

from benchmarks.protocol import describe_machine, machine, markdown_table, write_results
from benchmarks.step_time.contestants import CONTESTANTS, Contestant
from benchmarks.step_time.tasks import TASKS, make
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.infer.compiling.backends import BACKENDS

RESULTS = Path(__file__).parent.parent / "results"
NUM_FIRST = 8  # steps, within which everyone has compiled what there is to compile
STOCK, OURS = "pyro", "compiled"


def main(argv: Sequence[str] | None = None) -> None:
    """Times the contestants and writes the tables."""
    arguments = _parser().parse_args(argv)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    names, notes = list(arguments.contestants), []
    if importlib.util.find_spec("numpyro") is None and any("numpyro" in name for name in names):
        names = [name for name in names if "numpyro" not in name]
        notes = ["NumPyro is not installed and left out."]
    rows = [_measure(arguments, task, names) for task in tqdm(arguments.tasks, desc="tasks", disable=None)]
    content = {
        "machine": {"model": _processor(), **machine()},
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "backend": arguments.backend,
        "notes": notes,
        "rows": rows,
    }
    write_results(arguments.results, "step_time", content, _text(content))


def _measure(arguments: argparse.Namespace, task: str, names: Sequence[str]) -> dict[str, Any]:
    """All contestants on one task, in turns, after each has taken its first steps; Inductor's cache is empty before."""
    cells: dict[str, dict[str, Any]] = {name: {"rounds": [], "notes": []} for name in names}
    running: dict[str, Contestant] = {}
    with fresh_cache():
        for name in names:
            try:
                running[name], cells[name]["first_seconds"] = _start(arguments, task, name)
                if name == OURS:
                    _, cells[name]["again_seconds"] = _start(arguments, task, name)
            except Exception as error:  # whatever a contestant fails with is its result
                cells[name]["failed"] = _reason(error)
        for _ in tqdm(range(arguments.rounds), desc=task, leave=False, disable=None):
            for name, contestant in running.items():
                cells[name]["rounds"].append(1000 * _block(contestant) / arguments.steps)
    for name, contestant in running.items():
        _summarise(cells[name], _num_first(arguments.steps))
        cells[name]["notes"] = contestant.notes()
    return {"task": task, "title": TASKS[task].title, "cells": cells}


def _start(arguments: argparse.Namespace, task: str, name: str) -> tuple[Contestant, float]:
    """A contestant that has taken its first steps, and the seconds they took."""
    compiler = Compiler(backend=arguments.backend, wait=True, quiet=True)
    pyro.set_rng_seed(0)
    contestant = CONTESTANTS[name].make(task, *make(task, arguments.steps), compiler)
    return contestant, sum(_block(contestant) for _ in range(_num_first(arguments.steps) // arguments.steps))


def _num_first(steps: int) -> int:
    """How many steps come first, in whole blocks."""
    return steps * -(-NUM_FIRST // steps)


def _block(contestant: Contestant) -> float:
    """The seconds of a block of steps."""
    with contestant.at_work():
        start = time.perf_counter()
        contestant.steps()
        return time.perf_counter() - start


def _summarise(cell: dict[str, Any], num_first: int) -> None:
    """Median and quartiles of a step, and the seconds of the first steps beyond what they take later."""
    low, cell["ms"], high = statistics.quantiles(cell["rounds"], n=4, method="inclusive")
    cell["quartiles"] = [low, high]
    for name, start in (("cold_seconds", "first_seconds"), ("warm_seconds", "again_seconds")):
        if start in cell:
            cell[name] = max(0.0, cell[start] - num_first * cell["ms"] / 1000)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _processor() -> str:
    """The processor's name where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _text(content: dict[str, Any]) -> str:
    rows = content["rows"]
    names = list(rows[0]["cells"])
    titles = [CONTESTANTS[name].title for name in names]
    remarks: list[str] = []
    times = [[row["title"], *(_cell(row["cells"][name], name, row["task"], remarks) for name in names)] for row in rows]
    lines = [
        "# The time of a training step",
        "",
        f"`python -m benchmarks.step_time`: milliseconds, the median over {content['rounds']} rounds of blocks of "
        f"{content['steps']} steps that the contestants take in turns, in one process. Same model, loss, first "
        "parameters and batches; Adam at 0.001; every step but those of a block taken together gives its loss to "
        "Python. Pyro has no VIMCO, so its trainer gets this library's objective there. By hand, all of it is plain "
        "torch, without distributions; `torch.compile` has the loss and the optimiser's step. Compiled steps have no "
        f"validation. Ours are compiled by the backend `{content['backend']}`.",
        "",
        *markdown_table(["task", *titles], times),
    ]
    lines += [line for remark in remarks for line in ("", remark)]
    others = [name for name in names if name != OURS]
    if OURS in names and others:
        table = [[row["title"], *(_ratio(row["cells"], name) for name in others)] for row in rows]
        lines += ["", "How many times as long as our compiled step the others take, from the medians:", ""]
        lines += markdown_table(["task", *(CONTESTANTS[name].title for name in others)], table)
    lines += ["", *_compiling(rows, names)]
    return "\n".join([*lines, "", *content["notes"], describe_machine(content["machine"]), ""])


def _cell(cell: dict[str, Any], name: str, task: str, remarks: list[str]) -> str:
    """A median, with a number that refers to what is to be said of it."""
    said = [cell["failed"]] if "failed" in cell else cell["notes"]
    shown = "failed" if "failed" in cell else f"{cell['ms']:.3g}"
    if not said:
        return shown
    remarks.append(f"[{len(remarks) + 1}] `{task}`, {CONTESTANTS[name].title}: {'; '.join(said)}")
    return f"{shown} [{len(remarks)}]"


def _ratio(cells: dict[str, Any], name: str) -> str:
    if "ms" not in cells[name] or "ms" not in cells[OURS]:
        return "-"
    return f"{cells[name]['ms'] / cells[OURS]['ms']:.2g}"


def _compiling(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """What compiling costs, and when it has paid for itself."""
    shown = [name for name in (OURS, "torch-compile", "numpyro", "numpyro-scan") if name in names]
    if not shown:
        return []
    titles = [CONTESTANTS[name].title for name in shown]
    again, paid = ([f"{titles[0]}, again", "steps to pay"] if OURS in names else []), OURS in names
    table = []
    for row in rows:
        cells = row["cells"]
        found = [_seconds(cells[name], "cold_seconds") for name in shown]
        extra = [_seconds(cells[OURS], "warm_seconds"), _steps_to_pay(cells)] if paid else []
        table.append([row["title"], *found, *extra])
    return [
        "Seconds that the first steps take beyond their usual time, which is what compiling costs: with Inductor's "
        "cache empty at the beginning of a task, and once more in the same process; and the number of steps after "
        "which our compiling has paid for itself against stock Pyro:",
        "",
        *markdown_table(["task", *titles, *again], table),
    ]


def _seconds(cell: dict[str, Any], name: str) -> str:
    return f"{cell[name]:.1f}" if name in cell else "-"


def _steps_to_pay(cells: dict[str, Any]) -> str:
    if "ms" not in cells.get(STOCK, {}) or "ms" not in cells[OURS]:
        return "-"
    gain = (cells[STOCK]["ms"] - cells[OURS]["ms"]) / 1000
    return f"{cells[OURS]['cold_seconds'] / gain:,.0f}" if gain > 0 else "never"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=15, help="how often everyone takes a block, at least 2")
    parser.add_argument("--steps", type=int, default=40, help="steps of a block")
    parser.add_argument("--threads", type=int, help="of torch, and of JAX if it is one; as they are if left out")
    parser.add_argument("--backend", choices=BACKENDS, default="inductor", help="of our compiled steps")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser
