"""Normal distributions whose parameters a network gives."""

__all__ = ["DiagonalNormal", "FullNormal", "LowRankNormal", "LowRankNormalDistribution", "Normal"]

import math
from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm.distributions.conditional import (
    ConditionalDistribution,
    check_count,
    check_event_dim,
    check_net,
    split_parameters,
)


@final
class DiagonalNormal(ConditionalDistribution):
    r"""A normal with diagonal covariance, :math:`N(\mu, \mathrm{diag}(\sigma^2))`, over vectors of d features.

    The network gives :math:`(\mu, \log\sigma)`, side by side in its last dimension.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, appendix C.2, arXiv:1312.6114.

    Arguments:
        net: maps the context to (*batch, 2 d).

    Raises:
        ValueError: at the call, when the network's output has an odd length.

    Example:
        >>> from pyro_dgm.nn import MLP
        >>> q = DiagonalNormal(MLP(784, DiagonalNormal.num_parameters(50)))
        >>> q(torch.zeros(8, 784)).event_shape
        torch.Size([50])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = check_net(net, "DiagonalNormal")

    @staticmethod
    def num_parameters(features: int) -> int:
        """Length of the network's output for d = ``features``."""
        return 2 * features

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the normal of batch shape (*batch,) and event shape (d,)."""
        loc, log_scale = split_parameters(self.net(*context), 2, -1, "DiagonalNormal")
        return dist.Normal(loc, log_scale.exp()).to_event(1)


@final
class FullNormal(ConditionalDistribution):
    r"""A normal with full covariance, :math:`N(\mu, L L^\top)`, over vectors of d features.

    The network gives :math:`\mu`, :math:`\log \mathrm{diag}(L)` and the strictly lower triangle of :math:`L` row by
    row. The log-determinant is the sum of the diagonal's logarithms, so the density costs what the diagonal case
    does plus one triangular solve.

    References:
        Kingma and Welling (2019), An Introduction to Variational Autoencoders, section 2.5.1, arXiv:1906.02691.

    Arguments:
        net: maps the context to (*batch, d (d + 3) / 2).

    Raises:
        ValueError: at the call, when no d fits the length of the network's output.

    Example:
        >>> from pyro_dgm.nn import MLP
        >>> q = FullNormal(MLP(784, FullNormal.num_parameters(50)))
        >>> q(torch.zeros(8, 784)).event_shape
        torch.Size([50])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = check_net(net, "FullNormal")

    @staticmethod
    def num_parameters(features: int) -> int:
        """Length of the network's output for d = ``features``."""
        return features * (features + 3) // 2

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the normal of batch shape (*batch,) and event shape (d,)."""
        parameters = self.net(*context)
        features = self._features(parameters)
        loc, log_diagonal, lower = parameters.split([features, features, features * (features - 1) // 2], dim=-1)
        scale_tril = torch.diag_embed(log_diagonal.exp())
        row, column = torch.tril_indices(features, features, offset=-1, device=parameters.device)
        scale_tril[..., row, column] = lower
        # Lower triangular with a positive diagonal by construction; checking it again would cost more than using it.
        return dist.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)

    def _features(self, parameters: Tensor) -> int:
        length = parameters.shape[-1] if parameters.dim() else 0
        features = (math.isqrt(9 + 8 * length) - 3) // 2
        if features < 1 or self.num_parameters(features) != length:
            raise ValueError(
                "FullNormal reads d (d + 3) / 2 parameters for d features; got a network output of shape "
                f"{tuple(parameters.shape)}. Size the network with FullNormal.num_parameters(d)."
            )
        return features


@final
class LowRankNormalDistribution(dist.LowRankMultivariateNormal):
    r"""Pyro's normal with covariance :math:`W W^\top + D`, its density also right where D is small.

    Torch takes the squared distance as the difference of two large numbers, which in float32 costs 0.1 nats at
    standard deviations of 0.01 and 25 nats at 0.001 (ten features, :math:`W` of order one). Here it is the minimum over
    the factors m of a sum of squares, which is the same number:

    .. math:: r^\top (W W^\top + D)^{-1} r = \min_m \; (r - W m)^\top D^{-1} (r - W m) + m^\top m.

    Arguments:
        loc: mean, (*batch, d).
        cov_factor: W, (*batch, d, rank).
        cov_diag: the diagonal of D, (*batch, d).
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        factor, diagonal = self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag
        r = (value - self.loc).unsqueeze(-1)  # (*, d, 1)
        m = torch.cholesky_solve((factor / diagonal.unsqueeze(-1)).mT @ r, self._capacitance_tril)  # (*, rank, 1)
        rest = (r - factor @ m).squeeze(-1)
        distance = (rest.square() / diagonal).sum(-1) + m.squeeze(-1).square().sum(-1)
        half_log_det = self._capacitance_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * diagonal.log().sum(-1)
        return -0.5 * distance - half_log_det - 0.5 * math.log(2 * math.pi) * self.event_shape[0]


@final
class LowRankNormal(ConditionalDistribution):
    r"""A normal with low-rank plus diagonal covariance, :math:`N(\mu, W W^\top + \mathrm{diag}(\sigma^2))`.

    Between the diagonal and the full covariance: W has d rows and ``rank`` columns. The network gives :math:`\mu`,
    :math:`\log\sigma` and W row by row; where W is 0 it is the diagonal normal. The cost of a density is that of the
    diagonal case times the rank, plus rank cubed. The KL to a prior is estimated from draws, unless the prior is
    multivariate normal, low-rank or full.

    References:
        Rezende, Mohamed and Wierstra (2014), Stochastic Backpropagation, arXiv:1401.4082 (of rank one); Ong,
        Nott and Smith (2018), Gaussian Variational Approximation with a Factor Covariance Structure,
        arXiv:1701.03208.

    Arguments:
        net: maps the context to (*batch, d (2 + rank)).
        rank: columns of W, at least 1.

    Raises:
        TypeError: net is no module.
        ValueError: rank is not a positive integer; at the call, when the length of the network's output is no multiple
            of 2 + rank.

    Example:
        >>> from pyro_dgm.nn import MLP
        >>> q = LowRankNormal(MLP(784, LowRankNormal.num_parameters(50, rank=3)), rank=3)
        >>> q(torch.zeros(8, 784)).event_shape
        torch.Size([50])
    """

    def __init__(self, net: nn.Module, rank: int) -> None:
        super().__init__()
        self.net = check_net(net, "LowRankNormal")
        self.rank = check_count("the rank of LowRankNormal", rank, 1, "Rank 0 is DiagonalNormal.")

    @staticmethod
    def num_parameters(features: int, rank: int) -> int:
        """Length of the network's output for d = ``features``."""
        return features * (2 + rank)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the normal of batch shape (*batch,) and event shape (d,)."""
        parts = split_parameters(self.net(*context), 2 + self.rank, -1, f"LowRankNormal of rank {self.rank}")
        loc, log_scale = parts[:2]
        factor = torch.cat(parts[2:], dim=-1).unflatten(-1, (-1, self.rank))
        return LowRankNormalDistribution(loc, factor, (2 * log_scale).exp())


@final
class Normal(ConditionalDistribution):
    r"""A normal likelihood over vectors or images, :math:`N(\mu(c), \sigma^2)`, with one of three scales.

    A fixed scale sets by hand how reconstruction is weighed against the KL; a learned one finds the weight by
    maximum likelihood; a predicted one does so for every element of every datum, and can overfit to a density
    without bound where data repeat exactly.

    References:
        Rybkin, Daniilidis and Levine (2021), Simple and Effective VAE Training with Calibrated Decoders,
        arXiv:2006.13202.

    Arguments:
        net: maps the context to (*batch, *event); with ``scale="predicted"`` the first event dimension is twice as
            long and holds :math:`(\mu, \log\sigma)`.
        event_dim: dimensions of one datum: 1 for vectors, 3 for images.
        scale: a positive number, ``"learned"`` (one for all elements) or ``"predicted"``.

    Raises:
        ValueError: the scale is neither of these.
    """

    def __init__(self, net: nn.Module, event_dim: int = 1, scale: float | str = 1.0) -> None:
        super().__init__()
        self.net = check_net(net, "Normal")
        self.event_dim = check_event_dim(event_dim, 1)
        self.predicted = scale == "predicted"
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))
        elif not self.predicted:
            self.register_buffer("log_scale", torch.tensor(math.log(_positive_scale(scale))))

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the normal of batch shape (*batch,) and event shape (*event,)."""
        parameters = self.net(*context)
        if self.predicted:
            loc, log_scale = split_parameters(parameters, 2, -self.event_dim, "Normal with a predicted scale")
        else:
            loc, log_scale = parameters, self.log_scale
        return dist.Normal(loc, log_scale.exp()).to_event(self.event_dim)


def _positive_scale(scale: float | str) -> float:
    if isinstance(scale, str) or not 0 < scale < math.inf:
        raise ValueError(
            f"scale must be a positive number, 'learned' or 'predicted'; got {scale!r}. The classical choice is 1.0."
        )
    return scale
