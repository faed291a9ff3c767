"""Bounds on the log evidence as pure functions of importance weights."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["elbo", "iwae"]


def elbo(log_weights: Tensor) -> Tensor:
    r"""Evidence lower bound :math:`\frac{1}{K} \sum_k \log w_k`, in nats.

    An unbiased estimate of a lower bound on the log evidence; K only lowers its variance.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, equation 2, arXiv:1312.6114.

    Arguments:
        log_weights: log p(x, z_k) - log q(z_k | x), of shape (K, B).

    Returns:
        One bound per datum, of shape (B,). Larger is better.

    Example:
        >>> import torch
        >>> elbo(torch.tensor([[0.0], [2.0]]))
        tensor([1.])
    """
    return log_weights.mean(dim=0)


def iwae(log_weights: Tensor) -> Tensor:
    r"""Importance-weighted bound :math:`\log \frac{1}{K} \sum_k w_k`, in nats.

    A lower bound on the log evidence in expectation; it tightens as K grows, and for K = 1 it is the ELBO.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, equation 8, arXiv:1509.00519.

    Arguments:
        log_weights: log p(x, z_k) - log q(z_k | x), of shape (K, B).

    Returns:
        One bound per datum, of shape (B,). Larger is better.

    Example:
        >>> import torch
        >>> iwae(torch.tensor([[0.0], [0.0]]))
        tensor([0.])
    """
    return log_weights.logsumexp(dim=0) - math.log(log_weights.shape[0])
