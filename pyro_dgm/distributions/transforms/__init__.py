"""Bijections of vectors, conditional or not: modules whose ``forward(*context)`` returns a torch ``Transform``."""

from pyro_dgm.distributions.transforms.autoregressive import (
    BlockAutoregressive,
    InverseAutoregressive,
    MaskedAutoregressive,
    SplineAutoregressive,
)
from pyro_dgm.distributions.transforms.conditional import ConditionalTransform, Inverse
from pyro_dgm.distributions.transforms.coupling import AffineCoupling, SplineCoupling
from pyro_dgm.distributions.transforms.householder import Householder
from pyro_dgm.distributions.transforms.planar import Planar, Radial
from pyro_dgm.distributions.transforms.stacks import stack
from pyro_dgm.distributions.transforms.sylvester import Sylvester

__all__ = [
    "AffineCoupling",
    "BlockAutoregressive",
    "ConditionalTransform",
    "Householder",
    "Inverse",
    "InverseAutoregressive",
    "MaskedAutoregressive",
    "Planar",
    "Radial",
    "SplineAutoregressive",
    "SplineCoupling",
    "Sylvester",
    "stack",
]
