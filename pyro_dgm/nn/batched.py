"""Any number of leading dimensions, for a network that knows only one."""

__all__ = ["Batched"]

from torch import Tensor, nn


class Batched(nn.Module):
    """Gives a network any number of leading dimensions.

    Particles, plates and time all add dimensions on the left, and a convolution accepts only one. The leading
    dimensions are folded into one, the network runs, and they are unfolded again.

    Arguments:
        net: a network over inputs of shape (N, *event), N being the only batch dimension.
        event_dim: how many dimensions on the right make up one input: 1 for a vector, 3 for an image (C, H, W).

    Raises:
        ValueError: an input has fewer than ``event_dim`` dimensions.

    Example:
        >>> import torch
        >>> net = Batched(torch.nn.Conv2d(1, 4, kernel_size=3), event_dim=3)
        >>> net(torch.zeros(5, 2, 1, 8, 8)).shape
        torch.Size([5, 2, 4, 6, 6])
    """

    def __init__(self, net: nn.Module, event_dim: int) -> None:
        super().__init__()
        if isinstance(event_dim, bool) or not isinstance(event_dim, int) or event_dim < 1:
            raise ValueError(
                f"event_dim must be a positive integer; got {event_dim!r}. It is 1 for vectors and 3 for images."
            )
        self.net = net
        self.event_dim = event_dim

    def forward(self, x: Tensor) -> Tensor:
        """Maps x of shape (*batch, *event) to (*batch, *out)."""
        if x.dim() < self.event_dim:
            raise ValueError(
                f"one input of this network has {self.event_dim} dimensions; got a tensor of shape "
                f"{tuple(x.shape)}. Add the missing dimensions, for an image (channels, height, width)."
            )
        split = x.dim() - self.event_dim
        batch, event = x.shape[:split], x.shape[split:]
        y = self.net(x.reshape(-1, *event))
        return y.reshape(*batch, *y.shape[1:])

    def extra_repr(self) -> str:
        """Shows ``event_dim``."""
        return f"event_dim={self.event_dim}"
