"""The one module that knows which ArviZ is installed: 0.x holds groups in an InferenceData, 1.x in xarray's DataTree.

ArviZ 1.x needs Python 3.12, so the installed version follows from the interpreter.
"""

__all__ = ["InferenceData", "arviz_major", "import_arviz", "make_inference_data", "read_netcdf", "write_netcdf"]

import importlib
import importlib.metadata
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from pyro_dgm.files import replace_atomically

if TYPE_CHECKING:
    import xarray

InferenceData: TypeAlias = Any
"""`arviz.InferenceData` (0.x) or `xarray.DataTree` (1.x); both give a group as `data["posterior"]`."""

ENGINE = "h5netcdf"


def arviz_major() -> int:
    """The installed ArviZ's major version, found without importing it (which takes seconds)."""
    return int(importlib.metadata.version("arviz").split(".")[0])


def import_arviz() -> ModuleType:
    """ArviZ, without the notice of its refactoring that 0.23 gives once a day."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        return importlib.import_module("arviz")


def make_inference_data(groups: "Mapping[str, xarray.Dataset]") -> InferenceData:
    """What the installed ArviZ takes, from named groups such as `posterior` and `observed_data`.

    Arguments:
        groups: one dataset per group, whose dimensions `chain` and `draw` come first where it has draws.

    Returns:
        `arviz.InferenceData` with ArviZ 0.x, `xarray.DataTree` with 1.x. Empty datasets are left out.
    """
    import xarray

    for name, group in groups.items():
        if not isinstance(group, xarray.Dataset):
            raise TypeError(
                f"every group must be an xarray.Dataset; got {type(group).__name__} for {name!r}. "
                "Build one with xarray.Dataset({variable: (dimensions, array)})."
            )
    filled = {name: group for name, group in groups.items() if group}
    if arviz_major() == 0:
        return import_arviz().InferenceData(**filled)
    return xarray.DataTree.from_dict(filled)


def write_netcdf(data: InferenceData, path: str | os.PathLike[str]) -> Path:
    """Writes all groups to one netCDF file that is either complete or not there.

    Arguments:
        data: from `make_inference_data`.
        path: the file; what was there is replaced once the new file is complete.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as draft:
        data.to_netcdf(draft, engine=ENGINE)
    return path


def read_netcdf(path: str | os.PathLike[str]) -> InferenceData:
    """Reads all groups of a netCDF file into memory and closes it, so that it can be replaced or deleted.

    Arguments:
        path: a file written by `write_netcdf`, or by either ArviZ.

    Returns:
        As `make_inference_data`.
    """
    import xarray

    with xarray.open_datatree(path, engine=ENGINE) as tree:
        return make_inference_data({name: group.load().to_dataset() for name, group in tree.children.items()})
