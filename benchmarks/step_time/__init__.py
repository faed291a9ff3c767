"""How long a training step takes, by whom."""

from benchmarks.step_time.command import main

__all__ = ["main"]
