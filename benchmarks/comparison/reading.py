"""Reads the cells of a comparison from their folder; what cannot be read is listed."""

__all__ = ["Reading", "Unread", "read_cells"]

from pathlib import Path
from typing import NamedTuple

from benchmarks.comparison.cells import Cell, DamagedCell, read_cell

CURE = "Make cells by python -m benchmarks run, and name their folder by --runs."


class Unread(NamedTuple):
    """A file that holds no cell.

    Arguments:
        file: its name.
        reason: in a line.
    """

    file: str
    reason: str


class Reading(NamedTuple):
    """What a folder holds: every JSON file of it is in one list or the other.

    Arguments:
        cells: ordered by task, method and seed; none is there twice, as a file is named as its cell.
        unread: files that hold no cell of this version, or another than their names say.
    """

    cells: list[Cell]
    unread: list[Unread]


def read_cells(folder: Path) -> Reading:
    """Reads every ``*.json`` of a folder.

    Arguments:
        folder: with the cells of one comparison.

    Returns:
        Cells, and files that are none with the reason.

    Raises:
        ValueError: the folder is not there, or no file of it holds a cell.
    """
    if not folder.is_dir():
        raise ValueError(f"the cells of a comparison are in a folder; got {folder}, which is none. {CURE}")
    cells, unread = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            cells.append(read_cell(path))
        except DamagedCell as err:
            unread.append(Unread(path.name, err.reason))
        except OSError as err:
            unread.append(Unread(path.name, str(err)))
    if not cells:
        refused = "; ".join(f"{file}: {reason}" for file, reason in unread) or "no *.json"
        raise ValueError(f"a report needs at least one cell; got {folder} with {refused}. {CURE}")
    return Reading(sorted(cells, key=lambda cell: (cell.task, cell.method, cell.seed)), unread)
