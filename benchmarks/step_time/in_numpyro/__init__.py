"""The tasks as NumPyro programs, from the same parameters; imported only where NumPyro is installed."""

from benchmarks.step_time.in_numpyro.catalogue import twin
from benchmarks.step_time.in_numpyro.twin import Twin

__all__ = ["Twin", "twin"]
