"""Methods in NumPyro, where it is installed, on what is written in it here; JAX is imported when one starts."""

from benchmarks.comparison.methods.in_numpyro.catalogue import IN_NUMPYRO

__all__ = ["IN_NUMPYRO"]
