"""The folder of a run's checkpoints: last.ckpt and best.ckpt."""

__all__ = ["Store"]

import os
from pathlib import Path
from typing import Any, final

from pyro_dgm.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint


@final
class Store:
    """Where a run is saved, and when.

    Arguments:
        folder: Holds `last.ckpt`, from which a run is resumed, and `best.ckpt`, the trainer's state at the best epoch.
        every: Save after so many steps; None saves after each epoch. The run's end is saved in any case.
    """

    def __init__(self, folder: str | os.PathLike[str], every: int | None = None):
        self.folder = Path(folder)
        self.every = every
        self.last = self.folder / "last.ckpt"
        self.best = self.folder / "best.ckpt"

    def due_after_step(self, step: int) -> bool:
        """Whether a checkpoint is due in the middle of an epoch."""
        return self.every is not None and step % self.every == 0

    def due_after_epoch(self, step: int) -> bool:
        """Whether a checkpoint is due at an epoch's end."""
        return self.every is None or step % self.every == 0

    def open_new(self) -> None:
        """Make the folder; refuse one that holds a run, unless that has not taken a step."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"checkpoint must be a folder; {self.folder} is a file. Choose another path.")
        if self.best.exists() or (self.last.exists() and load_checkpoint(self.last).get("step") != 0):
            raise ValueError(
                f"a folder holds one run; {self.folder} already holds one. Go on with resume=True, or choose "
                "another folder."
            )
        self.folder.mkdir(parents=True, exist_ok=True)

    def load_last(self) -> dict[str, Any]:
        """Read `last.ckpt`."""
        if not self.last.exists():
            raise CheckpointError(
                f"resume=True goes on from a checkpoint; there is no {self.last}. Check the folder, or begin with "
                "resume=False."
            )
        return load_checkpoint(self.last)

    def save_last(self, state: dict[str, Any]) -> None:
        """Write `last.ckpt`."""
        save_checkpoint(self.last, state)

    def save_best(self, trainer: dict[str, Any], row: dict[str, float]) -> None:
        """Write `best.ckpt`: the trainer's state, and the row of the history it belongs to."""
        save_checkpoint(self.best, {"trainer": trainer, "row": row})
