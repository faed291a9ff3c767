"""Whether compiling pays: decided by the time that steps as written take, and by how many are to come."""

__all__ = ["Payoff"]

import math
import statistics
from typing import final

SECONDS = 30.0  # about what compiling costs
NUM_TIMED = 10  # steps by which the time of those to come is told


@final
class Payoff:
    """When to begin to compile.

    Arguments:
        compile: True for at once, False for never, ``"auto"`` for where the steps to come would take twice as long as
            compiling does; or, where nothing is known of them, when as much time has gone into steps.
    """

    def __init__(self, compile: bool | str) -> None:
        self._is_auto = compile == "auto"
        self._seconds_left = SECONDS if self._is_auto else 0.0 if compile else math.inf
        self._times: list[float] | None = None  # of steps, as long as they are to tell
        self._steps_to_come = 0

    @property
    def is_due(self) -> bool:
        """Whether to compile now."""
        return self._seconds_left <= 0

    @property
    def is_possible(self) -> bool:
        """Whether it is due, or may become so."""
        return self._seconds_left < math.inf

    def expect(self, num_steps: int) -> None:
        """Takes note of how many steps are to come."""
        self._steps_to_come, self._times = num_steps, [] if self._is_auto else None

    def note(self, seconds: float) -> None:
        """Takes note of how long a step as written took."""
        self._seconds_left -= seconds
        if self._times is not None:
            self._times.append(seconds)
            if len(self._times) == NUM_TIMED:
                to_come = statistics.median(self._times) * (self._steps_to_come - NUM_TIMED)
                self._seconds_left, self._times = 0.0 if to_come > 2 * SECONDS else math.inf, None
