"""What a run shows while it goes, on standard error: a bar on a terminal, now and then a line elsewhere."""

__all__ = ["Bar", "Lines", "Progress", "Silence", "open_progress"]

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

from tqdm import tqdm

REDRAW_SECONDS = 0.1
LINE_SECONDS = 10.0

Row = dict[str, float]


class Progress(ABC):
    """Shows the step, the epoch and the metrics."""

    @abstractmethod
    def start(self, step: int, total_steps: int | None) -> None:
        """Begin at a step."""

    @abstractmethod
    def update(self, step: int, epoch: int, metrics: Callable[[], Row], now: bool = False) -> None:
        """Take note of a step; draw it if it is time or `now` is set, and only then ask for the metrics."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Show a line of text."""

    @abstractmethod
    def close(self) -> None:
        """Show no more."""


def open_progress(show: bool) -> Progress:
    """Return a bar on a terminal, lines elsewhere (a log file, a notebook), and nothing if `show` is False."""
    if not show:
        return Silence()
    return Bar() if sys.stderr.isatty() else Lines()


@final
class Silence(Progress):
    """Shows nothing."""

    def start(self, step: int, total_steps: int | None) -> None:
        """Show nothing."""

    def update(self, step: int, epoch: int, metrics: Callable[[], Row], now: bool = False) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


@final
class Bar(Progress):
    """A bar of tqdm over the steps of the run, with the rate and the time left."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._drawn = 0.0

    def start(self, step: int, total_steps: int | None) -> None:
        """Draw the bar."""
        self._bar = tqdm(initial=step, total=total_steps, unit="step", mininterval=0, miniters=1, dynamic_ncols=True)

    def update(self, step: int, epoch: int, metrics: Callable[[], Row], now: bool = False) -> None:
        """Redraw the bar, ten times a second at most."""
        if self._bar is None or not (now or time.monotonic() - self._drawn >= REDRAW_SECONDS):
            return
        self._drawn = time.monotonic()
        self._bar.set_description_str(f"epoch {epoch}", refresh=False)
        self._bar.set_postfix_str(_text(metrics()), refresh=False)
        self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


@final
class Lines(Progress):
    """A plain line every ten seconds, and a last one."""

    def __init__(self) -> None:
        self._total: int | None = None
        self._first = 0
        self._start = self._drawn = time.monotonic()

    def start(self, step: int, total_steps: int | None) -> None:
        """Start the clock."""
        self._first, self._total = step, total_steps
        self._start = self._drawn = time.monotonic()

    def update(self, step: int, epoch: int, metrics: Callable[[], Row], now: bool = False) -> None:
        """Print a line if ten seconds have passed since the last."""
        time_now = time.monotonic()
        if not (now or time_now - self._drawn >= LINE_SECONDS):
            return
        self._drawn = time_now
        rate = (step - self._first) / max(time_now - self._start, 1e-9)
        total = f"/{self._total}" if self._total else ""
        self.say(f"epoch {epoch}  step {step}{total}  {_text(metrics())}  {rate:.1f} step/s")

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is open."""


def _text(metrics: Row) -> str:
    return "  ".join(f"{name} {value:.5g}" for name, value in metrics.items())
