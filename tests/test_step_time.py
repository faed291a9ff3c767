"""Those whose steps are timed do the same: Pyro's programs, the loss by hand, and NumPyro's programs."""

import importlib.util
import json
import math
import time

import pyro
import pytest
import torch
from torch.nn.functional import softplus

from benchmarks import __main__ as by_name
from benchmarks import step_time
from benchmarks.step_time.contestants import CONTESTANTS
from benchmarks.step_time.tasks import TASKS, make
from benchmarks.step_time.tasks.belief_nets import ByScore

SEED = 3
needs_numpyro = pytest.mark.skipif(importlib.util.find_spec("numpyro") is None, reason="NumPyro is not installed")


def loss_and_gradients(objective, programs, batch):
    """The loss, and the gradients of all parameters by name, from a fixed seed."""
    torch.manual_seed(SEED)
    model, guide = programs
    loss = objective.loss_and_grads(model, guide, *batch)
    return loss, {name: parameter.grad for name, parameter in pyro.get_param_store().named_parameters()}


def by_hand(task, batch, kind):
    """Our score function keeps the gradient of log q, of mean zero, that Pyro's leaves out."""
    torch.manual_seed(SEED)
    loss = task.loss(*batch)
    if (type(task), kind) == (ByScore, "objective"):
        torch.manual_seed(SEED)
        log_q = task.log_weights(*batch)[1]
        loss = loss + (log_q - log_q.detach()).sum()
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in task.named_parameters()}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", ["stock_objective", "objective"])
def test_programs_and_the_loss_by_hand_agree_in_loss_and_gradients(name, kind):
    """They draw the same noise, so the agreement is exact but for rounding."""
    task, (batch,) = make(name, 1)
    expected, gradients = by_hand(task, batch, kind)
    task, (batch,) = make(name, 1)
    programs = task.programs()
    programs[1](*batch)  # an AutoNormal is made at its first run
    found, own = loss_and_gradients(getattr(task, kind)(), programs, batch)
    assert found == pytest.approx(expected, rel=1e-5)
    lengths = [sorted(float(each.norm()) for each in some.values()) for some in (own, gradients)]
    assert all(math.isfinite(length) and length > 0 for length in lengths[1])
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)


@pytest.mark.parametrize("name", ["logistic", "mixture"])
def test_an_automatic_guide_begins_where_the_one_by_hand_does(name):
    task, (batch,) = make(name, 1)
    guide = task.programs()[1]
    guide(*batch)
    for site, loc, raw in zip(guide.median(*batch), task.loc, task.raw, strict=True):
        torch.testing.assert_close(getattr(guide.locs, site), loc, atol=1e-6, rtol=0)
        torch.testing.assert_close(getattr(guide.scales, site), softplus(raw))


@pytest.mark.slow
@needs_numpyro
@pytest.mark.parametrize("name", [name for name in TASKS if name != "sbn-vimco"])
def test_numpyro_has_the_same_mean_loss(name):
    """400 losses of each, seed 3 here and 0 there, 5 standard errors of the difference."""
    pytest.importorskip("funsor", reason="NumPyro sums over discrete latents by funsor") if name == "mixture" else None
    import jax
    import numpyro

    from benchmarks.step_time.in_numpyro import twin

    num = 400
    task, (batch,) = make(name, 1)
    own = twin(name, task)
    svi = numpyro.infer.SVI(own.model, own.guide, numpyro.optim.Adam(1e-3), own.objective)
    values = [jax.numpy.asarray(part.numpy()) for part in batch]
    state = svi.init(jax.random.PRNGKey(0), *values)
    evaluate = jax.jit(lambda key: svi.evaluate(state._replace(rng_key=key), *values))
    theirs = torch.tensor([float(evaluate(key)) for key in jax.random.split(jax.random.PRNGKey(0), num)])
    torch.manual_seed(SEED)
    with torch.no_grad():
        ours = torch.stack([task.loss(*batch) for _ in range(num)])
    error = ((theirs.var() + ours.var()) / num).sqrt()
    assert abs(theirs.mean() - ours.mean()) < 5 * error


@pytest.fixture
def run(tmp_path):
    """Runs the command with few steps; returns its rows and its table."""

    def of(*options):
        threads = torch.get_num_threads()
        step_time.main([*options, "--rounds", "2", "--steps", "2", "--results", str(tmp_path)])
        name = f"step_time-threads-{threads}"
        return json.loads((tmp_path / f"{name}.json").read_text())["rows"], (tmp_path / f"{name}.md").read_text()

    return of


@pytest.mark.slow
def test_the_command_times_a_tiny_task_and_writes_its_table(run, capsys):
    """``torch.compile`` is left out, which would be most of the time."""
    names = [name for name in CONTESTANTS if name != "torch-compile" and "numpyro" not in name]
    (row,), table = run("--tasks", "vae-small", "--backend", "graph", "--contestants", *names)
    assert list(row["cells"]) == names
    for cell in row["cells"].values():
        assert len(cell["rounds"]) == 2
        assert cell["quartiles"][0] <= cell["ms"] <= cell["quartiles"][1]
        assert cell["notes"] == []  # no refusal, one version
    assert row["cells"]["compiled"]["extra_seconds"] > 0
    assert table in capsys.readouterr().out
    assert table.count("| VAE 20-32-5, batch 16 |") == 3


@pytest.mark.slow
@needs_numpyro
def test_numpyro_takes_part_where_it_is_installed(run, monkeypatch):
    monkeypatch.setenv("NPROC", "1")  # or the command would set it
    rows, table = run("--tasks", "vae-small", "sbn-vimco", "--contestants", "numpyro", "numpyro-scan")
    assert all(cell["ms"] > 0 and cell["extra_seconds"] > 0 for cell in rows[0]["cells"].values())
    assert "| none [1] | none [2] |" in table
    assert "[1] `sbn-vimco`, NumPyro, `jit`: NumPyro has no leave-one-out score function, and no VIMCO\n" in table


def test_rows_of_other_tasks_are_kept_if_they_were_measured_likewise(run):
    contestants = ("--contestants", "torch", "torch-fused")
    (first,), _ = run("--tasks", "vae-small", *contestants)
    rows, table = run("--tasks", "logistic", "--keep", *contestants)
    assert [row["task"] for row in rows] == ["logistic", "vae-small"]
    assert rows[1] == first
    assert all(table.count(f"| {row['title']} |") == 1 for row in rows)  # none is compiled, so there are no ratios
    with pytest.raises(ValueError, match="Leave out --keep"):
        run("--tasks", "logistic", "--keep", "--seconds", "1", *contestants)


def test_a_contestant_that_fails_is_named_with_its_reason(run, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("not in this world\nnor in another")

    monkeypatch.setitem(CONTESTANTS, "torch-compile", CONTESTANTS["torch-compile"]._replace(make=fail))
    _, table = run("--tasks", "logistic", "--contestants", "torch", "torch-compile")
    assert "| none [1] |" in table
    assert "[1] `logistic`, by hand, `torch.compile`: RuntimeError: not in this world\n" in table


def test_a_contestant_whose_first_steps_take_too_long_is_stopped_and_named(run, monkeypatch):
    def dawdle(*arguments):
        for _ in range(1000):
            try:
                time.sleep(0.01)
            except Exception:
                continue  # as compilers do, which catch whatever goes wrong

    monkeypatch.setitem(CONTESTANTS, "torch-compile", CONTESTANTS["torch-compile"]._replace(make=dawdle))
    _, table = run("--tasks", "logistic", "--contestants", "torch", "torch-compile", "--limit", "0.5")
    assert "[1] `logistic`, by hand, `torch.compile`: its first steps take more than 0.5 s\n" in table


def test_commands_are_called_by_name(monkeypatch):
    found = []
    monkeypatch.setattr("benchmarks.step_time.main", found.append)
    by_name.main(["step-time", "--threads", "1"])
    assert found == [["--threads", "1"]]
    with pytest.raises(SystemExit, match="step-time,gradients,reference-vae,published"):
        by_name.main(["step_times"])
