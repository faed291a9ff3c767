"""Networks, densities and bounds in plain torch."""

__all__ = ["dense", "draw_normal", "iwae", "log_bernoulli", "log_normal", "vimco"]

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


def dense(*sizes: int) -> nn.Sequential:
    """Linear layers with tanh between them."""
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        layers += [nn.Linear(sizes[i], sizes[i + 1]), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def draw_normal(loc: Tensor, scale: Tensor, *particles: int) -> Tensor:
    """A reparameterised draw, with the noise that Pyro's would have."""
    return loc + scale * torch.randn((*particles, *loc.shape))


def log_normal(z: Tensor, loc: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Tensor:
    """Log-density, element by element."""
    log_scale = scale.log() if isinstance(scale, Tensor) else math.log(scale)
    return -0.5 * ((z - loc) / scale) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Log-probability, element by element."""
    logits, x = torch.broadcast_tensors(logits, x)
    return -binary_cross_entropy_with_logits(logits, x, reduction="none")


def iwae(log_weights: Tensor) -> Tensor:
    """The bound of each datum, (B,), of log-weights (K, B)."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def vimco(log_w: Tensor) -> Tensor:
    """The bound less the bound with a particle's log-weight replaced by the mean of the others', (K, B)."""
    num = len(log_w)
    others = (log_w.sum(0) - log_w) / (num - 1)
    replaced = torch.where(torch.eye(num, dtype=torch.bool).unsqueeze(-1), others, log_w)  # (K, K, B)
    return iwae(log_w) - (replaced.logsumexp(1) - math.log(num))
