"""One cell of the grid in a process of its own, as ``python -m benchmarks run`` starts it.

python -m benchmarks.comparison.cell --task ppca --method elbo --seed 0 --budget-steps 1000 --runs runs/comparison
"""

__all__ = ["NotForTaskError", "begin", "budget_of", "main", "measure", "missing_packages", "protocol", "unfinished"]

import argparse
import datetime
import importlib.metadata
import importlib.util
import os
import platform
import resource
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch

import pyro_dgm
from benchmarks.comparison.cells import Cell, Metric, write_cell
from benchmarks.comparison.method import Learner, Method
from benchmarks.comparison.metrics import final_metrics, look
from benchmarks.comparison.registry import Registry, load
from benchmarks.comparison.task import Problem, Task
from benchmarks.comparison.training import Budget, Course, Store, against_reference, train

LONGEST_REASON = 500


class NotForTaskError(ValueError):
    """A method was to begin on a task that it is not for."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures a cell and writes its file; what goes wrong is its result."""
    options = _parser().parse_args(argv)
    _die_first()
    torch.set_num_threads(options.threads)
    registry = load(options.user)
    task, method = registry.task(options.task), registry.method(options.method)
    budget = budget_of(options)
    try:
        cell = measure(registry, task, method, options.seed, budget, options.parallel)
    except Exception as error:  # whatever a method fails with is its result
        traceback.print_exc()
        cell = unfinished(task, method, options.seed, budget, "failed", reason_of(error), options.parallel)
    write_cell(options.runs, cell)


def budget_of(options: argparse.Namespace) -> Budget:
    """The budget that the command line names.

    Raises:
        ValueError: it is not positive.
    """
    budget = Budget(options.budget_steps, options.budget_seconds)
    if not budget.total > 0:
        raise ValueError(f"a budget must be positive; got {budget.content}. For instance --budget-steps 1000.")
    return budget


def measure(registry: Registry, task: Task, method: Method, seed: int, budget: Budget, is_parallel: bool) -> Cell:
    """Trains, and measures what came of it; times only where nothing else runs beside.

    Raises:
        ValueError: the method is not for the task, or a package is missing.
        Exception: whatever the method raises.
    """
    missing = missing_packages(method)
    if missing:
        raise ValueError(f"{method.name} needs packages that are installed; got no {', '.join(missing)}. Install them.")
    started = _now()
    store = Store()
    with store.open():
        problem, learner = begin(task, method, seed)
        course = train(learner, budget, lambda: look(learner, problem))
        memory = _peak_memory()
        metrics = final_metrics(learner, problem) | _way_to_quality(course, problem, is_parallel)
    ratio = None if is_parallel else _ratio(registry, task, method, seed, learner, store)
    curve = [{**seen, "seconds": None} for seen in course.curve] if is_parallel else course.curve
    return Cell(
        task=task.name,
        method=method.name,
        seed=seed,
        title={"task": task.title, "method": method.title},
        family={"task": task.family, "method": method.family},
        status="done",
        budget=budget.content,
        protocol=protocol(problem, is_parallel, started),
        curve=curve,
        metrics=metrics,
        seconds=None if is_parallel else course.seconds,
        reference=ratio,
        peak_memory_mb=memory,
    )


def begin(task: Task, method: Method, seed: int) -> tuple[Problem, Learner]:
    """A method at the beginning of a task; all methods have the same first parameters for a seed.

    Raises:
        NotForTaskError: the method is not for the task.
        Exception: whatever the method raises.
    """
    pyro.set_rng_seed(seed)
    problem = task.build(seed)
    with torch.random.fork_rng(devices=[]):
        refusal = method.supports(problem)
    if refusal is not None:
        raise NotForTaskError(
            f"a method must be for its task; got {method.name} for {task.name}: {refusal}. Choose another."
        )
    return problem, method.start(problem, seed)


def missing_packages(method: Method) -> list[str]:
    """Names of the packages that a method requires and that are not installed."""
    return [name for name in method.requires if importlib.util.find_spec(name) is None]


def unfinished(
    task: Task, method: Method, seed: int, budget: Budget, status: str, reason: str, is_parallel: bool
) -> Cell:
    """The row of a cell that has failed or was killed."""
    return Cell(
        task=task.name,
        method=method.name,
        seed=seed,
        title={"task": task.title, "method": method.title},
        family={"task": task.family, "method": method.family},
        status=status,
        reason=reason[:LONGEST_REASON],
        budget=budget.content,
        protocol={"data": task.name, "data_sha256": None, **_machine(is_parallel, _now())},
    )


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return f"{type(error).__name__}: {lines[0]}"


def protocol(problem: Problem, is_parallel: bool, started: str) -> dict[str, Any]:
    """What has to be said of every number."""
    return {
        **problem.facts._asdict(),
        "num_particles": None if problem.latents == "generator" else problem.num_particles,
        "learning_rate": problem.learning_rate,
        **_machine(is_parallel, started),
    }


def _machine(is_parallel: bool, started: str) -> dict[str, Any]:
    optional = {name: importlib.metadata.version(name) for name in ("numpyro", "jax") if importlib.util.find_spec(name)}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "pyro_dgm": pyro_dgm.__version__,
        **optional,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "started": started,
        "parallel": is_parallel,
    }


def _processor() -> str:
    """Its name, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return named or platform.processor() or platform.machine()


def _die_first() -> None:
    """Where memory runs out, Linux then ends this cell, which becomes a row, and not the run."""
    path = Path("/proc/self/oom_score_adj")
    if path.exists():
        path.write_text("1000")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _peak_memory() -> float:
    """The most the process has held, in megabytes; Linux counts in kilobytes, macOS in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def _way_to_quality(course: Course, problem: Problem, is_parallel: bool) -> dict[str, Metric]:
    """Steps and seconds until a look first saw what is good enough, and the seconds of a step."""
    beside = "; not measured, as other cells ran beside this one" if is_parallel else ""
    each = None if is_parallel else course.seconds_per_step
    found = {
        "seconds_per_step": Metric(each, "s", "lower", f"median over the later half of {course.steps} steps{beside}")
    }
    if problem.quality is None:
        return found
    name, value, better = problem.quality
    reached = [seen for seen in course.curve if _is_good(seen.get(name), value, better)]
    what = f"the first of {len(course.curve)} looks with {name} {'>=' if better == 'higher' else '<='} {value:.4g}"
    never = "" if reached else "; never reached"
    steps, seconds = (reached[0]["step"], reached[0]["seconds"]) if reached else (None, None)
    found["steps_to_quality"] = Metric(steps, "steps", "lower", f"steps until {what}{never}")
    found["seconds_to_quality"] = Metric(
        None if is_parallel else seconds, "s", "lower", f"seconds of training until {what}{never}{beside}"
    )
    return found


def _is_good(value: float | None, limit: float, better: str) -> bool:
    return value is not None and (value >= limit if better == "higher" else value <= limit)


def _ratio(
    registry: Registry, task: Task, method: Method, seed: int, learner: Any, store: Store
) -> Mapping[str, Any] | None:
    """Time per step against the task's reference method, on a problem of its own in this process."""
    if method.name == task.reference:
        return {"method": method.name, "ratio": 1.0, "blocks": 0}
    reference = registry.methods.get(task.reference)
    if reference is None or missing_packages(reference):
        return None
    own = Store()
    with own.open():
        try:
            _, other = begin(task, reference, seed)
        except NotForTaskError:
            return None
    return {"method": reference.name, **against_reference(learner, store, other, own)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison.cell", description="One cell of the grid.")
    parser.add_argument("--task", required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--seed", type=int, required=True)
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--budget-steps", type=int)
    budget.add_argument("--budget-seconds", type=float)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--user", type=Path, nargs="*", default=[], help="files with tasks and methods")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parallel", action="store_true", help="other cells run beside it: measure no times")
    return parser


if __name__ == "__main__":
    main()
