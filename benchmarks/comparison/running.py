"""The grid: cells in processes of their own, one after another, beside each other, or on a cluster."""

__all__ = ["Plan", "Run", "run_all", "run_cell"]

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, final

from tqdm import tqdm

from benchmarks.comparison.cell import unfinished
from benchmarks.comparison.cells import cell_path, read_cell, write_cell
from benchmarks.comparison.registry import load
from benchmarks.comparison.training import Budget

ROOT = Path(__file__).parents[2]  # where the package benchmarks is


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
        ValueError: a cell that is there is damaged, or a task in the folder has another budget.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    _check_budgets(run, {plan.task for plan in plans})
    todo = [plan for plan in plans if not _is_there(run, plan)]
    counts = {"kept": len(plans) - len(todo)}
    with tqdm(total=len(plans), initial=counts["kept"], desc="cells", unit="cell", disable=None) as bar:
        for plan, status in _statuses(run, todo, cluster):
            counts[status] = counts.get(status, 0) + 1
            bar.update()
            bar.set_postfix_str(f"{plan.task}, {plan.method}, seed {plan.seed}: {status}")
    return counts


def run_cell(run: Run, plan: Plan) -> str:
    """Runs one cell in a process of its own and returns its status; whatever happens to it, there is a row."""
    path = cell_path(run.folder, *plan)
    path.unlink(missing_ok=True)  # one that is to be run again
    log = run.folder / "logs" / f"{path.stem}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(run.threads), "MKL_NUM_THREADS": str(run.threads)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(run, plan), env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        reason = _wait(process, run.limit)
    if not path.exists():
        status = "failed" if reason is None else "killed"
        registry = load(run.user_files)
        cell = unfinished(
            registry.task(plan.task),
            registry.method(plan.method),
            plan.seed,
            run.budget,
            status,
            reason or f"the process ended with {process.returncode}: {_last_line(log)}",
            run.is_parallel,
        )
        write_cell(run.folder, cell)
    return read_cell(path).status


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


def _statuses(run: Run, todo: Sequence[Plan], cluster: Mapping[str, Any] | None) -> Iterable[tuple[Plan, str]]:
    if cluster is not None:
        yield from _on_a_cluster(run, todo, cluster)
    elif run.jobs == 1:
        yield from ((plan, run_cell(run, plan)) for plan in todo)
    else:
        from joblib import Parallel, delayed

        def of(plan: Plan) -> tuple[Plan, str]:
            return plan, run_cell(run, plan)

        # Threads, which wait for processes; processes that wait would outlive a run that is killed.
        yield from Parallel(run.jobs, backend="threading", return_as="generator_unordered")(map(delayed(of), todo))


def _on_a_cluster(run: Run, todo: Sequence[Plan], parameters: Mapping[str, Any]) -> Iterable[tuple[Plan, str]]:
    """A job for every cell; submitit's own files lie beside the cells' logs."""
    try:
        import submitit
    except ImportError as err:
        raise ValueError(
            "--submitit needs submitit; got none installed. Install pyro_dgm[cluster], or leave the option out."
        ) from err
    executor = submitit.AutoExecutor(folder=run.folder / "logs" / "submitit", cluster=parameters.get("cluster"))
    executor.update_parameters(**{name: value for name, value in parameters.items() if name != "cluster"})
    jobs = executor.map_array(run_cell, [run] * len(todo), list(todo)) if todo else []
    for plan, job in zip(todo, jobs, strict=True):
        try:
            yield plan, job.result()
        except Exception as error:  # the job itself was lost
            if not cell_path(run.folder, *plan).exists():
                registry = load(run.user_files)
                names = registry.task(plan.task), registry.method(plan.method), plan.seed
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
                write_cell(run.folder, unfinished(*names, run.budget, "killed", reason, run.is_parallel))
            yield plan, read_cell(cell_path(run.folder, *plan)).status


def _command(run: Run, plan: Plan) -> list[str]:
    (kind, amount), *_ = run.budget.content.items()
    names = ["--task", plan.task, "--method", plan.method, "--seed", str(plan.seed)]
    how = [f"--budget-{kind}", str(amount), "--threads", str(run.threads), "--runs", str(run.folder)]
    user = ["--user", *map(str, run.user_files)] if run.user_files else []
    parallel = ["--parallel"] if run.is_parallel else []
    return [sys.executable, "-m", "benchmarks.comparison.cell", *names, *how, *parallel, *user]


def _wait(process: subprocess.Popen[bytes], limit: float) -> str | None:
    """Waits for the end, and returns why it was killed, if it was."""
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        _kill(process)
        return f"it took longer than the limit of {limit:g} s"
    except BaseException:  # Ctrl-C: the cell has begun in vain, and will be begun again
        _kill(process)
        raise
    if process.returncode >= 0:
        return None
    name = signal.Signals(-process.returncode).name
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
