r"""Bounds on the log evidence as pure functions of importance weights.

Every function takes log-weights :math:`\log w_k = \log p(x, z_k) - \log q(z_k | x)` of shape (K, B), K draws for each
of B data, and returns one value per datum, of shape (B,), in nats. What is said of a bound's direction holds for its
expectation over the draws.
"""

__all__ = ["ciwae", "cubo", "elbo", "iwae", "miwae", "renyi", "tvo", "vr_max"]

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor


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
    return _log_mean_exp(log_weights)


def miwae(log_weights: Tensor, num_groups: int) -> Tensor:
    r"""Multiply importance-weighted bound: the mean over M groups of the bound of K / M draws each, in nats.

    A lower bound on the log evidence, as tight as ``iwae`` with K / M draws, and less noisy: M = K is the ELBO, M = 1
    the IWAE bound.

    References:
        Rainforth et al. (2018), Tighter Variational Bounds are Not Necessarily Better, section 4.1, arXiv:1802.04537.

    Arguments:
        log_weights: log p(x, z_k) - log q(z_k | x), of shape (K, B).
        num_groups: number M of groups, a divisor of K.

    Returns:
        One bound per datum, of shape (B,). Larger is better.

    Raises:
        ValueError: K is not a multiple of M.

    Example:
        >>> import torch
        >>> miwae(torch.zeros(6, 1), num_groups=3)
        tensor([0.])
    """
    num_particles = log_weights.shape[0]
    if num_groups < 1 or num_particles % num_groups:
        raise ValueError(
            f"num_groups must divide the {num_particles} particles; got {num_groups}. Choose a divisor, such as 1."
        )
    return _log_mean_exp(log_weights.unflatten(0, (num_groups, -1)), dim=1).mean(dim=0)


def ciwae(log_weights: Tensor, beta: float) -> Tensor:
    r"""Combination of the two: :math:`\beta \, \mathrm{elbo} + (1 - \beta) \, \mathrm{iwae}`, in nats.

    A lower bound on the log evidence; beta trades the tightness of IWAE for the ELBO's steadier gradient.

    References:
        Rainforth et al. (2018), section 4.2, arXiv:1802.04537.

    Arguments:
        log_weights: log p(x, z_k) - log q(z_k | x), of shape (K, B).
        beta: weight of the ELBO, in [0, 1].

    Returns:
        One bound per datum, of shape (B,). Larger is better.

    Raises:
        ValueError: beta is outside [0, 1].

    Example:
        >>> import torch
        >>> ciwae(torch.zeros(2, 1), beta=0.5)
        tensor([0.])
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie in [0, 1]; got {beta}. 0 is IWAE, 1 is the ELBO.")
    return beta * elbo(log_weights) + (1 - beta) * iwae(log_weights)


def renyi(log_weights: Tensor, alpha: float) -> Tensor:
    r"""Variational Renyi bound :math:`\frac{1}{1 - \alpha} \log \frac{1}{K} \sum_k w_k^{1 - \alpha}`, in nats.

    As K grows, a lower bound on the log evidence for alpha > 0, the log evidence itself for alpha = 0 (this is
    ``iwae``), and an upper bound for alpha < 0. With few draws the estimate is biased towards the ELBO, which it is for
    alpha = 1, so that for alpha < 0 it may lie on either side. Minus infinity gives ``vr_max``.

    References:
        Li and Turner (2016), Renyi Divergence Variational Inference, equations 9 and 13, arXiv:1602.02311.

    Arguments:
        log_weights: log p(x, z_k) - log q(z_k | x), of shape (K, B).
        alpha: any real number, or minus infinity.

    Returns:
        One bound per datum, of shape (B,). Larger is better.

    Raises:
        ValueError: alpha is NaN or plus infinity.

    Example:
        >>> import torch
        >>> renyi(torch.zeros(2, 1), alpha=0.5)
        tensor([0.])
    """
    if math.isnan(alpha) or alpha == math.inf:
        raise ValueError(f"alpha must be a real number or minus infinity; got {alpha}. 0 is IWAE, 1 the ELBO.")
    if alpha == -math.inf:
        return vr_max(log_weights)
    if abs(1 - alpha) < 1e-6:  # the limit; nearer to it, rounding in the logarithm would be divided by almost nothing
        return elbo(log_weights)
    return _log_mean_exp((1 - alpha) * log_weights) / (1 - alpha)


def vr_max(log_weights: Tensor) -> Tensor:
    r"""The largest log-weight, :math:`\max_k \log w_k`, in nats: the Renyi bound for alpha to minus infinity.

    No bound: it grows with K without limit wherever the weights are unbounded. It trains on the best draw alone, which
    makes a step as cheap as one of K = 1.

    References:
        Li and Turner (2016), section 4.2, arXiv:1602.02311.

    Arguments:
        log_weights: log p(x, z_k) - log q(z_k | x), of shape (K, B).

    Returns:
        One value per datum, of shape (B,).

    Example:
        >>> import torch
        >>> vr_max(torch.tensor([[0.0], [2.0]]))
        tensor([2.])
    """
    return log_weights.amax(dim=0)


def cubo(log_weights: Tensor, order: float = 2.0) -> Tensor:
    r"""Chi upper bound :math:`\frac{1}{n} \log \frac{1}{K} \sum_k w_k^n`, in nats. Smaller is better.

    As K grows, an upper bound on the log evidence; with few draws the estimate is biased downwards, and may lie below
    it. It is the Renyi bound for alpha = 1 - n.

    References:
        Dieng, Tran, Ranganath, Paisley and Blei (2017), Variational Inference via Chi Upper Bound Minimization,
        equation 3, arXiv:1611.00328.

    Arguments:
        log_weights: log p(x, z_k) - log q(z_k | x), of shape (K, B).
        order: n, at least 1.

    Returns:
        One bound per datum, of shape (B,). Smaller is better.

    Raises:
        ValueError: the order is below 1.

    Example:
        >>> import torch
        >>> cubo(torch.zeros(2, 1))
        tensor([0.])
    """
    if not 1 <= order < math.inf:
        raise ValueError(f"order must be a number of at least 1; got {order}. 2 gives the chi-square divergence.")
    return _log_mean_exp(order * log_weights) / order


def tvo(log_weights: Tensor, betas: Sequence[float]) -> Tensor:
    r"""Thermodynamic variational objective: a left Riemann sum of :math:`\int_0^1 E_{\pi_\beta}[\log w] \, d\beta`.

    The integral over the path :math:`\pi_\beta \propto q^{1 - \beta} p^\beta` is the log evidence, its integrand grows
    with beta, so the sum is a lower bound as K grows; with betas = [0] it is the ELBO. Expectations under
    :math:`\pi_\beta` are self-normalised with weights :math:`w^\beta`, which is biased for finite K.

    References:
        Masrani, Le and Wood (2019), The Thermodynamic Variational Objective, equations 8 and 10, arXiv:1907.00031.

    Arguments:
        log_weights: log p(x, z_k) - log q(z_k | x), of shape (K, B).
        betas: left ends of the intervals, increasing from 0 and below 1.

    Returns:
        One bound per datum, of shape (B,). Larger is better.

    Raises:
        ValueError: the betas do not increase from 0 to below 1.

    Example:
        >>> import torch
        >>> tvo(torch.tensor([[0.0], [2.0]]), betas=[0.0])
        tensor([1.])
    """
    ends = [*betas, 1.0]
    if ends[0] != 0 or any(not left < right for left, right in pairwise(ends)):
        raise ValueError(f"betas must increase from 0 and stay below 1; got {list(betas)}. [0.0] is the ELBO.")
    beta = log_weights.new_tensor(ends)
    weights = (beta[:-1, None, None] * log_weights).softmax(dim=1)  # (S, K, B)
    integrand = (weights * log_weights).sum(dim=1)  # (S, B)
    return (beta.diff()[:, None] * integrand).sum(dim=0)


def _log_mean_exp(values: Tensor, dim: int = 0) -> Tensor:
    return values.logsumexp(dim=dim) - math.log(values.shape[dim])
