"""Runs a grid of inference methods on tasks, every cell in a process of its own, and keeps a file of each.

Cells that are there are not run again, so that a run that was interrupted goes on where it was. Pairs of a task and a
method that is not for it are left out. Times are measured with ``--jobs 1`` alone.

    python -m benchmarks run --tasks ppca hierarchy --methods elbo pyro-trace-elbo --seeds 0 1 --budget-steps 1000
"""

__all__ = ["main", "plans_of"]

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro

from benchmarks.comparison.cell import budget_of
from benchmarks.comparison.registry import Registry, load
from benchmarks.comparison.running import Plan, Run, run_all

RUNS = Path("runs/comparison")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet and says how it went."""
    options = _parser().parse_args(argv)
    try:
        counts, left_out = _run(options)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    for reason in left_out if options.verbose else []:
        print(f"left out: {reason}", file=sys.stderr)
    told = ", ".join(f"{number} {status}" for status, number in counts.items() if number or status == "done")
    print(f"{options.runs}: {told or 'nothing to do'}; {len(left_out)} pairs are not for each other")


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
        pyro.set_rng_seed(0)
        try:
            problem = task.build(0)
        except Exception:  # its cells will say what is wrong
            problem = None
        kept = []
        for method in chosen:
            refusal = None if problem is None else method.supports(problem)
            kept += [method.name] if refusal is None else []
            left_out += [] if refusal is None else [f"{method.name} for {name}: {refusal}"]
        plans += [Plan(name, method, seed) for seed, method in itertools.product(dict.fromkeys(seeds), kept)]
    return plans, left_out


def _run(options: argparse.Namespace) -> tuple[dict[str, int], list[str]]:
    if options.jobs < 1 or options.threads < 1 or not options.limit_seconds > 0:
        raise ValueError(
            f"jobs and threads must be at least 1 and the limit positive; got {options.jobs}, {options.threads} and "
            f"{options.limit_seconds}. Leave them out for 1, 1 and 3600 s."
        )
    user_files = [path.resolve() for path in options.user]
    registry = load(user_files)
    plans, left_out = plans_of(
        registry, options.tasks or list(registry.tasks), options.methods or list(registry.methods), options.seeds
    )
    run = Run(
        folder=options.runs.resolve(),
        budget=budget_of(options),
        limit=options.limit_seconds,
        threads=options.threads,
        user_files=user_files,
        jobs=options.jobs if options.submitit is None else max(2, options.jobs),
        is_retried=options.retry,
    )
    cluster = None if options.submitit is None else dict(map(_parameter, options.submitit))
    return run_all(run, plans, cluster), left_out


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
