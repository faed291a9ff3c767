"""Distributions with no context: priors."""

__all__ = ["LearnableNormal", "StandardNormal"]

from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm.distributions.conditional import ConditionalDistribution


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


def _count(features: int) -> int:
    if isinstance(features, bool) or not isinstance(features, int) or features < 1:
        raise ValueError(f"features must be a positive integer; got {features!r}. Give the latent's length.")
    return features
