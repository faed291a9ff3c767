"""Guides q(z | x)."""

from pyro_dgm.guides.amortized import AmortizedGuide

__all__ = ["AmortizedGuide"]
