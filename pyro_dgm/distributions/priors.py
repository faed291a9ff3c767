"""Distributions with no context: priors."""

__all__ = ["LearnableBernoulli", "LearnableNormal", "StandardNormal", "UniformOneHot"]

from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm.distributions.autoregressive import check_bits
from pyro_dgm.distributions.conditional import ConditionalDistribution
from pyro_dgm.distributions.discrete import check_classes, check_one_hot


@final
class StandardNormal(ConditionalDistribution):
    """The standard normal prior, N(0, I), over vectors.

    A context, if the model has one, is not looked at: p(z | c) = p(z).

    Arguments:
        features: length of the vector.

    Example:
        >>> StandardNormal(5)().event_shape
        torch.Size([5])
    """

    loc: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(_count(features)), persistent=False)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns N(0, I) of batch shape () and event shape (features,)."""
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)


@final
class LearnableNormal(ConditionalDistribution):
    """A normal prior with diagonal covariance whose mean and scale are learned; it starts as N(0, I).

    Arguments:
        features: length of the vector.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(_count(features)))
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the normal of batch shape () and event shape (features,)."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)


@final
class LearnableBernoulli(ConditionalDistribution):
    """A prior over binary vectors of independent bits, each with a learned logit; it starts as fair coins.

    A context, if the model has one, is not looked at: p(z | c) = p(z).

    Arguments:
        features: length of the vector.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(_count(features)))

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the Bernoulli of batch shape () and event shape (features,)."""
        return dist.Bernoulli(logits=self.logits).to_event(1)

    def check_data(self, x: Tensor) -> None:
        """Raises a ``ValueError`` unless every value is 0 or 1."""
        super().check_data(x)
        check_bits(x, "a LearnableBernoulli")


@final
class UniformOneHot(ConditionalDistribution):
    """The prior over one-hot variables in which every class has the same probability.

    A context, if the model has one, is not looked at: p(z | c) = p(z).

    Arguments:
        variables: number of one-hot variables.
        classes: number of classes of each, at least 2.

    Example:
        >>> UniformOneHot(20, 10)().event_shape
        torch.Size([20, 10])
    """

    logits: Tensor

    def __init__(self, variables: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(_count(variables, "variables"), check_classes(classes)), False)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution of batch shape () and event shape (variables, classes)."""
        return dist.OneHotCategorical(logits=self.logits).to_event(1)

    def check_data(self, x: Tensor) -> None:
        """Raises a ``ValueError`` unless every variable is one-hot."""
        super().check_data(x)
        check_one_hot(x)


def _count(features: int, name: str = "features") -> int:
    if isinstance(features, bool) or not isinstance(features, int) or features < 1:
        raise ValueError(f"{name} must be a positive integer; got {features!r}. Give the latent's length.")
    return features
