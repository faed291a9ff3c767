"""Conditional distributions: modules whose ``forward(*context)`` returns a Pyro distribution."""

from pyro_dgm.distributions.conditional import ConditionalDistribution
from pyro_dgm.distributions.discrete import Bernoulli, Categorical, ContinuousBernoulli
from pyro_dgm.distributions.discretized_logistic import (
    DiscretizedLogistic,
    DiscretizedLogisticDistribution,
    DiscretizedLogisticMixture,
)
from pyro_dgm.distributions.normal import DiagonalNormal, FullNormal, Normal
from pyro_dgm.distributions.priors import LearnableNormal, StandardNormal

__all__ = [
    "Bernoulli",
    "Categorical",
    "ConditionalDistribution",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedLogisticDistribution",
    "DiscretizedLogisticMixture",
    "FullNormal",
    "LearnableNormal",
    "Normal",
    "StandardNormal",
]
