"""Guides q(z | x)."""

from pyro_dgm.guides.adaptive_contrast import AdaptiveContrastGuide
from pyro_dgm.guides.amortized import AmortizedGuide
from pyro_dgm.guides.automatic import AutoAmortizedGuide, amortize
from pyro_dgm.guides.empty import EmptyGuide
from pyro_dgm.guides.mixture import MixturePosterior
from pyro_dgm.guides.per_datum import PerDatumGuide
from pyro_dgm.guides.sigmoid_belief import SigmoidBeliefGuide
from pyro_dgm.guides.structured import StructuredGuide

__all__ = [
    "AdaptiveContrastGuide",
    "AmortizedGuide",
    "AutoAmortizedGuide",
    "EmptyGuide",
    "MixturePosterior",
    "PerDatumGuide",
    "SigmoidBeliefGuide",
    "StructuredGuide",
    "amortize",
]
