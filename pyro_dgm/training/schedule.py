"""When a learning-rate scheduler of torch is stepped, and with what."""

__all__ = ["Schedule"]

from typing import Any, final

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


@final
class Schedule:
    """A scheduler and its interval; without a scheduler it does nothing.

    Arguments:
        scheduler: Of `torch.optim.lr_scheduler`, over the trainer's optimizer.
        interval: "epoch" or "step".
    """

    def __init__(self, scheduler: LRScheduler | None, interval: str = "epoch"):
        if scheduler is not None and not isinstance(scheduler, LRScheduler):
            raise TypeError(
                f"scheduler must be one of torch.optim.lr_scheduler; got {type(scheduler).__name__}. "
                "Anything else that follows the steps can be a callback."
            )
        if interval not in ("epoch", "step"):
            raise ValueError(f"scheduler_interval must be 'epoch' or 'step'; got {interval!r}. Choose one of the two.")
        self.scheduler = scheduler
        self.interval = interval
        self.needs_metric = isinstance(scheduler, ReduceLROnPlateau)
        if self.needs_metric and interval == "step":
            raise ValueError(
                "ReduceLROnPlateau follows a metric of the epoch; got scheduler_interval='step'. Use 'epoch'."
            )

    @property
    def is_per_step(self) -> bool:
        """Whether each step changes the learning rate."""
        return self.scheduler is not None and self.interval == "step"

    def learning_rate(self) -> dict[str, float]:
        """Return the learning rate of the first parameter group as a metric."""
        return {} if self.scheduler is None else {"lr": float(self.scheduler.get_last_lr()[0])}

    def after_step(self) -> None:
        """Step a scheduler that counts steps."""
        if self.scheduler is not None and self.is_per_step:
            self.scheduler.step()

    def after_epoch(self, metric: float | None) -> None:
        """Step a scheduler that counts epochs; one that follows a metric waits for the next that is there."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if metric is not None:
                self.scheduler.step(metric)
        elif self.scheduler is not None and self.interval == "epoch":
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state under its name, or nothing."""
        return {} if self.scheduler is None else {"scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
