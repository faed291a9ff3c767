"""Cell files are read back as they were written, and a damaged one is named."""

import json
import math

import pytest

from benchmarks.comparison.cells import Cell, Metric, cell_path, read_cell, read_cells, write_cell
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
    assert read_cells(tmp_path) == [a_cell()]
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


def test_a_cell_cut_short_is_named(tmp_path):
    path = write_cell(tmp_path, a_cell())
    path.write_text(path.read_text()[:200])
    with refuses(ValueError, str(path), "Delete it"):
        read_cells(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version 2"),
        ({"status": "finished"}, "'finished'"),
        ({"status": "failed"}, "reason None"),
        ({"seed": "3"}, "seed"),
        ({"method": "other"}, "ppca--other--3"),
        ({"budget": {"epochs": 3}}, "epochs"),
        ({"metrics": {"bound": {"value": 1.0}}}, "bound"),
        ({"curve": [{"seconds": 1.0}]}, "curve"),
    ],
)
def test_a_cell_that_is_not_as_it_should_be_is_named(tmp_path, change, said):
    path = write_cell(tmp_path, a_cell())
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with refuses(ValueError, str(path), said):
        read_cell(path)


def test_a_cell_without_a_field_is_named(tmp_path):
    path = write_cell(tmp_path, a_cell())
    content = json.loads(path.read_text())
    del content["curve"]
    path.write_text(json.dumps(content))
    with refuses(ValueError, str(path), "curve"):
        read_cell(path)


def test_a_name_that_would_part_the_file_name_is_refused_before_anything_is_written(tmp_path):
    with refuses(ValueError, "my--elbo"):
        write_cell(tmp_path, a_cell(method="my--elbo"))
    assert not list(tmp_path.iterdir())


def test_cells_are_read_from_a_folder_that_is_there(tmp_path):
    with refuses(ValueError, "nowhere"):
        read_cells(tmp_path / "nowhere")
