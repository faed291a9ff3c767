"""An implicit conditional distribution: what a network makes of its context, and of noise."""

__all__ = ["Generated"]

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm.distributions.conditional import ConditionalDistribution, check_net
from pyro_dgm.distributions.implicit import Implicit
from pyro_dgm.nn.inputs import check_size

Scorer = Callable[[Tensor], Distribution]


@final
class Generated(ConditionalDistribution):
    r"""What a network makes of a context and standard normal noise, without a density: :math:`x = g(c, \epsilon)`.

    As the likelihood of a ``LatentVariableModel`` it is a generator; in an ``AmortizedGuide`` an implicit posterior, or
    without noise a deterministic encoder.

    References:
        Mohamed and Lakshminarayanan (2016), Learning in Implicit Generative Models, arXiv:1610.03483.

    Arguments:
        net: maps the context, and after it the noise if there is any, to a draw, (*batch, *event).
        event_dim: how many dimensions one draw has: 1 for vectors, 3 for images.
        noise_features: length of the noise that the network is given as its last input; 0 for none.
        scorer: from the draw to a distribution of its shape by which other values are scored, such as a Laplace
            distribution about it: ``lambda x: dist.Laplace(x, 1.0).to_event(1)``.

    Raises:
        TypeError: net is no module.
        ValueError: ``event_dim`` is below 1, or ``noise_features`` below 0.

    Example:
        >>> from pyro_dgm.nn import MLP
        >>> Generated(MLP(3 + 2, 5), noise_features=2)(torch.zeros(4, 3)).sample().shape
        torch.Size([4, 5])
    """

    def __init__(
        self, net: nn.Module, event_dim: int = 1, noise_features: int = 0, scorer: Scorer | None = None
    ) -> None:
        super().__init__()
        self.net = check_net(net, "Generated")
        self.event_dim = check_size("event_dim", event_dim)
        self.noise_features = 0 if noise_features == 0 else check_size("noise_features", noise_features)
        self.scorer = scorer

    @property
    def scores_any_point(self) -> bool:
        """Whether there is a scorer."""
        return self.scorer is not None

    def forward(self, *context: Tensor) -> Implicit:
        """Returns the draw, as a distribution."""
        inputs = context
        if self.noise_features:
            like = context[0]
            inputs = (
                *context,
                torch.randn(*like.shape[:-1], self.noise_features, dtype=like.dtype, device=like.device),
            )
        value = self.net(*inputs)
        return Implicit(value, self.event_dim, None if self.scorer is None else self.scorer(value))
