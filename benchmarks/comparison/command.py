"""Runs a grid of inference methods on tasks, every cell in a process of its own, and keeps a file of each.

Cells that are there are not run again, so that a run that was interrupted goes on where it was. Pairs of a task and a
method that is not for it are left out. Times are measured with ``--jobs 1`` alone. The exit code is 1 after an error,
or if there are cells and none is done; 130 after Ctrl-C, which loses no cell that is there; else 0.

    python -m benchmarks run --tasks ppca hierarchy --methods elbo pyro-trace-elbo --seeds 0 1 --budget-steps 1000
"""

__all__ = ["main", "plans_of"]

import argparse
import itertools
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyro

from benchmarks.comparison.cell import budget_of
from benchmarks.comparison.cells import cell_path, read_cell
from benchmarks.comparison.method import Method
from benchmarks.comparison.registry import Registry, load
from benchmarks.comparison.running import Plan, Run, run_all
from benchmarks.comparison.task import Task

RUNS = Path("runs/comparison")
SEEDS = 2**32  # how many NumPy knows
THREADS_PER_CORE = 4


class _Outcome(NamedTuple):
    """How many cells there are by status, reasons of the pairs left out, and whether there are cells but none done."""

    counts: dict[str, int]
    left_out: list[str]
    is_in_vain: bool


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet and says how it went.

    Raises:
        SystemExit: with the exit code, if it is not 0.
    """
    options = _parser().parse_args(argv)
    try:
        outcome = _run(options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        raise SystemExit(130) from None
    for reason in outcome.left_out if options.verbose else []:
        print(f"left out: {reason}", file=sys.stderr)
    told = ", ".join(f"{number} {status}" for status, number in outcome.counts.items() if number or status == "done")
    print(f"{options.runs}: {told or 'nothing to do'}; {len(outcome.left_out)} pairs are not for each other")
    if outcome.is_in_vain:
        raise SystemExit(1)


def plans_of(
    registry: Registry, tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int]
) -> tuple[list[Plan], list[str]]:
    """The cells of a grid, by tasks, seeds, then methods, and the reasons of the pairs that are left out.

    Raises:
        ValueError: a name is unknown.
    """
    chosen = [registry.method(name) for name in dict.fromkeys(methods)]
    plans, left_out = [], []
    for name in dict.fromkeys(tasks):
        task = registry.task(name)
        refusals = _refusals(task, chosen)
        kept = [method.name for method in chosen if refusals.get(method.name) is None]
        left_out += [f"{method} for {name}: {refusal}" for method, refusal in refusals.items() if refusal is not None]
        plans += [Plan(name, method, seed) for seed, method in itertools.product(dict.fromkeys(seeds), kept)]
    return plans, left_out


def _refusals(task: Task, methods: Sequence[Method]) -> dict[str, str | None]:
    """What methods say of a task, by name; what raises an error says nothing, as its cells will say what is wrong."""
    pyro.set_rng_seed(0)
    refusals: dict[str, str | None] = {}
    with suppress(Exception, SystemExit):
        problem = task.build(0)
        for method in methods:
            with suppress(Exception, SystemExit):
                refusals[method.name] = method.supports(problem)
    return refusals


def _run(options: argparse.Namespace) -> _Outcome:
    _check(options)
    budget = budget_of(options)
    cluster = None if options.submitit is None else dict(map(_parameter, options.submitit))
    user_files = [path.resolve() for path in options.user]
    registry = load(user_files)
    plans, left_out = plans_of(
        registry, options.tasks or list(registry.tasks), options.methods or list(registry.methods), options.seeds
    )
    run = Run(
        folder=options.runs.resolve(),
        budget=budget,
        limit=options.limit_seconds,
        threads=options.threads,
        user_files=user_files,
        jobs=options.jobs if cluster is None else max(2, options.jobs),
        is_retried=options.retry,
    )
    counts = run_all(run, plans, cluster)
    is_in_vain = bool(plans) and all(read_cell(cell_path(run.folder, *plan)).status != "done" for plan in plans)
    return _Outcome(counts, left_out, is_in_vain)


def _check(options: argparse.Namespace) -> None:
    """Raises a ``ValueError`` if numbers make no sense; ``budget_of`` checks the rest of the budget."""
    if options.jobs < 1 or options.threads < 1 or not options.limit_seconds > 0:
        raise ValueError(
            f"jobs and threads must be at least 1 and the limit positive; got {options.jobs}, {options.threads} and "
            f"{options.limit_seconds}. Leave them out for 1, 1 and 3600 s."
        )
    cores = os.cpu_count() or 1
    if options.submitit is None and options.threads > THREADS_PER_CORE * cores:  # a cluster's cores are others
        raise ValueError(
            f"threads must be at most {THREADS_PER_CORE} for each of the {cores} cores; got {options.threads}. Leave "
            "them out for 1."
        )
    wrong = [seed for seed in options.seeds if not 0 <= seed < SEEDS]
    if wrong:
        raise ValueError(f"seeds must be at least 0 and below 2**32; got {wrong[0]}. For instance --seeds 0 1 2.")
    seconds = options.budget_seconds
    if seconds is not None and not math.isfinite(seconds):
        raise ValueError(f"a budget must be a finite number; got {seconds} seconds. For instance --budget-seconds 60.")
    if seconds is not None and seconds >= options.limit_seconds:
        raise ValueError(
            f"--budget-seconds, of training, must be below --limit-seconds, of all; got {seconds:g} and "
            f"{options.limit_seconds:g}. Raise the limit, with time to load and to evaluate."
        )


def _parameter(text: str) -> tuple[str, Any]:
    """A parameter of submitit, ``name=value``, its value a whole number where it looks like one."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"parameters of --submitit are name=value; got {text!r}. For instance timeout_min=60.")
    return name, int(value) if value.isdecimal() else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", help="all when left out; python -m benchmarks list has them")
    parser.add_argument("--methods", nargs="+", help="all when left out")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--budget-steps", type=int, help="steps of every cell")
    budget.add_argument("--budget-seconds", type=float, help="seconds of training of every cell")
    parser.add_argument("--jobs", type=int, default=1, help="cells beside each other; times are measured with 1 alone")
    parser.add_argument("--threads", type=int, default=1, help="of each cell")
    parser.add_argument("--limit-seconds", type=float, default=3600.0, help="that a cell's process may take in all")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the cells")
    parser.add_argument("--user", type=Path, nargs="+", default=[], help="Python files with tasks and methods of yours")
    parser.add_argument("--retry", action="store_true", help="run cells again that have failed or were killed")
    parser.add_argument("--verbose", action="store_true", help="say why pairs are left out")
    parser.add_argument(
        "--submitit", nargs="*", metavar="NAME=VALUE", help="run on a cluster; parameters of submitit, and cluster=..."
    )
    return parser


if __name__ == "__main__":
    main()
