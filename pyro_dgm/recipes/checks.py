"""What the values of a recipe must be, and what is said when they are not."""

__all__ = ["check_choices", "check_counts", "check_no_less_than_zero", "check_positive", "check_schedules"]

import math
from collections.abc import Mapping, Sequence
from typing import Any


def check_choices(recipe: Any, choices: Mapping[str, Sequence[str]]) -> None:
    """Raises a ``ValueError`` unless every setting named is one of its choices."""
    for name, allowed in choices.items():
        if getattr(recipe, name) not in allowed:
            raise ValueError(
                f"{name} must be one of {tuple(allowed)}; got {getattr(recipe, name)!r}. Choose one of them."
            )


def check_counts(recipe: Any, *names: str) -> None:
    """Raises a ``ValueError`` unless the settings, or all their items, are at least 1; patience may be None."""
    for name in names:
        value = getattr(recipe, name)
        if min(value if isinstance(value, tuple) else (value,), default=1) < 1:
            raise ValueError(f"{name} must be at least 1; got {value}. Choose a positive number.")
    if recipe.patience is not None and recipe.patience < 1:
        raise ValueError(f"patience must be at least 1, or None; got {recipe.patience}. 10 is a usual choice.")


def check_positive(recipe: Any, usual: Mapping[str, str]) -> None:
    """Raises a ``ValueError`` unless the settings are positive and finite; each comes with what is usual."""
    for name, cure in usual.items():
        if not 0 < getattr(recipe, name) < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {getattr(recipe, name)}. {cure}")


def check_no_less_than_zero(recipe: Any, usual: Mapping[str, str]) -> None:
    """Raises a ``ValueError`` unless the settings are finite and at least 0; each comes with what is usual."""
    for name, cure in usual.items():
        if not 0 <= getattr(recipe, name) < math.inf:
            raise ValueError(f"{name} must be a finite number of at least 0; got {getattr(recipe, name)}. {cure}")


def check_schedules(recipe: Any, *names: str) -> None:
    """Raises a ``ValueError`` unless the settings, epochs that a schedule takes, are over when training is."""
    for name in names:
        value = getattr(recipe, name)
        if not 0 <= value <= recipe.epochs:
            raise ValueError(
                f"{name} must lie between 0 and epochs, for the schedule to reach its end; got {value} with "
                f"epochs={recipe.epochs}. Train for longer, or let it end earlier by --set {name}={recipe.epochs}."
            )
