"""One cell of the grid in a process of its own, as ``python -m benchmarks run`` starts it.

python -m benchmarks.comparison.cell --task ppca --method elbo --seed 0 --budget-steps 1000 --runs runs/comparison
"""

__all__ = [
    "NotForTaskError",
    "begin",
    "budget_of",
    "draft_folder",
    "main",
    "measure",
    "missing_packages",
    "protocol",
    "unfinished",
]

import argparse
import datetime
import importlib
import importlib.util
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pyro
import torch

import pyro_dgm
from benchmarks.comparison.cells import Cell, Metric, write_cell
from benchmarks.comparison.method import Learner, Method
from benchmarks.comparison.metrics import final_metrics, look
from benchmarks.comparison.registry import Registry, load
from benchmarks.comparison.task import Problem, Task
from benchmarks.comparison.training import Budget, Course, OrphanedError, Store, against_reference, train
from benchmarks.protocol import machine, processor, versions

LONGEST_REASON = 500


class NotForTaskError(ValueError):
    """A method was to begin on a task that it is not for."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures a cell and writes its file; what goes wrong is its result, with what was measured before."""
    options = _parser().parse_args(argv)
    _die_first()
    torch.set_num_threads(options.threads)
    registry = load(options.user)
    task, method = registry.task(options.task), registry.method(options.method)
    budget = budget_of(options)
    record = _Record(task, method, options.seed, budget, options.parallel, options.runs)
    try:
        _measure(registry, record)
    except OrphanedError:
        raise
    except (Exception, SystemExit) as error:  # whatever a method fails with is its result
        traceback.print_exc()
        record.status, record.reason = "failed", reason_of(error)
    write_cell(options.runs, record.cell())


def budget_of(options: argparse.Namespace) -> Budget:
    """The budget that the command line names.

    Raises:
        ValueError: it is not positive.
    """
    budget = Budget(options.budget_steps, options.budget_seconds)
    if not budget.total > 0:
        raise ValueError(f"a budget must be positive; got {budget.content}. For instance --budget-steps 1000.")
    return budget


@final
class _Record:
    """What is known of a cell so far.

    Arguments:
        task: of the cell.
        method: of the cell.
        seed: of the cell.
        budget: of the cell.
        is_parallel: whether others run beside it.
        folder: of the cells.
    """

    def __init__(
        self, task: Task, method: Method, seed: int, budget: Budget, is_parallel: bool, folder: Path | None = None
    ) -> None:
        self.task, self.method, self.seed, self.budget = task, method, seed, budget
        self.is_parallel, self.folder = is_parallel, folder
        self.status = "done"
        self.reason: str | None = None
        self.course = Course()
        self.measured: dict[str, Any] = {}
        """Fields of the cell by name, once they are known."""

    def cell(self) -> Cell:
        """The cell as far as it is known."""
        bare = unfinished(self.task, self.method, self.seed, self.budget, self.status, self.reason, self.is_parallel)
        curve = [{**seen, "seconds": None} for seen in self.course.curve] if self.is_parallel else self.course.curve
        return replace(bare, **{"curve": curve, **self.measured})

    def keep_draft(self) -> None:
        """Writes what is known for whoever finds the process dead."""
        if self.folder is not None:
            write_cell(draft_folder(self.folder), replace(self.cell(), status="killed", reason="it has not ended"))


def measure(registry: Registry, task: Task, method: Method, seed: int, budget: Budget, is_parallel: bool) -> Cell:
    """Trains, and measures what came of it; times only where nothing else runs beside.

    Raises:
        ValueError: the method is not for the task, or a package is missing.
        Exception: whatever the method raises.
    """
    record = _Record(task, method, seed, budget, is_parallel)
    _measure(registry, record)
    return record.cell()


def _measure(registry: Registry, record: _Record) -> None:
    """Puts into the record what is measured, as soon as it is known."""
    task, method, seed, course = record.task, record.method, record.seed, record.course
    missing = missing_packages(method)
    if missing:
        raise ValueError(f"{method.name} needs packages that are installed; got no {', '.join(missing)}. Install them.")
    started = _now()
    store = Store()
    with store.open():
        problem, make = begin(task, method, seed)
        record.measured["protocol"] = protocol(problem, record.is_parallel, started)
        record.keep_draft()
        start = time.perf_counter()
        learner = make()
        course.seconds = time.perf_counter() - start
        _forget_peak()
        train(learner, record.budget, lambda: look(learner, problem, seed), course)
        record.measured["peak_memory_mb"] = _peak_memory()
        record.measured["seconds"] = None if record.is_parallel else course.seconds
        record.measured["metrics"] = _way_to_quality(course, problem, record.is_parallel)
        record.measured["metrics"] |= final_metrics(learner, problem, seed)
    if not record.is_parallel:
        record.measured["reference"] = _ratio(registry, task, method, seed, learner, store)


def begin(task: Task, method: Method, seed: int) -> tuple[Problem, Callable[[], Learner]]:
    """A task, and what starts the method on it; all methods have the same first parameters for a seed.

    Raises:
        NotForTaskError: the method is not for the task.
        Exception: whatever the method raises.
    """
    for name in method.requires:
        importlib.import_module(name)  # which is no time of the method's
    pyro.set_rng_seed(seed)
    problem = task.build(seed)
    with torch.random.fork_rng(devices=[]):
        refusal = method.supports(problem)
    if refusal is not None:
        raise NotForTaskError(
            f"a method must be for its task; got {method.name} for {task.name}: {refusal}. Choose another."
        )
    return problem, lambda: method.start(problem, seed)


def draft_folder(folder: Path) -> Path:
    """Where what is known of the cells of a folder lies while they are measured."""
    return folder / "logs"


def missing_packages(method: Method) -> list[str]:
    """Names of the packages that a method requires and that are not installed."""
    return [name for name in method.requires if not _is_there(name)]


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def unfinished(
    task: Task,
    method: Method,
    seed: int,
    budget: Budget,
    status: str,
    reason: str | None,
    is_parallel: bool,
    threads: int | None = None,
) -> Cell:
    """A cell of which nothing has been measured; threads are those of this process when None."""
    return Cell(
        task=task.name,
        method=method.name,
        seed=seed,
        title={"task": task.title, "method": method.title},
        family={"task": task.family, "method": method.family},
        status=status,
        reason=None if reason is None else reason[:LONGEST_REASON],
        budget=budget.content,
        protocol={"data": task.name, "data_sha256": None, **_machine(is_parallel, _now(), threads)},
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


def _machine(is_parallel: bool, started: str, threads: int | None = None) -> dict[str, Any]:
    return {
        **machine(),
        "processor": processor(),
        "pyro_dgm": pyro_dgm.__version__,
        **versions(),
        "threads": torch.get_num_threads() if threads is None else threads,
        "started": started,
        "parallel": is_parallel,
    }


def _die_first() -> None:
    """Where memory runs out, Linux then ends this cell, which becomes a row, and not the run."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _forget_peak() -> None:
    """Where Linux allows it, the most that the process has held is counted from here on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> float:
    """The most the process has held, in megabytes; of a process before it, which the usual count has in it, nothing."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    held = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    if held is not None:
        return int(held) / 2**10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def _way_to_quality(course: Course, problem: Problem, is_parallel: bool) -> dict[str, Metric]:
    """Steps and seconds to the look from which on all saw what is good enough, and the seconds of a step."""
    beside = "; not measured, as other cells ran beside this one" if is_parallel else ""
    each = None if is_parallel else course.seconds_per_step
    found = {
        "seconds_per_step": Metric(each, "s", "lower", f"median over the later half of {course.steps} steps{beside}")
    }
    if problem.quality is None or not any(problem.quality.metric in seen for seen in course.curve):
        return found
    name, value, better = problem.quality
    good = [_is_good(seen.get(name), value, better) for seen in course.curve]
    last_bad = max((k for k, own in enumerate(good) if not own), default=-1)
    reached = course.curve[last_bad + 1 :]
    what = f"{name} {'>=' if better == 'higher' else '<='} {value:.4g} then and at every later look, of {len(good)}"
    never = "" if reached else "; never reached and kept"
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
            other = begin(task, reference, seed)[1]()
            found = against_reference(learner, store, other, own)
        except NotForTaskError:
            return None
        except Exception as error:  # what was measured before stays
            return {"method": reference.name, "ratio": None, "blocks": 0, "reason": reason_of(error)}
    return {"method": reference.name, **found}


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
