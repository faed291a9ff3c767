"""Cells in processes of their own: whatever happens to one there is a row, and an interrupted run goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.comparison import command, listing, running
from benchmarks.comparison.cell import draft_folder, measure, unfinished
from benchmarks.comparison.cells import read_cell, write_cell
from benchmarks.comparison.locking import locked
from benchmarks.comparison.registry import load
from benchmarks.comparison.running import Plan, Run, run_all, run_cell
from benchmarks.comparison.training import Budget
from contracts import refuses

ROOT = Path(__file__).parents[2]

USER = """
import os, signal, time
import torch
from benchmarks.comparison import Facts, Learner, Method, Posterior, Problem, Task


class Coin(Task):
    name, title, family, reference = "coin", "a normal of mean 3", "exact", "good"

    def build(self, seed):
        x, one = torch.zeros(1, 1), torch.ones(1, 1).double()
        posterior = Posterior(("z",), 3 * one, one)
        return Problem(model=None, batches=lambda: iter(()), test=(x,), facts=Facts("coin", 1), latents="continuous",
                       is_whole=True, posterior=posterior)


class Draws(Learner):
    def step(self):
        time.sleep(0.05)

    def draws(self, num):
        return {"z": 3 + torch.randn(num, 1)}


class Good(Method):
    name, title = "good", "exact draws"

    def supports(self, problem):
        return None if problem.facts.data == "coin" else "it knows one answer only"

    def start(self, problem, seed):
        print("it begins", flush=True)
        return Draws()


class Raises(Good):
    name, title = "raises", "raises"

    def start(self, problem, seed):
        raise ArithmeticError("it went wrong\\nin two lines")


class Dies(Good):
    name, title = "dies", "dies"

    def start(self, problem, seed):
        os.kill(os.getpid(), signal.SIGKILL)


class Unsure(Good):
    name, title = "unsure", "raises when asked"

    def supports(self, problem):
        raise ArithmeticError("it cannot say")


class Unbuilt(Coin):
    name, title = "unbuilt", "ends when built"

    def build(self, seed):
        raise SystemExit("no data")


class Leaves(Good):
    name, title = "leaves", "leaves"

    def start(self, problem, seed):
        print("good-bye", flush=True)
        os._exit(3)
"""


@pytest.fixture
def user_file(tmp_path):
    """A task and methods of a user's, outside of the repository."""
    path = tmp_path / "mine" / "my_methods.py"
    path.parent.mkdir()
    path.write_text(USER)
    return path


def a_run(tmp_path, user_file, **changes):
    options = {"folder": tmp_path / "runs", "budget": Budget(3, None), "limit": 120.0, "user_files": [user_file]}
    return Run(**{**options, **changes})


@pytest.mark.slow
def test_whatever_happens_to_a_cell_there_is_a_row_with_the_reason(tmp_path, user_file):
    run = a_run(tmp_path, user_file, jobs=2)
    plans = [Plan("coin", name, 0) for name in ("good", "raises", "dies", "leaves")]
    assert run_all(run, plans) == {"kept": 0, "done": 1, "failed": 2, "killed": 1}
    rows = {plan.method: read_cell(run.folder / f"coin--{plan.method}--0.json") for plan in plans}
    assert rows["good"].status == "done"
    assert rows["good"].metrics["mean_error"].value < 0.1
    assert rows["good"].protocol["parallel"] is True
    assert rows["good"].family == {"task": "exact", "method": "user"}
    assert rows["raises"].reason == "ArithmeticError: it went wrong"
    assert (rows["dies"].status, "SIGKILL" in rows["dies"].reason) == ("killed", True)
    assert rows["leaves"].reason == "the process ended with 3: good-bye"
    assert run_all(run, plans) == {"kept": 4}  # nothing is done again


@pytest.mark.slow
def test_a_cell_over_its_limit_is_killed_and_may_be_run_again(tmp_path, user_file):
    run = a_run(tmp_path, user_file, budget=Budget(10_000, None), limit=0.5)
    assert run_cell(run, Plan("coin", "good", 0)) == "killed"
    row = read_cell(run.folder / "coin--good--0.json")
    assert row.reason == "it took longer than the limit of 0.5 s"
    assert row.title == {"task": "a normal of mean 3", "method": "exact draws"}
    again = a_run(tmp_path, user_file, budget=Budget(10_000, None), limit=0.5, is_retried=True)
    assert run_all(again, [Plan("coin", "good", 0)]) == {"kept": 0, "killed": 1}
    assert not list((run.folder / "logs").glob("*.json"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds children by /proc")
def test_a_run_killed_in_the_middle_goes_on_with_nothing_redone_and_nothing_lost(tmp_path, user_file):
    folder = tmp_path / "runs"
    grid = ["--tasks", "coin", "--methods", "good", "--seeds", "0", "1", "2", "--budget-steps", "8"]
    arguments = [*grid, "--runs", str(folder), "--user", str(user_file)]
    parent = subprocess.Popen([sys.executable, "-m", "benchmarks", "run", *arguments], cwd=ROOT)
    first, second = folder / "coin--good--0.json", folder / "logs" / "coin--good--1.log"
    waits_until(lambda: first.exists() and second.exists(), parent)
    (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    for pid in (parent.pid, int(child)):
        os.kill(pid, signal.SIGKILL)
    parent.wait()
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.json")}
    assert "coin--good--0.json" in before
    assert len(before) < 3
    command.main(arguments)
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.json")}
    assert sorted(after) == [f"coin--good--{seed}.json" for seed in (0, 1, 2)]
    assert all(after[name] == found for name, found in before.items())
    assert {read_cell(folder / name).status for name in after} == {"done"}


def waits_until(happened, process, seconds=90):
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, "the run ended early"
        assert time.monotonic() < end, "the run takes too long"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds children by /proc")
def test_a_cell_ends_when_its_run_has_been_killed(tmp_path, user_file):
    grid = ["--tasks", "coin", "--methods", "good", "--budget-steps", "100000", "--runs", str(tmp_path / "runs")]
    whole = [sys.executable, "-m", "benchmarks", "run", *grid, "--user", str(user_file)]
    parent = subprocess.Popen(whole, cwd=ROOT, stderr=subprocess.DEVNULL)
    log = tmp_path / "runs" / "logs" / "coin--good--0.log"
    waits_until(log.exists, parent)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    waits_until(lambda: children.read_text().strip(), parent)
    child = Path(f"/proc/{children.read_text().split()[0]}")
    waits_until(lambda: "it begins" in log.read_text(), parent)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 60
    while child.exists() and (child / "stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end, "the cell outlives its run"
        time.sleep(0.1)
    assert not list((tmp_path / "runs").glob("*.json"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds children by /proc")
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_a_retry_in_a_line_with_its_cells_killed_and_the_old_ones_kept(tmp_path, user_file, jobs):
    run = a_run(tmp_path, user_file, budget=Budget(100_000, None))
    before = [write_cell(run.folder, a_lost_cell(run, seed)).read_bytes() for seed in (0, 1)]
    grid = ["--tasks", "coin", "--methods", "good", "--seeds", "0", "1", "--budget-steps", "100000", "--retry"]
    where = ["--jobs", str(jobs), "--runs", str(run.folder), "--user", str(user_file)]
    whole = [sys.executable, "-m", "benchmarks", "run", *grid, *where]
    parent = subprocess.Popen(whole, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    logs = [run.folder / "logs" / f"coin--good--{seed}.log" for seed in range(jobs)]
    waits_until(lambda: all(log.exists() and "it begins" in log.read_text() for log in logs), parent)
    threads = Path(f"/proc/{parent.pid}/task").iterdir()
    children = [Path(f"/proc/{pid}") for thread in threads for pid in (thread / "children").read_text().split()]
    assert len(children) == jobs
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("interrupted")
    assert not any(child.exists() for child in children)
    assert [path.read_bytes() for path in sorted(run.folder.glob("*.json"))] == before


def a_lost_cell(run, seed=0, method="good", status="killed"):
    registry = load(run.user_files)
    names = registry.task("coin"), registry.method(method), seed
    return unfinished(*names, run.budget, status, "ValueError: lost", False, 1)


def test_a_folder_has_one_run_at_a_time(tmp_path, user_file):
    run = a_run(tmp_path, user_file)
    write_cell(run.folder, a_lost_cell(run))
    with locked(run.folder), refuses(ValueError, f"process {os.getpid()} on", str(run.folder), "--runs"):
        run_all(run, [Plan("coin", "good", 0)])
    assert run_all(run, [Plan("coin", "good", 0)]) == {"kept": 1}


def test_a_lock_ends_with_its_process(tmp_path):
    text = "import os, pathlib, sys; from benchmarks.comparison.locking import locked\n"
    text += "with locked(pathlib.Path(sys.argv[1])): os._exit(0)"
    subprocess.run([sys.executable, "-c", text, tmp_path], cwd=ROOT, check=True)
    assert (tmp_path / ".lock").read_text().startswith("process ")
    with locked(tmp_path):
        pass


def stands_in(monkeypatch, then):
    """Python code instead of the process of a cell."""
    monkeypatch.setattr(running, "_command", lambda run, plan: [sys.executable, "-c", then])


def test_a_cell_that_is_done_is_never_run_again(tmp_path, user_file, monkeypatch):
    run = a_run(tmp_path, user_file, is_retried=True)
    path = write_cell(run.folder, replace(a_lost_cell(run), status="done", reason=None))
    stands_in(monkeypatch, "raise AssertionError")
    before = path.stat()
    assert run_cell(run, Plan("coin", "good", 0)) == "done"  # as a cluster's job may that has begun anew
    assert path.stat() == before


def test_a_cell_that_is_retried_stays_until_its_new_row_is_there(tmp_path, user_file, monkeypatch):
    run = a_run(tmp_path, user_file, is_retried=True)
    path = write_cell(run.folder, a_lost_cell(run))
    stands_in(monkeypatch, f"import sys; assert open({str(path)!r}).read(); sys.exit('it is gone')")
    assert run_all(run, [Plan("coin", "good", 0)]) == {"kept": 0, "failed": 1}
    assert read_cell(path).reason == "the process ended with 1: it is gone"


def test_what_a_process_wrote_of_itself_is_in_its_row(tmp_path, user_file, monkeypatch):
    run = a_run(tmp_path, user_file, threads=3)
    drafts = draft_folder(run.folder)
    draft = replace(a_lost_cell(run), protocol={"data": "coins", "data_sha256": "12ab"}, curve=[{"step": 1}])
    made = write_cell(tmp_path / "elsewhere", draft)
    copies = f"import os, shutil; shutil.copy({str(made)!r}, {str(drafts)!r}); "
    stands_in(monkeypatch, copies + "print('x' * 9999, flush=True); os._exit(3)")
    assert run_cell(run, Plan("coin", "good", 0)) == "failed"
    row = read_cell(run.folder / "coin--good--0.json")
    assert row.reason.startswith("the process ended with 3: xxx")
    assert len(row.reason) < 1000
    assert (row.protocol, row.curve) == (draft.protocol, draft.curve)
    assert not list(drafts.glob("*.json"))
    (drafts / "coin--good--1.json").write_bytes(made.read_bytes())  # of a run that was killed before
    stands_in(monkeypatch, "import os; os._exit(3)")
    assert run_cell(run, Plan("coin", "good", 1)) == "failed"
    assert read_cell(run.folder / "coin--good--1.json").protocol["threads"] == 3


def test_a_damaged_draft_is_left_out(tmp_path, user_file, monkeypatch):
    run = a_run(tmp_path, user_file)
    draft = draft_folder(run.folder) / "coin--good--0.json"
    stands_in(monkeypatch, f"import os; open({str(draft)!r}, 'w').write('{{'); os.kill(os.getpid(), 9)")
    assert run_cell(run, Plan("coin", "good", 0)) == "killed"
    assert "SIGKILL" in read_cell(run.folder / "coin--good--0.json").reason
    assert not draft.exists()


def test_a_signal_without_a_name_is_a_reason_too(tmp_path, user_file, monkeypatch):
    run = a_run(tmp_path, user_file)
    stands_in(monkeypatch, "import os; os.kill(os.getpid(), 40)")
    assert run_cell(run, Plan("coin", "good", 0)) == "killed"
    assert read_cell(run.folder / "coin--good--0.json").reason == "killed by signal 40"


def test_an_error_beside_other_cells_stops_them(tmp_path, user_file, monkeypatch):
    run = a_run(tmp_path, user_file, jobs=2)
    stands_in(monkeypatch, "import time; time.sleep(100)")
    write_cell(run.folder, a_lost_cell(run, seed=1))

    def breaks(folder, cell):
        raise OSError("no space left")

    monkeypatch.setattr(running, "write_cell", breaks)
    monkeypatch.setattr(running, "_is_there", lambda run, plan: False)
    monkeypatch.setattr(running, "_wait", first_ends(running._wait))
    start = time.monotonic()
    with pytest.raises(OSError, match="no space left"):
        run_all(run, [Plan("coin", "good", seed) for seed in range(3)])
    assert time.monotonic() - start < 50


def first_ends(wait):
    calls = iter([0.0])
    return lambda process, limit, stopped: wait(process, next(calls, limit), stopped)


@pytest.mark.parametrize(("task", "method"), [("coin", "unsure"), ("unbuilt", "good")])
def test_a_pair_that_raises_when_asked_is_planned_for_its_cell_to_say_so(user_file, task, method):
    assert command.plans_of(load([user_file]), [task], [method], [0]) == ([Plan(task, method, 0)], [])


def test_the_exit_code_says_whether_any_cell_is_done(tmp_path, user_file, monkeypatch, capsys):
    run = a_run(tmp_path, user_file)
    stands_in(monkeypatch, "import os; os._exit(3)")
    grid = ["--tasks", "coin", "--methods", "good", "--budget-steps", "3", "--runs", str(run.folder)]
    for _ in range(2):  # the second finds the row
        with pytest.raises(SystemExit) as ended:
            command.main([*grid, "--seeds", "0", "--user", str(user_file)])
        assert ended.value.code == 1
    write_cell(run.folder, replace(a_lost_cell(run, seed=1), status="done", reason=None))
    command.main([*grid, "--seeds", "0", "1", "--user", str(user_file)])
    assert "2 kept" in capsys.readouterr().out


def test_a_users_methods_and_tasks_are_listed(user_file, capsys):
    listing.main(["--user", str(user_file)])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["coin", "exact"] for line in lines)
    assert any(line.split()[:2] == ["good", "user"] for line in lines)
    assert any(line.split()[:2] == ["elbo", "pyro_dgm"] for line in lines)


def test_the_readmes_method_of_ones_own_runs(tmp_path):
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    path = tmp_path / "clipped.py"
    path.write_text(text.split("```python\n")[1].split("```")[0])
    registry = load([path])
    found = measure(registry, registry.task("gamma-poisson"), registry.method("clipped"), 0, Budget(3, None), True)
    assert found.family["method"] == "user"
    assert found.metrics["bound"].value is not None


def test_pairs_that_are_not_for_each_other_are_left_out(tmp_path, user_file, capsys):
    arguments = ["--tasks", "coin", "--methods", "rebar", "--budget-steps", "1", "--user", str(user_file), "--verbose"]
    command.main([*arguments, "--runs", str(tmp_path / "runs")])
    out = capsys.readouterr()
    assert "1 pairs are not for each other" in out.out
    assert "left out: rebar for coin" in out.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--tasks", "nothing"], "'nothing'"),
        (["--methods", "nothing"], "'nothing'"),
        (["--budget-steps", "0"], "positive"),
        (["--jobs", "0"], "jobs"),
        (["--threads", "100000"], "threads"),
        (["--seeds", "0", "-1"], "-1"),
        (["--seeds", str(2**32)], str(2**32)),
        (["--limit-seconds", "0"], "limit"),
        (["--user", "nowhere.py"], "nowhere.py"),
        (["--submitit", "timeout"], "name=value"),
    ],
)
def test_a_command_that_makes_no_sense_ends_before_anything_runs(tmp_path, changes, said):
    given = ["--tasks", "hierarchy", "--methods", "elbo", "--budget-steps", "1", "--runs", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as ended:
        command.main([*given, *changes])
    assert said in str(ended.value)
    assert "; got" in str(ended.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("seconds", "said"), [("inf", "finite"), ("nan", "finite"), ("-1", "positive"), ("3600", "--limit-seconds")]
)
def test_seconds_of_training_are_finite_and_below_the_limit(tmp_path, seconds, said):
    given = ["--tasks", "hierarchy", "--methods", "elbo", f"--budget-seconds={seconds}"]
    with pytest.raises(SystemExit) as ended:
        command.main([*given, "--runs", str(tmp_path / "runs")])
    assert said in str(ended.value)
    assert "; got" in str(ended.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("below", ["", "runs"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, user_file, below):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / below
    grid = ["--tasks", "coin", "--methods", "good", "--budget-steps", "1", "--user", str(user_file)]
    with pytest.raises(SystemExit, match=r"^error: --runs must be .*; got .*file.*\. Choose"):
        command.main([*grid, "--runs", str(folder)])
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_cell_stops_the_run_and_is_named(tmp_path, user_file):
    run = a_run(tmp_path, user_file)
    run.folder.mkdir()
    path = run.folder / "coin--good--0.json"
    path.write_text("{")
    with refuses(ValueError, str(path)):
        run_all(run, [Plan("coin", "good", 0)])


def test_a_task_with_another_budget_is_refused_and_another_task_may_have_one(tmp_path, user_file):
    run = a_run(tmp_path, user_file)
    registry = load([user_file])
    names = registry.task("coin"), registry.method("raises"), 1
    write_cell(run.folder, unfinished(*names, Budget(7, None), "failed", "ValueError: no", False))
    with refuses(ValueError, "{'steps': 7}", "--runs"):
        run_all(run, [Plan("coin", "good", 0)])
    assert not (run.folder / "coin--good--0.json").exists()
    assert run_all(run, [Plan("ppca", "raises", 0)]) == {"kept": 0, "failed": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "has none"),
        (USER.replace('"good"', '"elbo"'), "'elbo'"),
        (USER.replace('"good", "exact draws"', '"so--good", ""'), "'so--good'"),
        (USER.replace('name, title = "good", "exact draws"', 'name = "good"'), "title must be a text"),
        (USER.replace('"good", "exact draws"', '"good", " "'), "of Good"),
        (USER.replace('"exact", "good"', '3, "good"'), "family must be a text"),
        (USER.replace('"exact", "good"', '"exact", None'), "reference must be a text"),
        (USER + '    requires = "numpyro"\n', "got 'numpyro' of Leaves"),
        (USER + '    requires = ("numpyro", 1)\n', "requires must be a tuple"),
        ("x = (\n", "SyntaxError"),
        ("x = 1\nimport no_such_module\n", "mine.py, line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f():\n    return 1 / 0\n\n\nf()\n", "mine.py, line 2: ZeroDivisionError"),
        ("import sys\nsys.exit(3)\n", "mine.py, line 2: SystemExit: 3"),
        (USER + "    def __init__(self, x):\n        pass\n", "without arguments; got Leaves"),
    ],
)
def test_a_users_file_that_cannot_be_used_is_named(tmp_path, text, said):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with refuses(ValueError, str(path), said):
        load([path])


def test_a_users_file_imports_its_siblings_and_has_a_module_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    paths = [tmp_path / name / "mine.py" for name in ("first", "second")]
    for path in paths:
        path.parent.mkdir()
        (path.parent / f"parts_of_{path.parent.name}.py").write_text(f"TITLE = {path.parent.name!r}\n")
        head = f"from parts_of_{path.parent.name} import TITLE\nfrom benchmarks.comparison import Method\n\n\n"
        body = f"class Mine(Method):\n    name, title = {path.parent.name!r}, TITLE\n"
        path.write_text(head + body + "    def supports(self, problem): ...\n    def start(self, problem, seed): ...\n")
    methods = load(paths).methods
    assert [methods[name].title for name in ("first", "second")] == ["first", "second"]
    for name in ("first", "second"):  # where pickles look
        assert sys.modules[type(methods[name]).__module__].Mine is type(methods[name])


def test_jobs_go_to_submitit_where_it_is_asked_for(tmp_path, user_file, monkeypatch):
    """A stand-in for submitit: its jobs are lost, and there are rows that say so."""

    class Job:
        def result(self):
            raise RuntimeError("the node went away")

    class AutoExecutor:
        def __init__(self, folder, cluster):
            self.given = {"cluster": cluster}

        def update_parameters(self, **parameters):
            self.given |= parameters
            told.append(self.given)

        def map_array(self, function, *columns):
            return [Job() for _ in zip(*columns, strict=True)]

    told = []
    stand_in = type(sys)("submitit")
    stand_in.AutoExecutor = AutoExecutor
    monkeypatch.setitem(sys.modules, "submitit", stand_in)
    grid = ["--tasks", "coin", "--methods", "good", "--seeds", "0", "1", "--budget-steps", "1"]
    where = ["--runs", str(tmp_path / "runs"), "--user", str(user_file)]
    with pytest.raises(SystemExit) as ended:
        command.main([*grid, *where, "--submitit", "cluster=local", "timeout_min=5"])
    assert ended.value.code == 1
    assert told == [{"cluster": "local", "timeout_min": 5}]
    rows = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs").glob("*.json"))]
    assert [row["reason"] for row in rows] == ["RuntimeError: the node went away"] * 2
    assert all(row["protocol"]["parallel"] for row in rows)


def test_without_submitit_it_is_asked_for(tmp_path, user_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with refuses(ValueError, "submitit", "pyro_dgm[cluster]"):
        run_all(a_run(tmp_path, user_file), [Plan("coin", "good", 0)], cluster={})
