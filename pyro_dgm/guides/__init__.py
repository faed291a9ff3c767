"""Guides q(z | x)."""

from pyro_dgm.guides.amortized import AmortizedGuide
from pyro_dgm.guides.mixture import MixturePosterior
from pyro_dgm.guides.sigmoid_belief import SigmoidBeliefGuide

__all__ = ["AmortizedGuide", "MixturePosterior", "SigmoidBeliefGuide"]
