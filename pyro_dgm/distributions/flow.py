"""Flows: a base distribution bent by transforms, conditioned on a context or not."""

__all__ = ["Flow", "FlowPrior"]

from collections.abc import Sequence
from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm.distributions.conditional import ConditionalDistribution, check_conditional
from pyro_dgm.distributions.priors import StandardNormal
from pyro_dgm.distributions.transforms.conditional import ConditionalTransform, check_transform
from pyro_dgm.distributions.transforms.stacks import stack
from pyro_dgm.nn.inputs import concatenate


@final
class Flow(ConditionalDistribution):
    r"""A normalizing flow: :math:`x = f_T \circ \dots \circ f_1(u)` of a draw u from the base.

    .. math:: \log p(x) = \log p_0(u) - \sum_t \log |\det \partial f_t|.

    Base and transforms are given the context, its parts side by side; a guide makes it of the data first, by
    ``Encoded(encoder, Flow(...))``. Without a context it is a prior or a density of data, ``Flow(StandardNormal(d),
    transforms)``. Draws are reparameterised if the base's are; scoring the last draw costs nothing more. There is no
    mean in closed form, and the KL is estimated from draws.

    References:
        Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, equation 7, arXiv:1505.05770;
        Papamakarios et al. (2021), Normalizing Flows for Probabilistic Modeling and Inference, arXiv:1912.02762.

    Arguments:
        base: gives the distribution of u, over vectors.
        transforms: of ``pyro_dgm.distributions.transforms``, from the base outwards.

    Raises:
        TypeError: the base is no conditional distribution, or a transform none of this library's.
        ValueError: there is no transform, they are of different lengths, or one goes backwards only amid others that
            go forwards only; at the call, when the base's vectors have another length.

    Example:
        >>> from pyro_dgm.distributions import StandardNormal, transforms
        >>> flow = Flow(StandardNormal(2), [transforms.Planar(2), transforms.Planar(2)])
        >>> flow().sample((3,)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        base: ConditionalDistribution,
        transforms: Sequence[ConditionalTransform],
    ) -> None:
        super().__init__()
        self.base = check_conditional(base, "the base of a flow")
        if not transforms:
            raise ValueError("a flow needs a transform; got none. Use its base alone, or transforms.Planar(2).")
        lengths = [check_transform(transform).features for transform in transforms]
        if len(set(lengths)) > 1:
            raise ValueError(f"a flow's transforms must take vectors of one length; got {lengths}. Size them alike.")
        if not (all(t.draws for t in transforms) or all(t.scores_any_point for t in transforms)):
            kinds = [type(transform).__name__ for transform in transforms]
            raise ValueError(
                f"a flow must be able to draw or to score; got {kinds}, of which some go one way only and some the "
                "other. Turn them the same way round with transforms.Inverse."
            )
        self.transforms = nn.ModuleList(transforms)
        self.features = lengths[0]

    @property
    def draws(self) -> bool:
        """Whether it can be drawn from: every transform goes forwards."""
        return all(transform.draws for transform in self._transforms())

    @property
    def scores_any_point(self) -> bool:
        """Whether its log-density is known at any point: every transform goes backwards, and the base's is."""
        return self.base.scores_any_point and all(transform.scores_any_point for transform in self._transforms())

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the flow of batch shape (*batch,) and event shape (features,)."""
        given = (concatenate(context),) if context else ()
        base = self.base(*given)
        if tuple(base.event_shape) != (self.features,):
            raise ValueError(
                f"the base of this flow must be over vectors of {self.features} features; got event shape "
                f"{tuple(base.event_shape)}. Size both alike."
            )
        if given:
            batch = torch.broadcast_shapes(base.batch_shape, given[0].shape[:-1])
            base = base.expand(batch) if base.batch_shape != batch else base
        maps = [transform(*given) if transform.context_features else transform() for transform in self._transforms()]
        return dist.TransformedDistribution(base, maps)

    def _transforms(self) -> list[ConditionalTransform]:
        return list(self.transforms)  # type: ignore[arg-type]  # a ModuleList of checked transforms


@final
class FlowPrior(ConditionalDistribution):
    r"""A prior that is a flow of the standard normal, by default a masked autoregressive one.

    A prior is scored at the guide's draws at every step and drawn from seldom: so its transforms should be cheap to
    score. A context, if the model has one, is not looked at: p(z | c) = p(z).

    References:
        Chen et al. (2017), Variational Lossy Autoencoder, section 3.2, arXiv:1611.02731 (an autoregressive prior is as
        an inverse autoregressive guide).

    Arguments:
        features: length of the vectors.
        kind: of the transforms, a key of ``transforms.stacks.KINDS``.
        num_transforms: how many.
        options: of the transform.

    Raises:
        ValueError: the kind is unknown, a number out of range, or the transforms cannot score any point.
        TypeError: the transform has no such option.

    Example:
        >>> FlowPrior(5)().event_shape
        torch.Size([5])
    """

    def __init__(self, features: int, kind: str = "maf", num_transforms: int = 2, **options: Any) -> None:
        super().__init__()
        self.flow = Flow(StandardNormal(features), stack(kind, num_transforms, features, **options))
        if not self.flow.scores_any_point:
            raise ValueError(
                f"a prior must score the guide's draws; got kind={kind!r}, which scores its own alone. Use 'maf'."
            )

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the flow of batch shape () and event shape (features,)."""
        return self.flow()
