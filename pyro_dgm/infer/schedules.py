r"""Numbers that change as training goes on: weights, temperatures, capacities.

A schedule is a function of the number t of optimiser steps taken so far, together with that number. ``SVI`` advances
those it knows of after each step; elsewhere call ``step()`` yourself.
"""

__all__ = ["Constant", "Cyclical", "Exponential", "Linear", "Schedule", "Sigmoid"]

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast, final


class Schedule(ABC):
    """A number that depends on how many steps have been taken.

    Arguments:
        num_steps_needed: the step at which it reaches its end value for good; ``training.fit`` refuses to train less.
    """

    def __init__(self, num_steps_needed: int) -> None:
        self._num_steps = 0
        self._now: float | None = None  # kept, so that a compiled step finds one number that changes
        self.num_steps_needed = num_steps_needed

    @property
    def num_steps(self) -> int:
        """How many steps have been taken."""
        return self._num_steps

    @num_steps.setter
    def num_steps(self, num_steps: int) -> None:
        """Goes to a position."""
        self._num_steps = num_steps
        self._refresh()

    @abstractmethod
    def value_at(self, num_steps: int) -> float:
        """The value once so many steps have been taken."""

    @property
    def value(self) -> float:
        """The value now."""
        if self._now is None:
            self._refresh()
        return cast(float, self._now)

    def _refresh(self) -> None:
        self._now = self.value_at(self._num_steps)

    def step(self) -> None:
        """Advances by one optimiser step."""
        self.num_steps += 1

    def state_dict(self) -> dict[str, int]:
        """The position, a plain number."""
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to the position that ``state_dict`` gave.

        Raises:
            ValueError: it holds no position.
        """
        num_steps = state.get("num_steps")
        if type(num_steps) is not int or num_steps < 0:
            raise ValueError(
                "a schedule's state must hold num_steps, a whole number of at least 0; "
                f"got {dict(state)}. Pass what state_dict() gave."
            )
        self.num_steps = num_steps


@final
class Constant(Schedule):
    """A number that stays what it is.

    Arguments:
        value: the number.

    Raises:
        ValueError: it is not finite.

    Example:
        >>> Constant(0.5).value
        0.5
    """

    def __init__(self, value: float) -> None:
        super().__init__(num_steps_needed=0)
        self._value = _check_number("value", value)

    def __repr__(self) -> str:
        return f"Constant({self._value:g})"

    def value_at(self, num_steps: int) -> float:
        """The number."""
        return self._value


class Ramp(Schedule):
    """From one value to another, and there to stay.

    Arguments:
        start: the value before the first step.
        end: the value after ``over`` steps, exactly, and ever after.
        over: number of optimiser steps; of epochs if ``steps_per_epoch`` is given.
        steps_per_epoch: optimiser steps in an epoch, such as ``len(loader)``; the value still moves with every step.

    Raises:
        TypeError: a count is no whole number.
        ValueError: a count is below 1, or a value not finite.
    """

    def __init__(self, start: float, end: float, over: int, *, steps_per_epoch: int | None = None) -> None:
        self.start, self.end = _check_number("start", start), _check_number("end", end)
        self.over = _check_count("over", over)
        if steps_per_epoch is not None:
            self.over *= _check_count("steps_per_epoch", steps_per_epoch)
        super().__init__(num_steps_needed=self.over)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.start:g}, {self.end:g}, over={self.over})"

    @abstractmethod
    def between(self, progress: float) -> float:
        """The value on the way, at a share of the way from 0 to below 1."""

    def value_at(self, num_steps: int) -> float:
        """The value once so many steps have been taken."""
        return self.end if num_steps >= self.over else self.between(num_steps / self.over)


@final
class Linear(Ramp):
    r"""A straight line, :math:`\text{start} + (\text{end} - \text{start}) \min(t / T, 1)`.

    References:
        Sønderby et al. (2016), Ladder Variational Autoencoders, section 2.3 (warm-up), arXiv:1602.02282.

    Arguments:
        start: the value before the first step.
        end: the value after ``over`` steps, and ever after.
        over: number T of optimiser steps; of epochs if ``steps_per_epoch`` is given.
        steps_per_epoch: optimiser steps in an epoch, such as ``len(loader)``.

    Raises:
        TypeError: a count is no whole number.
        ValueError: a count is below 1, or a value not finite.

    Example:
        >>> weight = Linear(0.0, 1.0, over=10, steps_per_epoch=100)
        >>> weight.value_at(250), weight.num_steps_needed
        (0.25, 1000)
    """

    def between(self, progress: float) -> float:
        """On the line."""
        return self.start + (self.end - self.start) * progress


@final
class Sigmoid(Ramp):
    r"""An S-shaped curve: the logistic function of :math:`k (t / T - m)`, stretched to hit start and end exactly.

    References:
        Bowman et al. (2016), Generating Sentences from a Continuous Space, section 3.1 and figure 2, arXiv:1511.06349.

    Arguments:
        start: the value before the first step.
        end: the value after ``over`` steps, and ever after.
        over: number T of optimiser steps; of epochs if ``steps_per_epoch`` is given.
        steepness: k, above 0; small ones come close to a straight line.
        midpoint: m, the share of the way at which the slope is largest, in (0, 1).
        steps_per_epoch: optimiser steps in an epoch, such as ``len(loader)``.

    Raises:
        TypeError: a count is no whole number.
        ValueError: a count is below 1, a value not finite, or steepness or midpoint out of range.

    Example:
        >>> Sigmoid(0.0, 1.0, over=100).value_at(50)
        0.5
    """

    def __init__(
        self,
        start: float,
        end: float,
        over: int,
        *,
        steepness: float = 10.0,
        midpoint: float = 0.5,
        steps_per_epoch: int | None = None,
    ) -> None:
        super().__init__(start, end, over, steps_per_epoch=steps_per_epoch)
        if not 0 < steepness < math.inf:
            raise ValueError(f"steepness must be a positive number; got {steepness}. 10 is the default.")
        if not 0 < midpoint < 1:
            raise ValueError(f"midpoint must be a share of the way in (0, 1); got {midpoint}. 0.5 is the middle.")
        self.steepness, self.midpoint = steepness, midpoint

    def between(self, progress: float) -> float:
        """On the curve."""
        lowest, highest = self._curve(0.0), self._curve(1.0)
        return self.start + (self.end - self.start) * (self._curve(progress) - lowest) / (highest - lowest)

    def _curve(self, progress: float) -> float:
        """The logistic function but for an affine map, which cannot overflow."""
        return math.tanh(0.5 * self.steepness * (progress - self.midpoint))


@final
class Exponential(Ramp):
    r"""A geometric decay or growth, :math:`\text{start} (\text{end} / \text{start})^{\min(t / T, 1)}`.

    For temperatures: :math:`\max(\text{end}, \text{start} \, e^{-r t})` with the rate
    :math:`r = \log(\text{start} / \text{end}) / T`.

    References:
        Jang, Gu and Poole (2017), Categorical Reparameterization with Gumbel-Softmax, section 4, arXiv:1611.01144.

    Arguments:
        start: the value before the first step, above 0.
        end: the value after ``over`` steps, and ever after, above 0.
        over: number T of optimiser steps; of epochs if ``steps_per_epoch`` is given.
        steps_per_epoch: optimiser steps in an epoch, such as ``len(loader)``.

    Raises:
        TypeError: a count is no whole number.
        ValueError: a count is below 1, or a value not positive and finite.

    Example:
        >>> Exponential(4.0, 1.0, over=100).value_at(50)
        2.0
    """

    def __init__(self, start: float, end: float, over: int, *, steps_per_epoch: int | None = None) -> None:
        super().__init__(start, end, over, steps_per_epoch=steps_per_epoch)
        if min(self.start, self.end) <= 0:
            raise ValueError(
                "start and end of an exponential must be above 0, which it only approaches; "
                f"got {self.start:g} and {self.end:g}. Use Linear to start or end at 0."
            )

    def between(self, progress: float) -> float:
        """On the curve."""
        return self.start * (self.end / self.start) ** progress


@final
class Cyclical(Schedule):
    r"""Straight lines one after the other: each cycle rises during its first part and then holds its end value.

    With :math:`\tau = (t \bmod T/M) / (T/M)` it is :math:`\text{start} + (\text{end} - \text{start}) \min(\tau / R, 1)`
    before T, and ``end`` from T on. It is at its end for good once the last cycle has risen.

    References:
        Fu et al. (2019), Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing, equations 6 and 7,
        arXiv:1903.10145.

    Arguments:
        start: the value at the beginning of each cycle.
        end: the value at the end of each.
        over: number T of optimiser steps of all cycles together; of epochs if ``steps_per_epoch`` is given.
        cycles: number M of cycles.
        proportion: share R of each cycle that rises, in (0, 1].
        steps_per_epoch: optimiser steps in an epoch, such as ``len(loader)``.

    Raises:
        TypeError: a count is no whole number.
        ValueError: a count is below 1, there are more cycles than steps, or a number is out of range.

    Example:
        >>> weight = Cyclical(0.0, 1.0, over=80, cycles=4)
        >>> [weight.value_at(t) for t in (0, 5, 10, 19, 20, 60, 70, 100)], weight.num_steps_needed
        ([0.0, 0.5, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0], 70)
    """

    def __init__(
        self,
        start: float,
        end: float,
        over: int,
        *,
        cycles: int = 4,
        proportion: float = 0.5,
        steps_per_epoch: int | None = None,
    ) -> None:
        self.start, self.end = _check_number("start", start), _check_number("end", end)
        self.over, self.cycles = _check_count("over", over), _check_count("cycles", cycles)
        if steps_per_epoch is not None:
            self.over *= _check_count("steps_per_epoch", steps_per_epoch)
        if not 0 < proportion <= 1:
            raise ValueError(f"proportion must be a share of a cycle in (0, 1]; got {proportion}. 0.5 is the default.")
        if self.cycles > self.over:
            raise ValueError(
                f"a cycle must have at least one step; got {cycles} cycles over {self.over} steps. Pass fewer cycles."
            )
        self.proportion = proportion
        before_the_last = (self.cycles - 1) * self.over
        needed = math.floor((before_the_last + proportion * self.over) / self.cycles)
        while (needed * self.cycles - before_the_last) / self.over < proportion:
            needed += 1
        super().__init__(num_steps_needed=needed)

    def __repr__(self) -> str:
        return f"Cyclical({self.start:g}, {self.end:g}, over={self.over}, cycles={self.cycles})"

    def value_at(self, num_steps: int) -> float:
        """The value once so many steps have been taken."""
        if num_steps >= self.over:
            return self.end
        share = (num_steps * self.cycles % self.over) / self.over  # of the cycle, exact where cycles begin
        return self.end if share >= self.proportion else self.start + (self.end - self.start) * share / self.proportion


def _check_number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; got {value!r}. Pass for instance 1.0.")
    return float(value)


def _check_count(name: str, count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{name} must be a whole number; got {count!r}. Round it, or leave it out if it has a default.")
    if count < 1:
        raise ValueError(f"{name} must be at least 1; got {count}. Use Constant for a value that does not change.")
    return count
