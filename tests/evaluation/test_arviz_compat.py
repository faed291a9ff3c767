"""Groups of datasets in and out of whichever ArviZ is installed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray

from pyro_dgm.evaluation._arviz_compat import arviz_major, import_arviz, make_inference_data, read_netcdf, write_netcdf


@pytest.fixture
def groups() -> dict[str, xarray.Dataset]:
    rng = np.random.default_rng(0)
    draws = ("chain", "draw", "data")
    return {
        "posterior": xarray.Dataset(
            {"z": ((*draws, "z_dim"), rng.normal(size=(1, 20, 3, 2)))},
            coords={"data": [4, 7, 9]},
            attrs={"num_particles": 20},
        ),
        "log_likelihood": xarray.Dataset({"x": (draws, rng.normal(size=(1, 20, 3)))}),
        "sample_stats": xarray.Dataset(
            {"log_weights": (draws, rng.normal(size=(1, 20, 3))), "pareto_k": ("data", [0.2, np.inf, -np.inf])}
        ),
        "observed_data": xarray.Dataset({"x": (("data", "x_dim"), rng.integers(0, 2, size=(3, 5)))}),
    }


def same(data: object, groups: dict[str, xarray.Dataset]) -> None:
    for name, group in groups.items():
        found = data[name]  # type: ignore[index]
        xarray.testing.assert_identical(found if isinstance(found, xarray.Dataset) else found.to_dataset(), group)


def test_groups_become_what_the_installed_arviz_takes(groups: dict[str, xarray.Dataset]) -> None:
    data = make_inference_data(groups)
    assert type(data) is (import_arviz().InferenceData if arviz_major() == 0 else xarray.DataTree)
    same(data, groups)
    summary = import_arviz().summary(data, var_names=["z"], kind="stats", round_to="none")
    np.testing.assert_allclose(summary["mean"], groups["posterior"]["z"].mean(("chain", "draw")).values.ravel())


def test_empty_groups_are_left_out(groups: dict[str, xarray.Dataset]) -> None:
    data = make_inference_data(groups | {"posterior_predictive": xarray.Dataset()})
    assert "posterior_predictive" not in data
    assert "posterior" in data


def test_a_file_gives_back_every_group(groups: dict[str, xarray.Dataset], tmp_path: Path) -> None:
    path = tmp_path / "posterior.nc"
    assert write_netcdf(make_inference_data(groups), path) == path
    data = read_netcdf(path)
    path.unlink()  # all is in memory by now
    assert type(data) is type(make_inference_data(groups))
    same(data, groups)


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(
    groups: dict[str, xarray.Dataset], tmp_path: Path
) -> None:
    path = tmp_path / "posterior.nc"
    write_netcdf(make_inference_data(groups), path)
    held = read_netcdf(path)
    write_netcdf(make_inference_data({"posterior": groups["posterior"]}), path)
    assert "log_likelihood" not in read_netcdf(path)
    same(held, groups)
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]


def test_a_failed_write_keeps_the_old_file(groups: dict[str, xarray.Dataset], tmp_path: Path) -> None:
    path = tmp_path / "posterior.nc"
    write_netcdf(make_inference_data(groups), path)
    unwritable = xarray.Dataset({"z": ("draw", np.array([object(), object()]))})
    with pytest.raises((TypeError, ValueError)):
        write_netcdf(make_inference_data({"log_likelihood": groups["log_likelihood"], "posterior": unwritable}), path)
    same(read_netcdf(path), groups)
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]


def test_what_is_not_a_dataset_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"xarray\.Dataset; got dict for 'posterior'"):
        make_inference_data({"posterior": {"z": 1}})  # type: ignore[dict-item]


def test_importing_the_module_imports_neither_arviz_nor_xarray() -> None:
    code = (
        "import sys, pyro_dgm.evaluation._arviz_compat as compat; compat.arviz_major(); "
        "sys.exit(bool({'arviz', 'xarray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
