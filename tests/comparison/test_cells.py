"""Cell files are read back as they were written, and a damaged one is named."""

import dataclasses
import json
import math

import pytest

from benchmarks.comparison.cells import Cell, DamagedCell, Metric, cell_path, read_cell, write_cell
from benchmarks.comparison.reading import read_cells
from contracts import refuses


def a_cell(**changes):
    """A cell with every field filled."""
    content = {
        "task": "ppca",
        "method": "my-elbo",
        "seed": 3,
        "title": {"task": "A", "method": "B"},
        "family": {"task": "exact", "method": "user"},
        "status": "done",
        "budget": {"steps": 10},
        "protocol": {"data": "ppca", "parallel": False},
        "curve": [{"step": 5, "seconds": 0.1, "bound": -2.0}, {"step": 10, "seconds": 0.2, "bound": -1.5}],
        "metrics": {"bound": Metric(-1.5, "nats per datum", "higher", "ELBO", 0.1)},
        "seconds": 0.2,
        "reference": {"method": "other", "ratio": 1.5, "blocks": 15},
        "peak_memory_mb": 300.0,
    }
    return Cell(**{**content, **changes})


def test_a_cell_is_read_as_it_was_written(tmp_path):
    path = write_cell(tmp_path, a_cell())
    assert path == cell_path(tmp_path, "ppca", "my-elbo", 3)
    assert path.name == "ppca--my-elbo--3.json"
    assert read_cell(path) == a_cell()
    assert read_cells(tmp_path) == ([a_cell()], [])
    assert not list(tmp_path.glob("*.tmp"))


def test_what_is_not_finite_becomes_null(tmp_path):
    cell = a_cell(
        metrics={"bound": Metric(math.nan, "nats", "higher", "ELBO", math.inf)},
        curve=[{"step": 1, "seconds": None, "bound": -math.inf}],
    )
    found = read_cell(write_cell(tmp_path, cell))
    assert found.metrics["bound"].value is None
    assert found.metrics["bound"].standard_error is None
    assert found.curve == [{"step": 1, "seconds": None, "bound": None}]


def test_what_is_not_finite_in_a_file_is_refused(tmp_path):
    path = write_cell(tmp_path, a_cell())
    path.write_text(path.read_text().replace('"seconds": 0.2', '"seconds": NaN'))
    with refuses(ValueError, str(path), "'seconds': nan is not a finite number"):
        read_cell(path)


def test_a_cell_cut_short_is_named(tmp_path):
    path = write_cell(tmp_path, a_cell())
    path.write_text(path.read_text()[:200])
    with refuses(DamagedCell, str(path), "not JSON", "Delete it"):
        read_cell(path)


A_METRIC = {"value": 1.0, "standard_error": None, "unit": "", "better": "higher", "meaning": "m"}
A_REFERENCE = {"method": "other", "ratio": 1.5, "blocks": 15}
MALFORMED = [
    ({"version": 2}, "version 2, where 1 is read"),
    ({"task": 3}, "'task': 3 is not a text"),
    ({"task": "A b"}, "'task': 'A b' is not a name"),
    ({"method": ""}, "'method': '' is not a name"),
    ({"method": "other"}, "ppca--other--3"),
    ({"seed": "3"}, "'seed': '3' is not an integer"),
    ({"seed": True}, "'seed': True is not an integer"),
    ({"title": "A"}, "'title': 'A' is not an object"),
    ({"title": {"task": "A"}}, "'title': no 'method'"),
    ({"title": {"task": "A", "method": " "}}, "'title': 'method': an empty text"),
    ({"family": {"task": 1, "method": "B"}}, "'family': 'task': 1 is not a text"),
    ({"status": "finished"}, "'status': 'finished' is not one of done"),
    ({"status": "failed"}, "'failed' without a reason"),
    ({"status": "failed", "reason": ""}, "'reason': an empty text"),
    ({"reason": "why"}, "'done' with a reason"),
    ({"reason": 3}, "'reason': 3 is not a text"),
    ({"budget": 10}, "'budget': 10 is not an object"),
    ({"budget": {}}, "'budget': {} is not one of steps, seconds"),
    ({"budget": {"epochs": 3}}, "'budget': {'epochs': 3} is not one"),
    ({"budget": {"steps": 3, "seconds": 3}}, "'budget': {'seconds': 3, 'steps': 3} is not one"),
    ({"budget": {"steps": None}}, "'budget': 'steps': None is not a finite number"),
    ({"protocol": []}, "'protocol': [] is not an object"),
    ({"curve": {}}, "'curve': {} is not a list"),
    ({"curve": [3]}, "'curve': 3 is not an object"),
    ({"curve": [{"seconds": 1.0}]}, "'curve': no 'step'"),
    ({"curve": [{"step": None}]}, "'curve': 'step': None is not a finite number"),
    ({"curve": [{"step": 1, "bound": "high"}]}, "'curve': 'bound': 'high' is not a finite number"),
    ({"metrics": [1]}, "'metrics': [1] is not an object"),
    ({"metrics": {"bound": 1.0}}, "'metrics': 'bound': 1.0 is not an object"),
    *(
        ({"metrics": {"bound": {key: own for key, own in A_METRIC.items() if key != name}}}, f"'bound': no '{name}'")
        for name in A_METRIC
    ),
    ({"metrics": {"bound": A_METRIC | {"value": "high"}}}, "'bound': 'value': 'high' is not a finite number"),
    ({"metrics": {"bound": A_METRIC | {"standard_error": True}}}, "'standard_error': True is not a finite number"),
    ({"metrics": {"bound": A_METRIC | {"unit": None}}}, "'unit': None is not a text"),
    ({"metrics": {"bound": A_METRIC | {"better": "up"}}}, "'better': 'up' is not one of higher, lower, zero"),
    ({"metrics": {"bound": A_METRIC | {"meaning": 3}}}, "'meaning': 3 is not a text"),
    ({"seconds": "1"}, "'seconds': '1' is not a finite number"),
    ({"reference": 1.5}, "'reference': 1.5 is not an object"),
    ({"reference": A_REFERENCE | {"method": ""}}, "'reference': 'method': an empty text"),
    ({"reference": A_REFERENCE | {"ratio": "1"}}, "'reference': 'ratio': '1' is not a finite number"),
    ({"reference": A_REFERENCE | {"blocks": 1.5}}, "'reference': 'blocks': 1.5 is not an integer"),
    ({"peak_memory_mb": 10**400}, "'peak_memory_mb': 1000"),
]


@pytest.mark.parametrize(("change", "said"), MALFORMED)
def test_a_cell_that_is_not_as_it_should_be_is_named_and_not_written(tmp_path, change, said):
    path = write_cell(tmp_path, a_cell())
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with refuses(DamagedCell, str(path), said):
        read_cell(path)
    write_cell(tmp_path, a_cell(seed=4))
    (unread,) = read_cells(tmp_path).unread
    assert unread.file == path.name
    assert said in unread.reason
    if change.keys() & {"version", "method"}:  # a cell has no version of its own; another name is right in its file
        return
    with refuses(DamagedCell, str(tmp_path / "new"), said):
        write_cell(tmp_path / "new", a_cell(**change))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["version", *(field.name for field in dataclasses.fields(Cell))])
def test_a_cell_without_a_field_is_named(tmp_path, name):
    path = write_cell(tmp_path, a_cell())
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))
    with refuses(ValueError, str(path), "version None" if name == "version" else f"no '{name}'"):
        read_cell(path)


def test_a_name_that_would_part_the_file_name_is_refused_before_anything_is_written(tmp_path):
    with refuses(ValueError, "my--elbo"):
        write_cell(tmp_path, a_cell(method="my--elbo"))
    assert not list(tmp_path.iterdir())


def test_cells_are_read_from_a_folder_that_is_there(tmp_path):
    with refuses(ValueError, "nowhere"):
        read_cells(tmp_path / "nowhere")
