"""Every method takes steps on a task it is for, and what is measured has the value it must have."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import torch

from benchmarks.comparison import cell as cells_of
from benchmarks.comparison import metrics
from benchmarks.comparison.cell import begin
from benchmarks.comparison.cells import read_cell
from benchmarks.comparison.command import plans_of
from benchmarks.comparison.method import Learner, Method, TrainedPrograms
from benchmarks.comparison.metrics import final_metrics, look
from benchmarks.comparison.registry import load
from benchmarks.comparison.tasks.images import Images
from benchmarks.comparison.tasks.music import Chorales
from benchmarks.comparison.training import Budget, Store, against_reference, train
from contracts import refuses
from pyro_dgm import datasets
from pyro_dgm.infer import ELBO

ROOT = Path(__file__).parents[2]
REGISTRY = load()
SMALL = ("ppca", "eight-schools", "sbn", "mixture", "ring", "digits")


@pytest.fixture(scope="module")
def problems():
    """The small tasks' problems, to see who supports them."""
    pyro.set_rng_seed(0)
    return {name: REGISTRY.tasks[name].build(0) for name in SMALL}


def installed(method):
    return all(importlib.util.find_spec(name) for name in method.requires)


def begun(task, method, seed=0):
    """A learner on a problem of its own."""
    problem, start = begin(REGISTRY.tasks[task], REGISTRY.methods[method], seed)
    return problem, start()


@pytest.mark.parametrize("name", REGISTRY.methods)
def test_a_method_takes_steps_on_a_task_that_it_is_for(name, problems):
    method = REGISTRY.methods[name]
    if not installed(method):
        pytest.skip(f"{method.requires} are not installed")
    task = next(task for task in SMALL if method.supports(problems[task]) is None)
    problem, learner = begun(task, name)
    before = [tensor.clone() for tensor in problem.model.parameters()] if problem.is_learned else []
    course = train(learner, Budget(3, None), lambda: look(learner, problem))
    assert course.steps == course.curve[-1]["step"] == 3
    assert len(course.curve[-1]) > 2 or name.endswith("-nuts")  # whose first draws say nothing yet
    after = list(problem.model.parameters()) if problem.is_learned else []
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) or not before


@pytest.mark.parametrize("method", ["torch-vae", "pyro-trace-elbo", "iwae", "rws"])
def test_all_methods_begin_with_the_same_parameters(method):
    models, guides = zip(*(begun("digits", name)[1].programs for name in ("elbo", method)), strict=True)
    for own, others in (models, guides):
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), others.parameters(), strict=True))


def test_every_task_has_a_method_and_the_reasons_of_others_are_told():
    plans, left_out = plans_of(REGISTRY, SMALL, list(REGISTRY.methods), [0, 1])
    assert {plan.task for plan in plans} == set(SMALL)
    assert len(set(plans)) == len(plans)
    assert {plan.seed for plan in plans} == {0, 1}
    assert any(reason.startswith("rebar for ppca: it is for bits") for reason in left_out)
    references = {(plan.task, plan.method) for plan in plans}
    assert all((name, REGISTRY.tasks[name].reference) in references for name in SMALL)


def test_the_same_seed_begins_alike_for_this_librarys_and_pyros_elbo():
    """Both draw the same noise, so that three steps of Adam end in the same bound but for rounding."""
    found = []
    for method in ("elbo", "pyro-trace-elbo", "elbo-compiled"):
        with Store().open():
            problem, learner = begun("ppca", method)
            found.append(
                train(learner, Budget(3, None), lambda p=problem, own=learner: look(own, p)).curve[-1]["bound"]
            )
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)


class Given(Learner):
    """What is given, without a step."""

    def __init__(self, draws=None, samples=None, is_chain=False):
        self._draws, self._samples, self.is_chain = draws, samples, is_chain

    def step(self):
        pass

    def draws(self, num):
        return self._draws

    def samples(self, num):
        return self._samples


def exact_guide(problem):
    """The task's own guide, an affine map, at the exact posterior."""
    guide = problem.make_guide()
    affine = guide.sites.z.net.layers[-1]
    means = problem.model.posterior(torch.cat([torch.zeros(1, 10), torch.eye(10)])).mean
    tril = problem.model.posterior(torch.zeros(1, 10)).scale_tril[0]
    with torch.no_grad():
        affine.weight.zero_()
        affine.weight[:2] = (means[1:] - means[0]).T
        affine.bias.copy_(torch.cat([means[0], tril.diagonal().log(), tril[1:, 0]]))
    return guide


def test_an_exact_guide_has_no_gap_and_equal_weights():
    problem, _ = begun("ppca", "elbo")
    learner = TrainedPrograms(None, problem, problem.model, exact_guide(problem))
    found = final_metrics(learner, problem)
    assert found["kl"].value == pytest.approx(0, abs=1e-4)
    assert found["log_evidence"].value == pytest.approx(0, abs=1e-4)
    assert found["bound"].value == pytest.approx(float(problem.log_evidence().mean()), abs=1e-4)
    assert found["ess"].value == pytest.approx(1, abs=1e-3)
    assert found["mean_error"].value == pytest.approx(1 / math.sqrt(metrics.NUM_LOCAL_DRAWS), rel=0.1)
    assert found["sd_error"].value < 0.05


def test_sticking_the_landing_has_no_noise_at_the_exact_guide_and_the_plain_gradient_has():
    problem, _ = begun("ppca", "elbo-stl")
    guide, noise = exact_guide(problem), {}
    for name in ("stl", "reparam"):
        own = TrainedPrograms(None, problem, problem.model, guide, ELBO(gradient=name))
        noise[name] = final_metrics(own, problem)["gradient_variance"].value
    assert noise["stl"] < 1e-6 * noise["reparam"]


def test_the_references_own_draws_are_told_from_none():
    """A thousand draws as a chain: no error beyond the reference's, nothing told apart, and all of them worth one."""
    problem, _ = begun("eight-schools", "elbo")
    draws = problem.posterior.draws[torch.randperm(1000)]
    own = {"mu": draws[:, :1], "tau": draws[:, 1:2], "eta": draws[:, 2:].unsqueeze(1)}
    found = final_metrics(Given(own, is_chain=True), problem)
    assert found["mean_error"].value < 0.06
    assert found["sd_error"].value < 0.1
    assert found["chain_ess"].value > 0.7
    assert found["c2st"].value < 0.6  # the very same draws: nearest neighbours find their doubles
    assert "bound" not in found
    shifted = {**own, "mu": own["mu"] + float(problem.posterior.sd[0, 0])}
    assert look(Given(shifted), problem)["mean_error"] == pytest.approx(1 / math.sqrt(10), abs=0.05)


def test_too_few_draws_say_so():
    problem, _ = begun("eight-schools", "elbo")
    found = final_metrics(Given(None), problem)
    assert found["mean_error"].value is None
    assert "no draws" in found["mean_error"].meaning


def test_a_perfect_generator_covers_all_modes_and_a_collapsed_one_does_not():
    problem, _ = begun("ring", "gan")
    fresh = datasets.ring(seed=5, num_train=2500).train.x
    found = final_metrics(Given(samples=fresh), problem)
    assert found["num_covered"].value == 8
    assert found["high_quality"].value == pytest.approx(0.989, abs=0.01)
    assert found["c2st"].value == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(1000))
    assert abs(found["mmd"].value) < 0.01
    collapsed = final_metrics(Given(samples=problem.modes.means[:1] + 0.02 * torch.randn(2500, 2)), problem)
    assert collapsed["num_covered"].value == 1
    assert collapsed["c2st"].value > 0.8


def test_a_look_leaves_torchs_generator_as_it_was():
    problem, learner = begun("ppca", "elbo")
    learner.step()
    state = torch.get_rng_state()
    first, second = look(learner, problem), look(learner, problem)
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


def test_looks_lie_at_squares_and_a_budget_of_seconds_is_kept():
    taken = []
    course = train(Given(), Budget(400, None), lambda: taken.append(1) or {})
    assert [seen["step"] for seen in course.curve] == [part**2 for part in range(1, 21)]
    course = train(Given(), Budget(None, 0.01), dict)
    assert 0.01 <= course.seconds < 0.5
    assert course.curve[-1]["step"] == course.steps


def test_times_are_measured_only_where_nothing_runs_beside():
    task, method = REGISTRY.tasks["gamma-poisson"], REGISTRY.methods["elbo"]
    alone, beside = (cells_of.measure(REGISTRY, task, method, 0, Budget(4, None), flag) for flag in (False, True))
    assert alone.reference["method"] == "pyro-trace-elbo"
    assert alone.reference["blocks"] >= 5
    assert alone.reference["ratio"] > 0
    assert alone.seconds > 0
    assert alone.peak_memory_mb > 10
    assert beside.reference is None
    assert beside.seconds is None
    assert beside.metrics["seconds_per_step"].value is None
    assert "beside" in beside.metrics["seconds_per_step"].meaning
    assert all(seen["seconds"] is None for seen in beside.curve)
    assert (alone.protocol["parallel"], beside.protocol["parallel"]) == (False, True)
    assert alone.metrics["bound"] == beside.metrics["bound"]  # the same seed
    assert alone.metrics["steps_to_quality"].value is None
    assert "never reached and kept" in alone.metrics["steps_to_quality"].meaning
    json.dumps(alone.protocol)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process is counted with those before it")
def test_the_memory_of_a_cell_is_its_own_and_not_that_of_who_started_it(tmp_path):
    """A gigabyte in this process; the child has a few hundred megabytes, and most counts would say a gigabyte."""
    ballast = b"x" * 2**30
    options = ["--task", "ppca", "--method", "elbo", "--seed", "0", "--budget-steps", "3", "--runs", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "benchmarks.comparison.cell", *options], cwd=ROOT, check=True)
    assert 50 < read_cell(tmp_path / "ppca--elbo--0.json").peak_memory_mb < len(ballast) / 2**20


def test_steps_to_quality_are_those_of_the_look_after_which_all_are_good():
    task, method = REGISTRY.tasks["gamma-poisson"], REGISTRY.methods["elbo"]
    found = cells_of.measure(REGISTRY, task, method, 0, Budget(300, None), True)
    name, value, _ = task.build(0).quality
    bad = [seen["step"] for seen in found.curve if seen[name] < value]
    assert found.metrics["steps_to_quality"].value == min(
        seen["step"] for seen in found.curve if seen["step"] > bad[-1]
    )


def test_a_slower_learner_has_the_larger_ratio():
    """Four times the work, so that any machine tells them apart."""

    class Working(Given):
        def __init__(self, amount):
            super().__init__()
            self.amount = amount

        def step(self):
            sum(range(self.amount))

    found = against_reference(Working(40_000), Store(), Working(10_000), Store())
    assert found["ratio"] > 1.5


def test_learners_in_one_process_share_no_parameters():
    stores = Store(), Store()
    for store, value in zip(stores, (1.0, 2.0), strict=True):
        with store.open():
            pyro.param("a", torch.tensor(value))
    with stores[0].open():
        assert float(pyro.param("a").detach()) == 1.0
    assert "a" not in pyro.get_param_store()


def test_a_pair_that_does_not_fit_and_a_package_that_is_missing_are_refused():
    with refuses(ValueError, "rebar for ppca", "bits"):
        cells_of.measure(REGISTRY, REGISTRY.tasks["ppca"], REGISTRY.methods["rebar"], 0, Budget(1, None), True)

    class Needy(Method):
        name, title, requires = "needy", "", ("no_such_package",)

        def supports(self, problem):
            return None

        def start(self, problem, seed):
            raise AssertionError

    with refuses(ValueError, "no_such_package"):
        cells_of.measure(REGISTRY, REGISTRY.tasks["ppca"], Needy(), 0, Budget(1, None), True)


QUICK = [name for name in REGISTRY.tasks if not isinstance(REGISTRY.tasks[name], Images | Chorales)] + ["digits"]


@pytest.mark.parametrize("task", QUICK)
def test_no_mark_of_quality_is_passed_before_training(task):
    method = next(
        own for own in ("elbo", "rws", "gan") if REGISTRY.methods[own].supports(REGISTRY.tasks[task].build(0)) is None
    )
    problem, learner = begun(task, method)
    metric, value, better = problem.quality
    seen = look(learner, problem)[metric]
    assert seen < value if better == "higher" else seen > value


def test_who_never_shows_the_marked_metric_has_no_steps_to_it():
    cell = cells_of.measure(
        REGISTRY, REGISTRY.tasks["potential-1"], REGISTRY.methods["pyro-svgd"], 0, Budget(2, None), True
    )
    assert "mean_error" in cell.curve[-1]
    assert not {"steps_to_quality", "seconds_to_quality"} & set(cell.metrics)


def test_the_signal_of_a_gradient_at_its_optimum_is_noise_and_counts_as_none():
    """The exact guide of pPCA, 200 plain gradients: their mean is about a fourteenth of the noise, and no signal."""
    problem, _ = begun("ppca", "elbo")
    own = TrainedPrograms(None, problem, problem.model, exact_guide(problem), ELBO())
    assert final_metrics(own, problem)["snr"].value < 0.03


def test_a_gradient_without_noise_has_no_finite_signal_to_noise_and_says_why():
    problem, learner = begun("mixture", "enumerate")
    found = final_metrics(learner, problem)
    assert found["gradient_variance"].value == 0
    assert found["snr"].value == math.inf
    assert "infinite" in found["snr"].meaning


def test_bounded_weights_have_the_best_pareto_k():
    problem, _ = begun("ppca", "elbo")
    found = final_metrics(TrainedPrograms(None, problem, problem.model, exact_guide(problem)), problem)
    assert 0 <= found["pareto_k"].value < 0.5


def test_a_two_sample_test_is_of_equally_many_draws_for_all_and_below_chance_is_chance():
    problem, _ = begun("ring", "gan")
    fresh = datasets.ring(seed=5, num_train=2500).train.x
    values = [final_metrics(Given(samples=fresh), problem, seed)["c2st"].value for seed in (0, 1)]
    assert min(values) >= 0.5
    assert "c2st" not in final_metrics(Given(samples=fresh[: metrics.NUM_TESTED - 1]), problem)


def test_other_cells_are_evaluated_with_other_noise():
    problem, learner = begun("ppca", "elbo")
    assert look(learner, problem, 0)["bound"] != look(learner, problem, 1)["bound"]


def test_a_reference_that_fails_leaves_what_was_measured(monkeypatch):
    def fail(*args):
        raise ArithmeticError("no more steps")

    monkeypatch.setattr(cells_of, "against_reference", fail)
    cell = cells_of.measure(REGISTRY, REGISTRY.tasks["ppca"], REGISTRY.methods["elbo"], 0, Budget(2, None), False)
    assert cell.status == "done"
    assert cell.reference["ratio"] is None
    assert cell.reference["reason"] == "ArithmeticError: no more steps"


def test_a_cell_that_fails_on_its_way_keeps_what_it_showed_and_its_protocol(tmp_path):
    path = tmp_path / "diverges.py"
    path.write_text(DIVERGES)
    options = ["--task", "ppca", "--method", "diverges", "--seed", "0", "--budget-steps", "20"]
    cells_of.main([*options, "--runs", str(tmp_path), "--user", str(path), "--parallel"])
    cell = read_cell(tmp_path / "ppca--diverges--0.json")
    assert (cell.status, cell.reason) == ("failed", "ArithmeticError: it went off")
    assert [seen["step"] for seen in cell.curve] == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert cell.protocol["num_particles"] == 1000
    assert cell.protocol["data_sha256"]
    draft = read_cell(cells_of.draft_folder(tmp_path) / "ppca--diverges--0.json")
    assert (draft.status, draft.protocol["data_sha256"]) == ("killed", cell.protocol["data_sha256"])


DIVERGES = """
from benchmarks.comparison import Learner, Method


class Off(Learner):
    steps = 0

    def step(self):
        self.steps += 1
        if self.steps > 10:
            raise ArithmeticError("it went off")


class Diverges(Method):
    name, title = "diverges", "diverges"

    def supports(self, problem):
        return None

    def start(self, problem, seed):
        return Off()
"""
