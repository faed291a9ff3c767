"""Generative models p(x, z)."""

from pyro_dgm.models.latent_variable import LatentVariableModel

__all__ = ["LatentVariableModel"]
