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
from pyro_dgm.distributions.encoded import Encoded
from pyro_dgm.distributions.flow import Flow, FlowPrior
from pyro_dgm.distributions.generated import Generated
from pyro_dgm.distributions.implicit import Implicit
from pyro_dgm.distributions.mixture import (
    MixtureNormal,
    MixtureNormalDistribution,
    MixturePrior,
)
from pyro_dgm.distributions.normal import (
    DiagonalNormal,
    FullNormal,
    LowRankNormal,
    LowRankNormalDistribution,
    Normal,
)
from pyro_dgm.distributions.priors import LearnableBernoulli, LearnableNormal, StandardNormal, UniformOneHot
from pyro_dgm.distributions.semi_implicit import SemiImplicit, SemiImplicitDistribution
from pyro_dgm.distributions.simplex import (
    Dirichlet,
    DirichletPrior,
    StickBreakingDistribution,
    StickBreakingKumaraswamy,
    StickBreakingPrior,
)
from pyro_dgm.distributions.sphere import (
    PowerSpherical,
    PowerSphericalDistribution,
    SphericalUniform,
    SphericalUniformDistribution,
)
from pyro_dgm.distributions.vamp import VampPrior, VampPriorDistribution

__all__ = [
    "AutoregressiveBernoulli",
    "AutoregressiveBernoulliDistribution",
    "Bernoulli",
    "Categorical",
    "ConditionalDistribution",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "Dirichlet",
    "DirichletPrior",
    "DiscretizedLogistic",
    "DiscretizedLogisticDistribution",
    "DiscretizedLogisticMixture",
    "Encoded",
    "Flow",
    "FlowPrior",
    "FullNormal",
    "Generated",
    "Implicit",
    "LearnableBernoulli",
    "LearnableNormal",
    "LowRankNormal",
    "LowRankNormalDistribution",
    "MixtureNormal",
    "MixtureNormalDistribution",
    "MixturePrior",
    "Normal",
    "OneHotCategorical",
    "PowerSpherical",
    "PowerSphericalDistribution",
    "SemiImplicit",
    "SemiImplicitDistribution",
    "SphericalUniform",
    "SphericalUniformDistribution",
    "StandardNormal",
    "StickBreakingDistribution",
    "StickBreakingKumaraswamy",
    "StickBreakingPrior",
    "UniformOneHot",
    "VampPrior",
    "VampPriorDistribution",
    "transforms",
]
