"""What a score-function gradient subtracts from its learning signal."""

__all__ = ["Baseline"]

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from pyro_dgm.nn import LocalModule


@final
class Baseline(LocalModule):
    r"""A baseline that does not know the draw: the signal's running mean and, if given, a network of the data.

    The centred signal is :math:`f - c - b(x)`, with c a moving average over earlier batches, which a single number
    holds, so that batches may have any size. The network is trained by least squares to predict what it is subtracted
    from; its parameters are announced to SVI with the programs' own. Subtracting it leaves the gradient unbiased.
    ``normalize`` also divides the signal by its moving standard deviation where that is above 1, which shortens the
    guide's gradient and is a bias in its length. Latents of no datum (globals) have a moving average of their own.

    References:
        Mnih and Gregor (2014), Neural Variational Inference and Learning in Belief Networks, section 2.3 and
        algorithm 1, arXiv:1402.0030.

    Arguments:
        net: called with the programs' positional arguments, gives one number per datum, (B,) or (B, 1); or None.
        decay: how much of the moving averages is kept at each step, in [0, 1).
        normalize: divide by the moving standard deviation.

    Raises:
        ValueError: the decay is out of range.
    """

    def __init__(self, net: nn.Module | None = None, decay: float = 0.9, normalize: bool = False) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1); got {decay}. 0.9 is a good start.")
        self.net = net
        self.normalize = normalize
        self.local = _Moments(decay)
        self.outer = _Moments(decay)

    def forward(self, signal: Tensor, args: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Centres a signal, and takes it into the moving averages afterwards.

        Arguments:
            signal: the bound of each datum, (B,), without gradient.
            args: the programs' positional arguments.

        Returns:
            The centred signal without gradient, (B,), and the network's squared error summed over the data, a scalar.
        """
        centred = signal - self.local.center.to(signal)
        error = signal.new_zeros(())
        if self.net is not None:
            predicted = self.net(*args).reshape(signal.shape)
            error = (centred - predicted).square().sum()
            centred = centred - predicted.detach()
        deviation = self._deviation(self.local, signal)
        self.local.remember(signal)
        return centred / deviation, error

    def of_globals(self, signal: Tensor) -> Tensor:
        """Centres the signal of latents of no datum, (K,), and takes it into their moving averages afterwards."""
        centred = (signal - self.outer.center.to(signal)) / self._deviation(self.outer, signal)
        self.outer.remember(signal)
        return centred

    def _deviation(self, moments: "_Moments", signal: Tensor) -> Tensor:
        return moments.spread.sqrt().clamp(min=1.0).to(signal) if self.normalize else signal.new_ones(())


@final
class _Moments(LocalModule):
    """The moving mean and variance of a signal."""

    center: Tensor
    spread: Tensor
    is_new: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("center", torch.tensor(0.0))
        self.register_buffer("spread", torch.tensor(0.0))
        self.register_buffer("is_new", torch.tensor(True))

    def remember(self, signal: Tensor) -> None:
        """Takes a signal into the averages, unless it is not finite: then it belongs to a step not to be taken."""
        with torch.no_grad():
            mean, variance = signal.mean().to(self.center), signal.var(correction=0).to(self.spread)
            is_fine = mean.isfinite() & variance.isfinite()
            for average, new in ((self.center, mean), (self.spread, variance)):
                moved = torch.where(self.is_new, new, torch.lerp(new, average, self.decay))
                average.copy_(torch.where(is_fine, moved, average))
            self.is_new.logical_and_(~is_fine)
