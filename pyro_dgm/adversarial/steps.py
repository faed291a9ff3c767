"""Who moves when: the schedule of an adversarial step."""

__all__ = ["Steps"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

Batch = tuple[tuple[Any, ...], dict[str, Any]]


@final
@dataclass(frozen=True)
class Steps:
    """How many updates of an optimiser one call of ``AdversarialTrainer.step`` makes, counted for either player.

    Every update has draws of its own. The data are the batch's for all of them, unless the batch is ``split``.

    Arguments:
        critic: updates of the critics.
        player: updates of model and guide; 0 to train critics alone, as in ratio estimation.
        simultaneous: both players take their gradients before either moves; otherwise the critics move first. Only
            with one update each.
        split: cut the rows of the batch into as many parts as the critic has updates, one for each, so that no
            update sees the same data; model and guide see the last part. The rows are those of the longest tensor
            among the arguments, and of all that are as long.

    Raises:
        TypeError: a number is no whole one.
        ValueError: a number is negative, nobody moves, or simultaneous steps are several.

    Example:
        >>> Steps(critic=5).critic
        5
    """

    critic: int = 1
    player: int = 1
    simultaneous: bool = False
    split: bool = False

    def __post_init__(self) -> None:
        for name, value in (("critic", self.critic), ("player", self.player)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"the steps of the {name} must be a whole number; got {value!r}. 1 is the default.")
            if value < 0:
                raise ValueError(f"the steps of the {name} must be at least 0; got {value}. 1 is the default.")
        if self.critic + self.player == 0:
            raise ValueError("somebody must move; got critic=0 and player=0. Leave out either.")
        if self.simultaneous and (self.critic, self.player) != (1, 1):
            raise ValueError(
                f"simultaneous steps are one of each; got critic={self.critic}, player={self.player}. Leave out "
                "simultaneous."
            )

    def batches(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Batch]:
        """The batch of each of the critic's updates; the last is the players', too.

        Raises:
            ValueError: there are fewer rows than parts.
        """
        count = max(self.critic, 1)
        if not self.split or count == 1:
            return [(args, dict(kwargs))] * count
        rows = max((len(value) for value in (*args, *kwargs.values()) if _has_rows(value)), default=0)
        if rows < count:
            raise ValueError(
                f"a batch is split into {count} parts of a row at least; got {rows} rows. Use larger batches, or "
                "split=False."
            )
        parts = [torch.arange(rows).tensor_split(count)[i] for i in range(count)]
        return [
            (
                tuple(_part(value, rows, part) for value in args),
                {name: _part(value, rows, part) for name, value in kwargs.items()},
            )
            for part in parts
        ]


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _part(value: Any, rows: int, part: Tensor) -> Any:
    return value[part.to(value.device)] if _has_rows(value) and len(value) == rows else value
