"""Conditional distributions: modules whose ``forward(*context)`` returns a Pyro distribution."""

from pyro_dgm.distributions import transforms
from pyro_dgm.distributions.autoregressive import AutoregressiveBernoulli, AutoregressiveBernoulliDistribution
from pyro_dgm.distributions.conditional import ConditionalDistribution
from pyro_dgm.distributions.discrete import Bernoulli, Categorical, ContinuousBernoulli, OneHotCategorical
from pyro_dgm.distributions.discretized_logistic import (
    DiscretizedLogistic,
    DiscretizedLogisticDistribution,
    DiscretizedLogisticMixture,
)
from pyro_dgm.distributions.flow import Flow, FlowPrior
from pyro_dgm.distributions.normal import DiagonalNormal, FullNormal, Normal
from pyro_dgm.distributions.priors import LearnableBernoulli, LearnableNormal, StandardNormal, UniformOneHot

__all__ = [
    "AutoregressiveBernoulli",
    "AutoregressiveBernoulliDistribution",
    "Bernoulli",
    "Categorical",
    "ConditionalDistribution",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedLogisticDistribution",
    "DiscretizedLogisticMixture",
    "Flow",
    "FlowPrior",
    "FullNormal",
    "LearnableBernoulli",
    "LearnableNormal",
    "Normal",
    "OneHotCategorical",
    "StandardNormal",
    "UniformOneHot",
    "transforms",
]
