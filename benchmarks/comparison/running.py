"""The grid: cells in processes of their own, one after another, beside each other, or on a cluster."""

__all__ = ["Plan", "Run", "run_all", "run_cell"]

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, final

from tqdm import tqdm

from benchmarks.comparison.cell import LONGEST_REASON, draft_folder, reason_of, unfinished
from benchmarks.comparison.cells import Cell, cell_path, read_cell, write_cell
from benchmarks.comparison.locking import locked
from benchmarks.comparison.registry import load
from benchmarks.comparison.training import Budget

ROOT = Path(__file__).parents[2]  # where the package benchmarks is
PAUSE = 0.05  # seconds between two looks at a process


class Plan(NamedTuple):
    """One cell to run, by names."""

    task: str
    method: str
    seed: int


@final
@dataclass(frozen=True, kw_only=True)
class Run:
    """How the cells of a run are run.

    Arguments:
        folder: of the cells.
        budget: of each.
        limit: seconds that a cell's process may take in all.
        threads: of torch in each.
        user_files: with tasks and methods of the user's.
        jobs: how many cells run beside each other; with more than one no times are measured.
        is_retried: run cells again that have failed or were killed.
    """

    folder: Path
    budget: Budget
    limit: float
    threads: int = 1
    user_files: Sequence[Path] = field(default_factory=list)
    jobs: int = 1
    is_retried: bool = False

    @property
    def is_parallel(self) -> bool:
        """Whether other cells run beside a cell."""
        return self.jobs > 1


def run_all(run: Run, plans: Sequence[Plan], cluster: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Runs the cells that are not there yet.

    Arguments:
        run: how.
        plans: the cells.
        cluster: parameters of a submitit executor, to run on a cluster; None to run here.

    Returns:
        How many cells of the plans are there, by status, and ``"kept"``, those that were there before.

    Raises:
        ValueError: the folder cannot be made or another run holds it, a cell that is there is damaged, or a task in the
            folder has another budget.
        KeyboardInterrupt: by Ctrl-C; the cells at work have been killed and leave what was there before them.
    """
    _make(run.folder)
    with locked(run.folder):
        _check_budgets(run, {plan.task for plan in plans})
        todo = [plan for plan in plans if not _is_there(run, plan)]
        counts = {"kept": len(plans) - len(todo)}
        with (
            tqdm(total=len(plans), initial=counts["kept"], desc="cells", unit="cell", disable=None) as bar,
            closing(_statuses(run, todo, cluster)) as statuses,
        ):
            for plan, status in statuses:
                counts[status] = counts.get(status, 0) + 1
                bar.update()
                bar.set_postfix_str(f"{plan.task}, {plan.method}, seed {plan.seed}: {status}")
    return counts


def run_cell(run: Run, plan: Plan) -> str:
    """Runs one cell in a process of its own and returns its status; whatever happens to it, there is a row.

    A cell that is done is left as it is. One that is not stays until the new row takes its place.
    """
    return _run_cell(run, plan, threading.Event())


def _run_cell(run: Run, plan: Plan, stopped: threading.Event) -> str:
    path, draft = cell_path(run.folder, *plan), cell_path(draft_folder(run.folder), *plan)
    if path.exists() and read_cell(path).status == "done":
        return "done"
    before = _identity(path)
    draft.unlink(missing_ok=True)  # of a process that was killed with its run
    log = run.folder / "logs" / f"{path.stem}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(run.threads), "MKL_NUM_THREADS": str(run.threads)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(run, plan), env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        killed = _wait(process, run.limit, stopped)
    if _identity(path) == before:
        status = "failed" if killed is None else "killed"
        reason = killed or f"the process ended with {process.returncode}: {_last_line(log)}"
        write_cell(run.folder, _unfinished(run, plan, status, reason))
    draft.unlink(missing_ok=True)
    return read_cell(path).status


def _unfinished(run: Run, plan: Plan, status: str, reason: str) -> Cell:
    """The row of a process that left none: as far as its draft says, if it has begun one."""
    with suppress(OSError, ValueError):  # none, or a damaged one
        draft = read_cell(cell_path(draft_folder(run.folder), *plan))
        return replace(draft, status=status, reason=reason[:LONGEST_REASON])
    registry = load(run.user_files)
    names = registry.task(plan.task), registry.method(plan.method), plan.seed
    return unfinished(*names, run.budget, status, reason, run.is_parallel, run.threads)


def _identity(path: Path) -> tuple[int, int] | None:
    """Differs between two files that were at a path, since one is moved to the other's place; None where none is."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ValueError(
            f"--runs must be a folder that is there or can be made; got {folder}: {err.strerror}. Choose another."
        ) from err


def _is_there(run: Run, plan: Plan) -> bool:
    path = cell_path(run.folder, *plan)
    if not path.exists():
        return False
    return read_cell(path).status == "done" or not run.is_retried


def _check_budgets(run: Run, tasks: set[str]) -> None:
    """Raises a ``ValueError`` unless the cells of these tasks that are there have the run's budget."""
    for path in sorted(run.folder.glob("*.json")):
        if path.name.partition("--")[0] not in tasks:
            continue
        budget = dict(read_cell(path).budget)
        if budget != run.budget.content:
            raise ValueError(
                f"the cells of a task in one folder have one budget; got {path} with {budget} for "
                f"{run.budget.content}. Choose another --runs, or delete them."
            )


def _statuses(
    run: Run, todo: Sequence[Plan], cluster: Mapping[str, Any] | None
) -> Generator[tuple[Plan, str], None, None]:
    if cluster is not None:
        yield from _on_a_cluster(run, todo, cluster)
    elif run.jobs == 1:
        yield from ((plan, run_cell(run, plan)) for plan in todo)
    else:
        yield from _beside_each_other(run, todo)


def _beside_each_other(run: Run, todo: Sequence[Plan]) -> Generator[tuple[Plan, str], None, None]:
    """Threads, which wait for processes; processes that wait would outlive a run that is killed."""
    from joblib import Parallel, delayed

    stopped = threading.Event()

    def of(plan: Plan) -> tuple[Plan, str]:
        return plan, _run_cell(run, plan, stopped)

    try:
        yield from Parallel(run.jobs, backend="threading", return_as="generator_unordered")(map(delayed(of), todo))
    finally:  # also by Ctrl-C, which the threads are not told of
        stopped.set()


def _on_a_cluster(
    run: Run, todo: Sequence[Plan], parameters: Mapping[str, Any]
) -> Generator[tuple[Plan, str], None, None]:
    """A job for every cell; submitit's own files lie beside the cells' logs."""
    try:
        import submitit
    except ImportError as err:
        raise ValueError(
            "--submitit needs submitit; got none installed. Install pyro_dgm[cluster], or leave the option out."
        ) from err
    executor = submitit.AutoExecutor(folder=run.folder / "logs" / "submitit", cluster=parameters.get("cluster"))
    executor.update_parameters(**{name: value for name, value in parameters.items() if name != "cluster"})
    before = {plan: _identity(cell_path(run.folder, *plan)) for plan in todo}
    jobs = executor.map_array(run_cell, [run] * len(todo), list(todo)) if todo else []
    for plan, job in zip(todo, jobs, strict=True):
        path = cell_path(run.folder, *plan)
        try:
            yield plan, job.result()
        except Exception as error:  # the job itself was lost
            if _identity(path) == before[plan]:
                write_cell(run.folder, _unfinished(run, plan, "killed", reason_of(error)))
            yield plan, read_cell(path).status


def _command(run: Run, plan: Plan) -> list[str]:
    (kind, amount), *_ = run.budget.content.items()
    names = ["--task", plan.task, "--method", plan.method, "--seed", str(plan.seed)]
    how = [f"--budget-{kind}", str(amount), "--threads", str(run.threads), "--runs", str(run.folder)]
    user = ["--user", *map(str, run.user_files)] if run.user_files else []
    parallel = ["--parallel"] if run.is_parallel else []
    return [sys.executable, "-m", "benchmarks.comparison.cell", *names, *how, *parallel, *user]


def _wait(process: subprocess.Popen[bytes], limit: float, stopped: threading.Event) -> str | None:
    """Waits for the end, and returns why it was killed, if it was."""
    end = time.monotonic() + limit
    try:
        while process.poll() is None:
            if time.monotonic() > end:
                _kill(process)
                return f"it took longer than the limit of {limit:g} s"
            if stopped.wait(PAUSE):
                raise KeyboardInterrupt
    except BaseException:  # the cell has begun in vain, and will be begun again
        _kill(process)
        raise
    if process.returncode >= 0:
        return None
    number = -process.returncode
    name = next((known.name for known in signal.Signals if known == number), f"signal {number}")
    return f"killed by {name}" + (", as a process is that takes too much memory" if name == "SIGKILL" else "")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and those it has started, compilers for instance."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
