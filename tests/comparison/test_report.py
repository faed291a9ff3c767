"""The report holds every number of every cell: CSV, Markdown, ranks, bands, and what happens to bad files."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from scipy.stats import ttest_ind

from benchmarks.comparison import report
from benchmarks.comparison.bands import bands, broken
from benchmarks.comparison.html_page import page_content, page_text
from benchmarks.comparison.pictures import curves_picture
from benchmarks.comparison.ranks import average_ranks, critical_difference
from benchmarks.comparison.reading import read_cells
from benchmarks.comparison.summaries import number_text, summarise
from benchmarks.comparison.tables import long_rows, protocol_rows, titles_of
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
    cells = [cell("t", name, s, metrics=bound(v)) for name, v in (("a", 1.0), ("b", 0.9), ("c", 1.0)) for s in (0, 1)]
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
    """On t: a = b tie for 1.5, c 3, d failed 4; on u: a 1, b 2, d 3 by the median of (5, 5, failed), c 4."""
    values = {
        "t": {"a": (9.0, 9.0, 1.0), "b": (9.0, 9.0, 8.0), "c": (7.0, 7.0, 99.0)},
        "u": {"a": (9.0,) * 3, "b": (8.0,) * 3, "c": (4.0,) * 3, "d": (5.0, 5.0)},
    }
    cells = [
        cell(task, method, seed, metrics=bound(value))
        for task, methods in values.items()
        for method, found in methods.items()
        for seed, value in enumerate(found)
    ]
    cells += [failed("u", "d", 2), *(failed("t", "d", seed) for seed in range(3))]
    (table,) = summarise(read_cells(write(tmp_path, *cells)).cells)
    ranks = average_ranks(table)
    assert ranks is not None
    assert dict(zip(ranks.methods, np.array(ranks.ranks).T.tolist(), strict=True)) == {
        "a": [1.5, 1.0],
        "b": [1.5, 2.0],
        "c": [3.0, 4.0],
        "d": [4.0, 3.0],
    }
    assert dict(zip(ranks.methods, ranks.average, strict=True)) == {"a": 1.25, "b": 1.75, "c": 3.5, "d": 3.5}
    n, k = 2, 4  # Friedman's statistic by hand, corrected for the one tie of two: 1 - (8 - 2) / (N k (k^2 - 1))
    statistic = 12 * n / (k * (k + 1)) * (sum(r * r for r in ranks.average) - k * (k + 1) ** 2 / 4)
    statistic /= 1 - 6 / (n * k * (k * k - 1))
    survival = math.erfc(math.sqrt(statistic / 2)) + math.sqrt(2 * statistic / math.pi) * math.exp(-statistic / 2)
    assert ranks.p_value == pytest.approx(survival)  # chi-squared with three degrees of freedom
    assert ranks.cliques == [(0, 3)]
    assert ranks.critical_difference == pytest.approx(2.569 * math.sqrt(20 / 12), rel=1e-3)
    assert "no order is claimed" in ranks.sentence(titles_of(read_cells(tmp_path).cells))


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
        curves_picture(bands(cells), broken(cells), titles_of(cells), "ess", "step")


def test_a_failed_curve_is_pictured_whole_when_it_is_alone(tmp_path):
    curve = [{"step": 1, "seconds": 1.0, "bound": -50.0}, {"step": 2, "seconds": 2.0, "bound": -40.0}]
    cells = read_cells(write(tmp_path, failed("t", "a", 0) | {"curve": curve})).cells
    figure = curves_picture(bands(cells), broken(cells), titles_of(cells), "bound", "step")
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
