"""Families of distributions over vectors, by name: what a guide's latents are given features of the data."""

__all__ = ["FAMILIES", "OF_SEVERAL", "posterior_family"]

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from pyro_dgm.distributions.conditional import ConditionalDistribution
from pyro_dgm.distributions.flow import Flow
from pyro_dgm.distributions.mixture import MixtureNormal
from pyro_dgm.distributions.normal import DiagonalNormal, FullNormal, LowRankNormal
from pyro_dgm.distributions.semi_implicit import SemiImplicit
from pyro_dgm.distributions.transforms.stacks import KINDS, stack
from pyro_dgm.nn import MLP

Builder = Callable[..., ConditionalDistribution]


def posterior_family(family: str, features: int, context_features: int, **options: Any) -> ConditionalDistribution:
    """A conditional distribution over vectors, of a family's name, given features of the data.

    Its networks are affine maps of the features, so that an encoder, by ``Encoded`` or ``amortize``, does the rest.
    What couples the latents begins small, and most flows near the identity: at first they are about the diagonal one.

    Arguments:
        family: ``"diagonal"``, ``"full"``, ``"low-rank"`` (with ``rank``, 5), ``"mixture"`` (``components``, 5),
            ``"semi-implicit"`` (``noise_features``, 20, ``num_mixing``, 10, ``hidden_features``, (100,)), or a flow of
            a diagonal normal by the name of its transform (``num_transforms``, 4, and the transform's own options).
        features: length of the vectors.
        context_features: length of the features of the data.
        options: of the family.

    Raises:
        ValueError: the family is unknown, or an option out of range.
        TypeError: the family has no such option.

    Example:
        >>> import torch
        >>> posterior_family("iaf", 5, 200, num_transforms=2)(torch.zeros(8, 200)).event_shape
        torch.Size([5])
    """
    if family in KINDS:
        return _flow(family, features, context_features, **options)
    if family not in _PLAIN:
        raise ValueError(f"family must be one of {FAMILIES}; got {family!r}. 'diagonal' is the simplest.")
    return _PLAIN[family](features, context_features, **options)


def _diagonal(features: int, context_features: int) -> ConditionalDistribution:
    return DiagonalNormal(nn.Linear(context_features, DiagonalNormal.num_parameters(features)))


def _full(features: int, context_features: int) -> ConditionalDistribution:
    return FullNormal(_Quiet(context_features, FullNormal.num_parameters(features), features))


def _low_rank(features: int, context_features: int, rank: int = 5) -> ConditionalDistribution:
    rank = min(rank, features)
    return LowRankNormal(_Quiet(context_features, LowRankNormal.num_parameters(features, rank), features), rank)


def _mixture(features: int, context_features: int, components: int = 5) -> ConditionalDistribution:
    net = nn.Linear(context_features, MixtureNormal.num_parameters(features, components))
    return MixtureNormal(net, components)


def _semi_implicit(
    features: int,
    context_features: int,
    noise_features: int = 20,
    num_mixing: int = 10,
    hidden_features: tuple[int, ...] = (100,),
) -> ConditionalDistribution:
    net = MLP(context_features + noise_features, DiagonalNormal.num_parameters(features), hidden_features)
    return SemiImplicit(DiagonalNormal(net), noise_features, num_mixing)


def _flow(
    kind: str, features: int, context_features: int, num_transforms: int = 4, **options: Any
) -> ConditionalDistribution:
    transforms = stack(kind, num_transforms, features, context_features, **options)
    return Flow(_diagonal(features, context_features), transforms)


_PLAIN: dict[str, Builder] = {
    "diagonal": _diagonal,
    "full": _full,
    "low-rank": _low_rank,
    "mixture": _mixture,
    "semi-implicit": _semi_implicit,
}

FAMILIES = (*_PLAIN, *KINDS)
"""The names of the families."""

OF_SEVERAL = ("iaf", "maf", "affine-coupling", "spline-coupling", "spline-autoregressive")
"""The families that need at least two features."""


@final
class _Quiet(nn.Module):
    r"""An affine map whose outputs behind the first 2 d, those that couple features, are divided by :math:`\sqrt{d}`.

    Adam moves all weights alike: noise of its steps in d (d - 1) / 2 couplings would cost more nats than they gain.
    """

    def __init__(self, context_features: int, num_outputs: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context_features, num_outputs)
        self.sizes = (2 * features, num_outputs - 2 * features)
        self.scale = features**-0.5

    def forward(self, features: Tensor) -> Tensor:
        """Maps (*batch, H) to (*batch, num_outputs)."""
        own, couplings = self.linear(features).split(self.sizes, dim=-1)
        return torch.cat([own, self.scale * couplings], dim=-1)
