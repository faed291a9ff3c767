"""A conditional distribution of the features that an encoder makes of its context."""

__all__ = ["Encoded"]

from typing import final

from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm.distributions.conditional import ConditionalDistribution, check_conditional, check_net


@final
class Encoded(ConditionalDistribution):
    """Puts a network before a conditional distribution, which is then given the network's features.

    So a flow and its base share an encoder that is evaluated once.

    Arguments:
        net: maps the context to features, (*batch, H).
        conditional: given the features.

    Raises:
        TypeError: net is no module, or conditional no conditional distribution.

    Example:
        >>> import torch
        >>> from pyro_dgm.distributions import DiagonalNormal, Flow, transforms
        >>> flow = Flow(DiagonalNormal(nn.Linear(200, 2 * 5)), transforms.stack("iaf", 2, 5, 200))
        >>> Encoded(nn.Linear(784, 200), flow)(torch.zeros(8, 784)).event_shape
        torch.Size([5])
    """

    def __init__(self, net: nn.Module, conditional: ConditionalDistribution) -> None:
        super().__init__()
        self.net = check_net(net, "Encoded")
        self.conditional = check_conditional(conditional, "what is given an encoder's features")

    @property
    def scores_any_point(self) -> bool:
        """Whether the conditional distribution does."""
        return self.conditional.scores_any_point

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the conditional distribution given the features of the context."""
        return self.conditional(self.net(*context))

    def check_data(self, x: Tensor) -> None:
        """Raises what the conditional distribution raises."""
        self.conditional.check_data(x)
