"""Modules in evaluation mode for a while."""

__all__ = ["in_evaluation_mode"]

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_evaluation_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Puts every part of the modules in evaluation mode, and its own mode back at the end."""
    parts = [part for module in modules for part in module.modules()]
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
