"""The networks that tasks share."""

__all__ = ["Constant", "LogCounts"]

from typing import final

import torch
from torch import Tensor, nn


@final
class Constant(nn.Module):
    """The encoder of a posterior that is the same whatever is given: a single feature, 1."""

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Ones, (B, 1)."""
        return x.new_ones(len(x), 1)


@final
class LogCounts(nn.Module):
    """A network of log(1 + x).

    Arguments:
        net: the network.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Takes counts."""
        found: Tensor = self.net(torch.log1p(x))
        return found
