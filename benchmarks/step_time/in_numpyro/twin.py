"""What NumPyro's trainer needs of a task."""

__all__ = ["Twin"]

from collections.abc import Callable
from typing import Any, NamedTuple


class Twin(NamedTuple):
    """A task for NumPyro's SVI."""

    model: Callable[..., None]
    guide: Callable[..., Any]
    objective: Any
