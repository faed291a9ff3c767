"""Where the history is written: JSONL or CSV, a row an epoch, and TensorBoard."""

__all__ = ["CSVLog", "JSONLog", "Log", "TensorBoardLog", "open_log"]

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import final

from pyro_dgm.files import replace_atomically

Row = dict[str, float]


class Log(ABC):
    """One place to which rows of the history go."""

    @abstractmethod
    def start(self, rows: list[Row]) -> None:
        """Begin with the rows of the run that is resumed, none for a new one: whatever else is there goes."""

    @abstractmethod
    def append(self, row: Row) -> None:
        """Write one row, so that it is in the file when this returns."""

    def close(self) -> None:  # noqa: B027  (only TensorBoard keeps something open)
        """Let go of what is open."""


def open_log(path: str | os.PathLike[str], resume: bool) -> Log:
    """Return the log for a path, by its ending; refuse one that already holds rows unless they are resumed."""
    path = Path(path)
    if path.suffix not in (".jsonl", ".csv"):
        raise ValueError(f"log must end in .jsonl or .csv; got {str(path)!r}. Choose one of the two.")
    if not resume and path.exists() and path.stat().st_size:
        raise ValueError(
            f"a log holds one run; {path} already holds rows. Go on with resume=True, choose another path, "
            "or delete the file."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return JSONLog(path) if path.suffix == ".jsonl" else CSVLog(path)


@final
class JSONLog(Log):
    """One JSON object a line."""

    def __init__(self, path: Path):
        self.path = path

    def start(self, rows: list[Row]) -> None:
        """Write these rows in place of what the file held."""
        _replace(self.path, "".join(map(self._line, rows)))

    def append(self, row: Row) -> None:
        """Write one line."""
        _append(self.path, self._line(row))

    @staticmethod
    def _line(row: Row) -> str:
        return json.dumps(row, allow_nan=False) + "\n"


@final
class CSVLog(Log):
    """A header of all names so far, and a cell for each; a row with a new name rewrites the file."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[Row] = []
        self.names: list[str] = []

    def start(self, rows: list[Row]) -> None:
        """Write these rows in place of what the file held."""
        self.rows = list(rows)
        self.names = list(dict.fromkeys(name for row in rows for name in row))
        _replace(self.path, self._text(self.rows, header=True) if rows else "")

    def append(self, row: Row) -> None:
        """Write one line, or the whole file where the header grows."""
        if row.keys() <= set(self.names):
            self.rows.append(row)
            _append(self.path, self._text([row]))
        else:
            self.start([*self.rows, row])

    def _text(self, rows: list[Row], header: bool = False) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.names, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


@final
class TensorBoardLog(Log):
    """TensorBoard event files: a scalar for each name, over the steps."""

    def __init__(self, folder: str | os.PathLike[str]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as err:
            raise ImportError(
                "tensorboard= needs the package tensorboard, which cannot be imported here. "
                "Run pip install 'pyro_dgm[tensorboard]', or use log='metrics.jsonl'."
            ) from err
        self._open = SummaryWriter
        self._folder = Path(folder)
        self._writer: SummaryWriter | None = None

    def start(self, rows: list[Row]) -> None:
        """Open an event file; TensorBoard drops what an earlier one holds beyond the last of these rows."""
        self._writer = self._open(str(self._folder), purge_step=int(rows[-1]["step"]) + 1 if rows else None)

    def append(self, row: Row) -> None:
        """Add the row's scalars."""
        assert self._writer is not None, "start() comes first"
        for name in row.keys() - {"step"}:
            self._writer.add_scalar(name, row[name], int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


def _append(path: Path, line: str) -> None:
    with open(path, "a", encoding="utf-8", newline="") as file:
        file.write(line)


def _replace(path: Path, text: str) -> None:
    with replace_atomically(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="")
