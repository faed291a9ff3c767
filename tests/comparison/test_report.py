"""The report holds every number of every cell: CSV, Markdown, ranks, bands, and what happens to bad files."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import ttest_ind

from benchmarks.comparison import report
from benchmarks.comparison.bands import bands, broken
from benchmarks.comparison.html_page import page_content, page_text
from benchmarks.comparison.pictures import curves_picture, ranks_picture
from benchmarks.comparison.ranks import average_ranks, critical_difference
from benchmarks.comparison.reading import read_cells
from benchmarks.comparison.summaries import number_text, summarise, title_of
from benchmarks.comparison.tables import LEGEND, long_rows, protocol_rows, titles_of
from comparison.fixtures import NASTY, cell, metric, write, write_grid
from contracts import refuses


def bound(value, **changes):
    return {"bound": metric(value, 0.01, "nats per datum", "higher", "ELBO, a lower bound", **changes)}


def failed(task, method, seed, reason="ValueError: no"):
    return cell(task, method, seed, status="failed", reason=reason, metrics={}, seconds=None)


def inlined(results):
    """What the page holds."""
    page = (results / "all.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return write_grid(tmp_path_factory.mktemp("grid"))


@pytest.fixture(scope="module")
def written(grid, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    report.main(["--runs", str(grid), "--results", str(results), "--name", "all"])
    return results


@pytest.fixture
def small(tmp_path):
    """One task, three methods: a better by 2 than b, whose seed 2 failed; c failed from all seeds."""
    values = {"a": (-1.0, -1.2, -1.4), "b": (-3.0, -3.4)}
    cells = [cell("t", name, s, metrics=bound(v)) for name, found in values.items() for s, v in enumerate(found)]
    cells += [failed("t", "b", 2, "MemoryError: all | gone"), *(failed("t", "c", s) for s in range(3))]
    return write(tmp_path / "small", *cells)


def test_the_csv_has_a_line_for_each_metric_of_each_cell_and_one_for_a_cell_without(grid, written):
    rows = list(csv.DictReader(io.StringIO((written / "all.csv").read_text(encoding="utf-8"))))
    found = {(row["task"], row["method"], int(row["seed"]), row["metric"]): row for row in rows}
    assert len(found) == len(rows)
    for path in grid.iterdir():
        content = json.loads(path.read_text(encoding="utf-8"))
        names = [*content["metrics"], *(["time_ratio"] if content["reference"] else [])]
        names += ["peak_memory"] if content["peak_memory_mb"] is not None else []
        for name in names or [""]:
            row = found.pop((content["task"], content["method"], content["seed"], name))
            assert (row["status"], row["reason"], row["file"]) == (
                content["status"],
                content["reason"] or "",
                path.name,
            )
            assert row["method_title"] == content["title"]["method"]
            assert row["budget_steps"] == str(content["budget"]["steps"])
            for field, value in content["protocol"].items():
                expected = "" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)
                assert row[f"protocol_{field}"] == expected
            if name in content["metrics"]:
                for field, value in content["metrics"][name].items():
                    kept = row[field] or None
                    assert (float(kept) if isinstance(value, float | int) else kept) == (value if value != "" else None)
    assert not found


def test_the_mean_its_error_and_the_failures_stand_in_the_markdown_table(small, tmp_path):
    """The sd of -1.0, -1.2, -1.4 is 0.2, so the error is 0.2 / sqrt(3); that of -3.0, -3.4 is 0.2 sqrt(2) / sqrt(2)."""
    report.main(["--runs", str(small), "--results", str(tmp_path / "out")])
    text = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "## bound (nats per datum; higher is better)" in text
    assert "| the a | -1.20 ± 0.12 |" in text
    assert "| the b | -3.20 ± 0.20 (2 of 3 seeds) |" in text
    assert "| the c | failed: ValueError: no |" in text
    assert r"| the t | the b | 2 | failed | MemoryError: all \| gone |" in text
    assert "1 task by 3 methods, 9 cells: 5 done, 4 failed." in text


def test_best_is_whom_a_test_by_welch_does_not_tell_from_the_best(tmp_path):
    values = {
        "best": (1.0, 1.1, 0.9),
        "near": (0.9, 1.0, 0.7),
        "far": (0.1, 0.2, 0.0),
        "one": (2.0,),
        "lossy": (3.0, 3.1),
    }
    cells = [cell("t", name, s, metrics=bound(v)) for name, found in values.items() for s, v in enumerate(found)]
    (table,) = summarise(read_cells(write(tmp_path, *cells, failed("t", "lossy", 2))).cells)
    marked = {method for (_, method), entry in table.entries.items() if entry.is_best}
    assert marked == {"best", "near"}
    assert ttest_ind(values["best"], values["near"], equal_var=False).pvalue > 0.05
    assert ttest_ind(values["best"], values["far"], equal_var=False).pvalue < 0.05


def test_marks_need_three_seeds(tmp_path):
    """Two seeds that scatter widely are not told from the best, and say as little for it."""
    values = {"best": (1.0, 1.1), "worst": (-9.0, 5.0)}
    cells = [cell("t", name, s, metrics=bound(v)) for name, found in values.items() for s, v in enumerate(found)]
    (table,) = summarise(read_cells(write(tmp_path, *cells)).cells)
    assert not any(entry.is_best for entry in table.entries.values())
    assert "marks need three seeds" in LEGEND


def test_marks_end_at_the_first_that_is_told_from_the_best(tmp_path):
    """The noisy one is worst by its mean, but for its noise not told from the best."""
    values = {
        "best": (1.0, 1.1, 0.9),
        "near": (0.9, 1.0, 0.8),
        "told": (0.1, 0.11, 0.09),
        "noisy": (-9.0, 0.0, 6.0),
    }
    assert ttest_ind(values["best"], values["noisy"], equal_var=False).pvalue > 0.05
    cells = [cell("t", name, s, metrics=bound(v)) for name, found in values.items() for s, v in enumerate(found)]
    (table,) = summarise(read_cells(write(tmp_path, *cells)).cells)
    assert {method for (_, method), entry in table.entries.items() if entry.is_best} == {"best", "near"}


@pytest.mark.parametrize(("better", "expected"), [("higher", "c"), ("lower", "a"), ("zero", "b")])
def test_best_follows_the_direction(tmp_path, better, expected):
    values = {"a": -3.0, "b": 0.5, "c": 2.0}
    cells = [
        cell("t", name, seed, metrics={"e": metric(v + 0.01 * seed, None, "", better, "m")})
        for name, v in values.items()
        for seed in range(3)
    ]
    (table,) = summarise(read_cells(write(tmp_path, *cells)).cells)
    assert [method for (_, method), entry in table.entries.items() if entry.is_best] == [expected]


def test_equal_seeds_are_told_apart_without_a_test(tmp_path):
    cells = [cell("t", name, s, metrics=bound(v)) for name, v in (("a", 1.0), ("b", 0.9), ("c", 1.0)) for s in range(3)]
    (table,) = summarise(read_cells(write(tmp_path, *cells)).cells)
    assert {method for (_, method), entry in table.entries.items() if entry.is_best} == {"a", "c"}


def test_a_failure_stands_in_the_tables_of_its_task_but_not_where_the_method_has_no_such_metric(tmp_path):
    kl = {"kl": metric(0.1, None, "nats", "lower", "to the posterior")}
    cells = [
        cell("t", "a", 0, metrics=bound(-1.0) | kl),
        cell("u", "a", 0, metrics=bound(-1.0) | kl),
        cell("t", "b", 0, metrics=kl),
        failed("u", "b", 0),
        failed("t", "never", 0),
    ]
    tables = {table.metric: table for table in summarise(read_cells(write(tmp_path, *cells)).cells)}
    assert set(tables["bound"].entries) == {("t", "a"), ("u", "a"), ("t", "never")}
    assert set(tables["kl"].entries) == {("t", "a"), ("u", "a"), ("t", "b"), ("u", "b"), ("t", "never")}


def test_numbers_that_are_null_are_lost_with_the_reason(tmp_path):
    found = bound(None) | {"steps_to_quality": metric(None, None, "steps", "lower", "to -1 nats, of 2000 steps")}
    reading = read_cells(
        write(tmp_path / "runs", cell("t", "a", 0, metrics=found), cell("t", "a", 1, metrics=bound(-1.0)))
    )
    reasons = {
        table.metric: [lost.reason for lost in table.entries["t", "a"].lost] for table in summarise(reading.cells)
    }
    assert reasons == {"bound": ["no finite number"], "steps_to_quality": ["not reached", "not measured"]}
    report.write_report(reading, tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "| the t | the a | 0 | done | steps to the stated quality: not reached (to -1 nats, of 2000 steps) |" in text


def test_times_of_cells_that_ran_beside_others_are_in_the_csv_and_in_no_table(tmp_path):
    protocol = {"data": "t", "parallel": True}
    found = {"seconds_per_step": metric(0.1, None, "s", "lower", "m")}
    curve = [{"step": 1, "seconds": 0.1, "bound": -1.0}]
    reading = read_cells(write(tmp_path, cell("t", "a", 0, metrics=found, protocol=protocol, curve=curve)))
    (table,) = summarise(reading.cells)
    assert [lost.status for lost in table.entries["t", "a"].lost] == ["parallel"]
    assert long_rows(reading.cells)[0]["value"] == 0.1
    assert [band.axis for band in bands(reading.cells)] == ["step"]


def test_the_protocol_says_the_budget_of_every_task(grid, written):
    assert "| budget | 2000 steps; sbn-small: 4000 steps |" in (written / "all.md").read_text(encoding="utf-8")
    assert ["budget", "2000 steps; sbn-small: 4000 steps"] in inlined(written)["protocol"]
    cells = [cell(task, "a", 0, budget={"seconds": 1.5}) for task in "tu"]
    cells += [cell(task, "a", 0, budget={"steps": steps}) for task, steps in (("v", 2000), ("w", 20000), ("x", 2000.0))]
    found = read_cells(write(grid.parent / "budgets", *cells)).cells
    assert protocol_rows(found)[0] == ("budget", "1.5 seconds; v, x: 2000 steps; w: 20000 steps")


@pytest.mark.parametrize("other", [{"steps": 2001}, {"seconds": 2000}])
def test_the_cells_of_a_task_have_one_budget(tmp_path, other):
    cells = [cell("t", "a", 0), cell("u", "a", 0, budget=other), cell("t", "b", 0, budget=other)]
    reading = read_cells(write(tmp_path / "runs", *cells))
    text = " ".join(f"{number} {name}" for name, number in other.items())
    with refuses(
        ValueError, "one budget", "2000 steps in t--a--0.json", f"{text} in t--b--0.json", "folder of its own"
    ):
        report.write_report(reading, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_metric_in_two_units_is_two_tables(tmp_path):
    other = {"bound": metric(-90.0, None, "nats per sequence", "higher", "m")}
    tables = summarise(read_cells(write(tmp_path, cell("t", "a", 0), cell("u", "a", 0, metrics=other))).cells)
    assert {table.unit: table.tasks for table in tables} == {"nats per datum": ["t"], "nats per sequence": ["u"]}


def test_units_stay_apart_in_headings_ranks_curves_and_pictures(tmp_path):
    def curve(value):
        return [{"step": step, "seconds": step / 10, "bound": value - 1 / step} for step in (1, 2, 3)]

    units = dict.fromkeys("tu", "nats") | dict.fromkeys("vw", "nats per datum")
    cells = [
        cell(task, f"m{k}", 0, metrics={"bound": metric(-k, None, unit, "higher", "m")}, curve=curve(-k))
        for task, unit in units.items()
        for k in range(3)
    ]
    cells.append(failed("x", "m0", 0) | {"curve": curve(0)})
    reading = read_cells(write(tmp_path / "runs", *cells))
    tables = summarise(reading.cells)
    ranks = [found for found in map(average_ranks, tables) if found is not None]
    content = page_content(reading, tables, ranks)
    curves = {one["unit"]: [content["tasks"][k]["name"] for k in one["tasks"]] for one in content["curves"]}
    assert curves == {"nats": ["t", "u"], "nats per datum": ["v", "w"], "": ["x"]}
    report.write_report(reading, tmp_path)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    for unit in ("nats", "nats per datum"):
        assert text.count(f"# bound ({unit}; higher is better)\n") == 2  # of the table and of the ranks
    lines = (bands(reading.cells), broken(reading.cells), titles_of(reading.cells))
    mixed = curves_picture(*lines, units, "bound", "step")
    assert [panel.get_ylabel() for panel in mixed.axes[:5]] == ["nats", "nats", "nats per datum", "nats per datum", ""]
    alike = curves_picture(*lines, dict.fromkeys("tuvwx", "nats"), "bound", "step")
    assert alike.get_supylabel() == "bound (nats)"
    assert "(nats)" in ranks_picture(ranks[0], titles_of(reading.cells)).axes[0].get_title()


def test_directions_stay_apart_in_the_headings_of_ranks(tmp_path):
    cells = [
        cell(task, f"m{k}", 0, metrics={"log_evidence": metric(k, None, "nats", better, "m")})
        for task, better in (("t", "higher"), ("u", "higher"), ("v", "zero"), ("w", "zero"))
        for k in range(3)
    ]
    report.write_report(read_cells(write(tmp_path / "runs", *cells)), tmp_path)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "### log p(x) (nats; higher is better)" in text
    assert "### log p(x) (nats; nearer to zero is better)" in text


def test_titles_with_commas_are_told_apart_in_meanings(tmp_path):
    title = {"task": "t", "method": "IWAE, K = 5"}
    cells = [cell("t", "a", 0, metrics=bound(-1.0)), cell("t", "b", 0, title=title)]
    cells += [cell("t", "c", 0, metrics={"bound": metric(-1.0, 0.01, "nats per datum", "higher", "another bound")})]
    report.write_report(read_cells(write(tmp_path / "runs", *cells)), tmp_path)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "- ELBO, a lower bound: the a; IWAE, K = 5." in text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-2.90417, 0.0123, "-2.904 ± 0.012"),
        (123.4, 12.3, "123 ± 12"),
        (0.5, 0.0, "0.5 ± 0"),
        (1 / 3, None, "0.3333"),
        (2000.0, None, "2000"),
        (1.5e9, None, "1.5e+09"),
        (3e-7, 1e-8, "3e-07 ± 1e-08"),
    ],
)
def test_numbers_have_the_digits_of_their_error(value, error, text):
    assert number_text(value, error) == text


def test_the_critical_difference_is_that_of_the_table_by_demsar():
    """Demšar (2006), Table 5: q at 5 % is 1.960, 2.343, 2.569, 3.164 for 2, 3, 4, 10 methods."""
    for k, q in ((2, 1.960), (3, 2.343), (4, 2.569), (10, 3.164)):
        assert critical_difference(k, 14) == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * 14)), rel=1e-3)
    with refuses(ValueError, "at least 2 methods", "1 methods"):
        critical_difference(1, 14)


def test_ranks_are_of_medians_over_seeds_with_ties_shared_and_failures_last(tmp_path):
    """On t and v: a = b tie for 1.5, c 3, d failed 4; on the others: a 1, b 2, d 3, the median of 5, 5, failed, c 4."""
    tied = {"a": (9.0, 9.0, 1.0), "b": (9.0, 9.0, 8.0), "c": (7.0, 7.0, 99.0)}
    apart = {"a": (9.0,) * 3, "b": (8.0,) * 3, "c": (4.0,) * 3, "d": (5.0, 5.0)}
    values = {task: tied if task in "tv" else apart for task in "tuvwx"}
    cells = [
        cell(task, method, seed, metrics=bound(value))
        for task, methods in values.items()
        for method, found in methods.items()
        for seed, value in enumerate(found)
    ]
    cells += [failed(task, "d", 2) for task in "uwx"] + [failed(task, "d", seed) for task in "tv" for seed in range(3)]
    (table,) = summarise(read_cells(write(tmp_path, *cells)).cells)
    ranks = average_ranks(table)
    assert ranks is not None
    assert dict(zip(ranks.methods, np.array(ranks.ranks).T.tolist(), strict=True)) == {
        "a": [1.5, 1.0, 1.5, 1.0, 1.0],
        "b": [1.5, 2.0, 1.5, 2.0, 2.0],
        "c": [3.0, 4.0, 3.0, 4.0, 4.0],
        "d": [4.0, 3.0, 4.0, 3.0, 3.0],
    }
    assert dict(zip(ranks.methods, ranks.average, strict=True)) == {"a": 1.2, "b": 1.8, "c": 3.6, "d": 3.4}
    n, k = 5, 4  # Friedman's statistic by hand, corrected for two ties of two: 1 - 2 (8 - 2) / (N k (k^2 - 1))
    statistic = 12 * n / (k * (k + 1)) * (sum(r * r for r in ranks.average) - k * (k + 1) ** 2 / 4)
    statistic /= 1 - 12 / (n * k * (k * k - 1))
    survival = math.erfc(math.sqrt(statistic / 2)) + math.sqrt(2 * statistic / math.pi) * math.exp(-statistic / 2)
    assert ranks.p_value == pytest.approx(survival)  # chi-squared with three degrees of freedom
    assert ranks.cliques == [(0, 1), (1, 3)]
    assert ranks.critical_difference == pytest.approx(2.569 * math.sqrt(20 / 30), rel=1e-3)
    assert "rejects that all are alike" in ranks.sentence(titles_of(read_cells(tmp_path).cells))


@pytest.mark.parametrize(("num_tasks", "is_tested"), [(4, False), (5, True)])
def test_fewer_than_five_tasks_are_too_few_for_a_test(tmp_path, num_tasks, is_tested):
    cells = [cell(f"t{k}", name, 0, metrics=bound(v)) for k in range(num_tasks) for v, name in enumerate("abc")]
    reading = read_cells(write(tmp_path, *cells))
    ranks = average_ranks(*summarise(reading.cells))
    assert ranks is not None
    assert (ranks.p_value is not None) == is_tested
    sentence = ranks.sentence(titles_of(reading.cells))
    assert ("too few tasks for a test" in sentence) != is_tested
    assert ("Friedman" in sentence) == is_tested


@pytest.mark.parametrize("name", ["gradient_variance", "snr", "high_quality"])
def test_what_only_describes_is_neither_marked_nor_ranked(tmp_path, name):
    cells = [
        cell(task, f"m{k}", seed, metrics={name: metric(k + 0.1 * seed, None, "u", "higher", "m")})
        for task in "tuvwx"
        for k in range(3)
        for seed in range(3)
    ]
    reading = read_cells(write(tmp_path / "runs", *cells))
    (table,) = summarise(reading.cells)
    assert not any(entry.is_best for entry in table.entries.values())
    assert average_ranks(table) is None
    report.write_report(reading, tmp_path)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "(u; not ranked)\n" in text
    assert "higher is better" not in text
    assert "No metric has two tasks by three methods in common." in text
    content = page_content(reading, [table], [])
    assert content["ranked"] == []
    assert {content["tables"][0]["direction"], content["kinds"][0]["direction"]} == {"not ranked"}


def test_a_timing_that_failed_is_listed_with_its_reason_and_not_ranked_worst(tmp_path):
    def timed(ratio):
        why = {"blocks": None, "reason": "MemoryError: beside pyro"} if ratio is None else {"blocks": 15}
        return {"method": "pyro", "ratio": ratio, **why}

    ratios = {"a": 1.0, "b": 2.0, "c": 3.0, "d": None}
    cells = [cell(task, name, 0, reference=timed(ratio)) for task in "tu" for name, ratio in ratios.items()]
    reading = read_cells(write(tmp_path / "runs", *cells))
    table = next(table for table in summarise(reading.cells) if table.metric == "time_ratio")
    ranks = average_ranks(table)
    assert ranks is not None
    assert ranks.left_out == [("method", "d")]
    report.write_report(reading, tmp_path)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| the t | the d | 0 | done | time per step, ratio: not timed (MemoryError: beside pyro) |" in text


def test_the_two_effective_sample_sizes_stand_beside_each_other_by_titles_of_their_own(tmp_path):
    share = metric(0.5, None, "share", "higher", "m")
    found = bound(-1.0) | {"a_new_one": share, "chain_ess": share, "pareto_k": share, "ess": share}
    tables = summarise(read_cells(write(tmp_path, cell("t", "a", 0, metrics=found))).cells)
    assert [title_of(table.metric) for table in tables] == [
        "bound",
        "effective sample size of importance weights",
        "effective sample size of the chain",
        "Pareto k",
        "a new one",
    ]


def test_what_never_shows_the_metric_is_not_measured_rather_than_lost(tmp_path):
    reached = {"steps_to_quality": metric(100.0, None, "steps", "lower", "to -1 nats")}
    never = {"steps_to_quality": metric(None, None, "steps", "lower", "to -1 nats")}
    cells = [cell(task, name, 0, metrics=bound(-1.0) | reached) for task in "tu" for name in "abc"]
    cells += [cell(task, "late", 0, metrics=bound(-2.0) | never) for task in "tu"]
    sampler = {"mean_error": metric(0.1, None, "true sd", "lower", "m")}
    cells += [cell("t", "sampler", 0, metrics=sampler), cell("u", "sampler", 0, metrics=sampler)]
    cells += [failed("u", "sampler", 1)]
    reading = read_cells(write(tmp_path / "runs", *cells))
    table = next(table for table in summarise(reading.cells) if table.metric == "steps_to_quality")
    assert {method for _, method in table.entries} == {"a", "b", "c", "late"}
    ranks = average_ranks(table)
    assert ranks is not None
    assert ranks.methods == ["a", "b", "c", "late"]
    report.write_report(reading, tmp_path)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert text.count("steps to the stated quality: not reached") == 2
    assert "not measured" not in text.split("## Failures")[1]


def test_what_is_not_measured_everywhere_is_left_out_of_the_ranks_by_name(grid):
    cells = read_cells(grid).cells
    table = next(table for table in summarise(cells) if table.metric == "bound")
    ranks = average_ranks(table)
    assert ranks is not None
    assert ranks.left_out == [("method", "mine"), ("method", "stl")]
    assert len(ranks.tasks) == 5
    assert "ELBO, sticking the landing" in ranks.sentence(titles_of(cells))


def test_bands_are_the_median_and_range_over_seeds_where_all_were_looked_at(tmp_path):
    """Seconds of 1, 2, 3 and 2, 4, 6 share 2 to 3; at 3 the slower is halfway between its looks at 2 and 4."""
    curves = [
        [{"step": k, "seconds": k * pace, "bound": value} for k, value in enumerate(values, 1)]
        for pace, values in ((1.0, (0.0, 1.0, 2.0)), (2.0, (4.0, 6.0, 9.0)))
    ]
    curves[1].append({"step": 4, "seconds": 8.0, "bound": None})
    cells = [cell("t", "a", seed, curve=curve) for seed, curve in enumerate(curves)]
    ended = failed("t", "a", 2) | {"curve": [{"step": 1, "seconds": 1.0, "bound": -5.0}]}
    cells = read_cells(write(tmp_path, *cells, ended)).cells
    steps, seconds = bands(cells)
    assert (steps.x, steps.low, steps.median, steps.high) == ([1, 2, 3], [0, 1, 2], [2, 3.5, 5.5], [4, 6, 9])
    assert (seconds.x, seconds.low, seconds.high) == ([2, 3], [1, 2], [4, 5])
    assert steps.num_seeds == 2
    assert [(line.axis, line.x, line.y) for line in broken(cells)] == [("step", [1], [-5]), ("seconds", [1], [-5])]


def test_a_picture_of_no_curve_is_refused(grid):
    cells = read_cells(grid).cells
    with refuses(ValueError, "at least one curve", "'ess'"):
        curves_picture(bands(cells), broken(cells), titles_of(cells), {}, "ess", "step")


def test_a_failed_cell_leaves_a_broken_curve_and_no_number_and_a_killed_one_leaves_none(grid):
    cells = read_cells(grid).cells
    ended = [cell for cell in cells if cell.curve and cell.status != "done"]
    assert [(cell.task, cell.method, cell.seed) for cell in ended] == [("eight-schools", "pyro-renyi", 1)]
    assert ended[0].protocol
    assert ended[0].metrics["bound"].value is not None
    assert [(line.task, line.method, line.seed, len(line.x)) for line in broken(cells) if line.metric == "bound"] == [
        ("eight-schools", "pyro-renyi", 1, 9)
    ] * 2
    entry = next(table for table in summarise(cells) if table.metric == "bound").entries["eight-schools", "pyro-renyi"]
    assert len(entry.values) == 2
    assert [(lost.seed, lost.status) for lost in entry.lost] == [(1, "failed")]
    killed = [cell for cell in cells if cell.status == "killed"]
    assert [(bool(cell.protocol), cell.curve) for cell in killed] == [(True, [])]


def test_a_picture_of_many_tasks_and_methods_holds_all_and_nothing_overlaps(tmp_path):
    cells = [
        cell(
            f"t{task:02}",
            f"m{k:02}",
            0,
            title={"task": f"task {task} of a name in several words", "method": f"method {k}, K = 5, reparameterised"},
            curve=[{"step": step, "bound": k - 10 / step} for step in (1, 10, 100)],
        )
        for task in range(15)
        for k in range(25)
    ]
    cells = read_cells(write(tmp_path, *cells)).cells
    figure = curves_picture(bands(cells), broken(cells), titles_of(cells), {}, "bound", "step")
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 25
    boxes = [text.get_window_extent() for text in legend.get_texts()]
    boxes += [panel.title.get_window_extent() for panel in figure.axes]
    boxes += [panel.get_window_extent() for panel in figure.axes]
    assert len({panel.get_window_extent().x0 for panel in figure.axes}) == 3
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= figure.bbox.y0 for box in boxes)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_a_failed_curve_is_pictured_whole_when_it_is_alone(tmp_path):
    curve = [{"step": 1, "seconds": 1.0, "bound": -50.0}, {"step": 2, "seconds": 2.0, "bound": -40.0}]
    cells = read_cells(write(tmp_path, failed("t", "a", 0) | {"curve": curve})).cells
    figure = curves_picture(bands(cells), broken(cells), titles_of(cells), {}, "bound", "step")
    low, high = figure.axes[0].get_ylim()
    assert low < -50.0
    assert high > -40.0


def test_the_report_is_whole(written):
    assert sorted(path.name for path in written.iterdir()) == [
        "all-ranks.png",
        "all-seconds.png",
        "all-steps.png",
        "all.csv",
        "all.html",
        "all.md",
    ]
    assert all(path.stat().st_size > 5000 for path in written.iterdir())


def test_the_page_holds_everything_and_asks_for_nothing(grid, written):
    page = (written / "all.html").read_text(encoding="utf-8")
    content = inlined(written)
    assert page.count("<script") == page.count("</script>") == 2
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//)|@import|url\((?!#)""", page)
    assert NASTY not in page
    assert NASTY in {one["reason"] for one in content["cells"]}
    assert len(content["cells"]) == len(list(grid.iterdir()))


def test_text_that_looks_like_a_place_of_the_template_stays_text(tmp_path):
    reading = read_cells(write(tmp_path, cell("t", "a", 0, title={"task": "{{style}}", "method": "\u2028 {{x}}"})))
    page = page_text(page_content(reading, summarise(reading.cells), []))
    assert '"title":"{{style}}"' in page
    assert "\\u2028 {{x}}" in page


BAD = {
    "half.json": ("{", "not JSON"),
    "list.json": ("[]", "not an object"),
    "old.json": (json.dumps(cell("t", "b", 0) | {"version": 7}), "version 7"),
    "status.json": (json.dumps(cell("t", "b", 0) | {"status": "fine"}), "'fine'"),
    "mute.json": (json.dumps(cell("t", "b", 0) | {"status": "failed"}), "without a reason"),
    "seed.json": (json.dumps(cell("t", "b", 0) | {"seed": True}), "'seed'"),
    "value.json": (json.dumps(cell("t", "b", 0, metrics=bound("high"))), "'bound'"),
    "short.json": (json.dumps({"version": 1}), "no 'task'"),
    "twice.json": (json.dumps(cell("t", "a", 0)), "t--a--0.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_holds_no_cell_is_named_with_the_reason_and_nothing_else_is_lost(tmp_path, capsys, name):
    folder = write(tmp_path / "runs", cell("t", "a", 0))
    (folder / name).write_text(BAD[name][0])
    report.main(["--runs", str(folder), "--results", str(tmp_path / "out")])
    assert f"not read: {name}: " in capsys.readouterr().err
    (unread,) = read_cells(folder).unread
    assert unread.file == name
    assert BAD[name][1] in unread.reason
    assert name in (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8").replace("\\", "")
    assert name in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "| the t | -3 (1 seed) |" in (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")


def test_a_file_that_is_not_text_is_named(tmp_path):
    folder = write(tmp_path, cell("t", "a", 0))
    (folder / "x.json").write_bytes(b"\xff\xfe\x00")
    assert read_cells(folder).unread == [("x.json", "not UTF-8")]


def test_a_folder_without_cells_is_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "runs").mkdir()
    with refuses(ValueError, "at least one cell", "no *.json", "--runs"):
        read_cells(tmp_path / "runs")
    (tmp_path / "runs" / "half.json").write_text("{")
    with refuses(ValueError, "at least one cell", "half.json: not JSON"):
        read_cells(tmp_path / "runs")
    with refuses(ValueError, "in a folder", "nowhere"):
        read_cells(tmp_path / "nowhere")
    with pytest.raises(SystemExit, match=r"report: .*; got .*half\.json.*Make cells"):
        report.main(["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", "x y"])
def test_a_name_that_is_no_file_is_refused(tmp_path, name):
    reading = read_cells(write(tmp_path / "runs", cell("t", "a", 0)))
    with refuses(ValueError, "--name is letters", repr(name)):
        report.write_report(reading, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()
