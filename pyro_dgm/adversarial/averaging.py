"""A running average of a module's parameters, with buffers that fit it."""

__all__ = ["Averaged"]

import copy
from typing import final

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm


@final
class Averaged:
    r"""A copy of a module, in evaluation mode, whose parameters are exponential moving averages of the module's.

    .. math:: \bar\theta \leftarrow d_n \bar\theta + (1 - d_n) \theta, \qquad d_n = \min(d, (1 + n) / (10 + n))

    so that the first steps do not weigh for long. Buffers are no parameters and are not averaged: running statistics
    of batch norms are copied, and the vectors of spectral norms are the copy's own, which take a power iteration on its
    own weights at each update (averaged with the module's they shrink, and the weights explode).

    References:
        Karras, Aila, Laine and Lehtinen (2018), Progressive Growing of GANs, section 4, arXiv:1710.10196; Yazici et al.
        (2019), The Unusual Effectiveness of Averaging in GAN Training, arXiv:1806.04498.

    Arguments:
        module: what is averaged; it is left alone.
        decay: d, in [0, 1).

    Raises:
        ValueError: the decay is out of range.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1:
            raise ValueError(f"the decay of an average must lie in [0, 1); got {decay!r}. 0.999 is a usual choice.")
        self.module, self.decay = module, decay
        self.average = copy.deepcopy(module).requires_grad_(False).eval()

    def begin(self) -> None:
        """Starts from the module as it is now."""
        self.average.load_state_dict(self.module.state_dict())

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Takes in the module as it is now.

        Arguments:
            num_updates: n, how many updates there have been before this one.
        """
        rate = 1 - min(self.decay, (1 + num_updates) / (10 + num_updates))
        for mean, parameter in zip(self.average.parameters(), self.module.parameters(), strict=True):
            mean.lerp_(parameter, rate)
        norms = [part for part in self.average.modules() if isinstance(part, _SpectralNorm)]
        own_vectors = {id(buffer) for part in norms for buffer in part.buffers()}
        for own, new in zip(self.average.buffers(), self.module.buffers(), strict=True):
            if id(own) not in own_vectors:
                own.copy_(new)
        _iterate(self.average)


def _iterate(module: nn.Module) -> None:
    """One power iteration of every spectral norm, on the weights as they are."""
    for part in module.modules():
        if not parametrize.is_parametrized(part):
            continue
        chains = part.parametrizations
        assert isinstance(chains, nn.ModuleDict)
        for name, chain in chains.items():
            norms = [one for one in chain.children() if isinstance(one, _SpectralNorm)]
            modes = [one.training for one in norms]
            for one in norms:
                one.training = True
            if norms:
                getattr(part, name)
            for one, mode in zip(norms, modes, strict=True):
                one.training = mode
