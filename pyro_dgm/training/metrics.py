"""From what a step returns to what is reported: floats by name, finite, averaged over the epoch."""

__all__ = ["EpochMean", "as_metrics", "check_finite", "count_rows"]

import math
from collections.abc import Iterable, Mapping
from typing import Any, final

from torch import Tensor

RESERVED = ("epoch", "step", "skipped", "lr", "seconds")

Row = dict[str, float]


def as_metrics(result: Any, source: str, prefix: str = "") -> Row:
    """Turn a float, or a mapping of names to floats, into a dict of floats.

    >>> as_metrics(2, "validate", "valid_")
    {'valid_loss': 2.0}
    >>> as_metrics({"valid_loss": 2.0, "kl": 1.0}, "validate", "valid_")
    {'valid_loss': 2.0, 'valid_kl': 1.0}
    """
    named = result if isinstance(result, Mapping) else {"loss": result}
    metrics = {}
    for name, value in named.items():
        if not isinstance(value, int | float | Tensor) or (isinstance(value, Tensor) and value.numel() != 1):
            raise TypeError(
                f"{source} must return a float or a mapping of names to floats; got {_kind(value)} for {name!r}. "
                "Return for instance {'loss': 1.5}."
            )
        name = name if name.startswith(prefix) else prefix + name
        if name in RESERVED:
            raise ValueError(f"the names {', '.join(RESERVED)} are fit's own; {source} returned {name!r}. Rename it.")
        metrics[name] = float(value)
    return metrics


def check_finite(metrics: Row, source: str, step: int) -> None:
    """Raise if a metric is NaN or infinite, naming it and the step."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"every metric must be finite; {source} gave {name} = {value} at step {step}. No checkpoint was "
                "written since: resume from the last one with a lower learning rate, and look at the data of this step."
            )


def count_rows(batch: Any) -> int:
    """Return the first dimension of the batch's first tensor; 1 if no tensor has one.

    >>> import torch
    >>> count_rows({"x": torch.zeros(8, 3), "y": torch.zeros(8)})
    8
    """
    return next((tensor.shape[0] for tensor in _tensors(batch) if tensor.dim()), 1)


@final
class EpochMean:
    """The metrics of an epoch so far.

    A float that a step returns is a sum over its batch, so its mean is per row: the sum of the losses over the sum
    of the rows, in nats per datum for a log-density; an epoch's mean does not depend on how it was cut into batches.
    A mapping is averaged over the steps that named it, each with weight one, and so is what a trainer reports beside.

    Arguments:
        nonfinite: What a step with a metric that is not finite does: "raise", or "skip", which leaves it out of the
            mean and counts it.
    """

    def __init__(self, nonfinite: str = "raise") -> None:
        if nonfinite not in ("raise", "skip"):
            raise ValueError(f"nonfinite must be 'raise' or 'skip'; got {nonfinite!r}. 'raise' is the safe one.")
        self.nonfinite = nonfinite
        self._sums: dict[str, tuple[float, int]] = {}
        self._skipped = 0

    def add(self, result: Any, batch: Any, step: int, report: Mapping[str, float] | None = None) -> Row:
        """Take in what a step returned and what is reported beside, and return both as metrics of this step.

        Raises:
            FloatingPointError: A metric is NaN or infinite, and no step is skipped.
        """
        metrics = as_metrics(result, "step")
        extra = as_metrics(report or {}, "report")
        _check_names(metrics, extra)
        if self.nonfinite == "skip" and not all(map(math.isfinite, [*metrics.values(), *extra.values()])):
            self._skipped += 1
            return metrics | extra
        check_finite(metrics | extra, "step", step)
        weight = 1 if isinstance(result, Mapping) else count_rows(batch)
        if weight == 0:
            raise ValueError(f"a batch must have rows; the batch of step {step} has none. Leave empty batches out.")
        self._add(metrics, weight)
        self._add(extra, 1)
        return {name: value / weight for name, value in metrics.items()} | extra

    def _add(self, metrics: Row, weight: int) -> None:
        for name, value in metrics.items():
            total, weights = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, weights + weight)

    def means(self) -> Row:
        """Return the means so far, and how many steps were skipped, if any were."""
        means = {name: total / weight for name, (total, weight) in self._sums.items()}
        return means | ({"skipped": self._skipped} if self._skipped else {})

    def check(self) -> None:
        """Raise if all steps so far were skipped."""
        if self._skipped and not self._sums:
            raise FloatingPointError(
                f"an epoch must have a step whose metrics are finite; got {self._skipped} skipped and no other. "
                "Resume from the last checkpoint with a lower learning rate, and look at the data."
            )

    def reset(self) -> None:
        """Begin a new epoch."""
        self._sums, self._skipped = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return {"sums": dict(self._sums), "skipped": self._skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these sums."""
        self._sums, self._skipped = dict(state["sums"]), state["skipped"]


def _check_names(metrics: Row, extra: Row) -> None:
    if both := [name for name in extra if name in metrics]:
        raise ValueError(
            f"a trainer's report must not repeat the names that its step returns; got {both} from both. Rename them."
        )


def _tensors(batch: Any) -> Iterable[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | list | tuple):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(part)


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
