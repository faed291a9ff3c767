"""Generative models p(x, z)."""

from pyro_dgm.models.auxiliary import AuxiliaryModel
from pyro_dgm.models.density import DensityModel
from pyro_dgm.models.latent_variable import LatentVariableModel
from pyro_dgm.models.linear_gaussian import LinearGaussian
from pyro_dgm.models.mixture import GaussianMixture
from pyro_dgm.models.sigmoid_belief import SigmoidBeliefNet

__all__ = [
    "AuxiliaryModel",
    "DensityModel",
    "GaussianMixture",
    "LatentVariableModel",
    "LinearGaussian",
    "SigmoidBeliefNet",
]
