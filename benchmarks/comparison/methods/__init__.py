"""The methods that are there."""

from benchmarks.comparison.method import Method
from benchmarks.comparison.methods.adversarial import ADVERSARIAL
from benchmarks.comparison.methods.by_hand import BY_HAND
from benchmarks.comparison.methods.in_numpyro import IN_NUMPYRO
from benchmarks.comparison.methods.objectives import OBJECTIVES
from benchmarks.comparison.methods.of_pyro import OF_PYRO

__all__ = ["METHODS"]

METHODS: tuple[Method, ...] = (*OBJECTIVES, *ADVERSARIAL, *OF_PYRO, *IN_NUMPYRO, *BY_HAND)
