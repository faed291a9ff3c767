"""The best epoch so far, and whether it is worth going on."""

__all__ = ["Monitor"]

from collections.abc import Callable
from typing import Any, final

from pyro_dgm.training.checkpoint import clone_state

Row = dict[str, float]


@final
class Monitor:
    """Watches one metric of the rows; keeps the best row and the trainer's state at it.

    Arguments:
        name: The metric; None watches valid_loss where a row has it.
        mode: "min" if lower is better, "max" if higher is.
        patience: Rows with the metric that may pass without a new best before `exhausted`; None for no end.
        required: Whether a row that ought to have the metric and has not is an error.
        keep_state: Whether to keep the trainer's state at the best row.
    """

    def __init__(
        self, name: str | None, mode: str, patience: int | None, required: bool = False, keep_state: bool = False
    ):
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max'; got {mode!r}. Use 'min' for a loss, 'max' for a bound.")
        self.name = name or "valid_loss"
        self.mode = mode
        self.patience = patience
        self.required = required
        self.keep_state = keep_state
        self.row: Row | None = None
        self.trainer_state: dict[str, Any] | None = None
        self.waited = 0

    @property
    def exhausted(self) -> bool:
        """Whether `patience` rows have passed without a new best."""
        return self.patience is not None and self.waited >= self.patience

    def check(self, row: Row, complete: bool) -> None:
        """Raise if the metric is not in a row that is complete, that is, with its validation."""
        if self.required and complete and self.name not in row:
            raise ValueError(
                f"monitor must be a metric that is reported; got {self.name!r}. Use one of {', '.join(sorted(row))}, "
                "or have step or validate return it."
            )

    def update(self, row: Row, trainer_state: Callable[[], dict[str, Any]]) -> bool:
        """Take in a row; return whether it is the best so far."""
        if self.name not in row:
            return False
        if self.row is not None and not self._is_better(row[self.name], self.row[self.name]):
            self.waited += 1
            return False
        self.row, self.waited = row, 0
        if self.keep_state:
            self.trainer_state = clone_state(trainer_state())
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the best row, the trainer's state at it, and how long ago it was."""
        return {"name": self.name, "row": self.row, "trainer": self.trainer_state, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; a run that watched another metric had another best, and this one begins anew."""
        if state["name"] == self.name:
            self.row, self.trainer_state, self.waited = state["row"], state["trainer"], state["waited"]

    def _is_better(self, value: float, best: float) -> bool:
        return value < best if self.mode == "min" else value > best
