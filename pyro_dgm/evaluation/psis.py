r"""Pareto-smoothed importance sampling: can these importance weights be trusted?

The largest importance weights are fitted by a generalised Pareto distribution, whose shape k says how many moments the
weights have. Below 0.5 the variance of the importance-sampling estimate is finite; up to 0.7 the estimate is still of
use with a practical number of draws; above, its error is not to be trusted, and above 1 not even its mean exists.
Asymptotically k is a property of the guide and the datum, not of the number of draws.

References:
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto Smoothed Importance Sampling, arXiv:1507.02646.
    Zhang and Stephens (2009), A New and Efficient Estimation Method for the Generalized Pareto Distribution,
    Technometrics 51(3).
"""

__all__ = ["PSIS", "pareto_k", "pareto_k_from_tail", "psis", "tail_size"]

import math
from typing import NamedTuple

import torch
from torch import Tensor

FEWEST_TO_FIT = 5
PRIOR_SHAPE, PRIOR_DRAWS = 0.5, 10
LOG_TINY = math.log(torch.finfo(torch.float64).tiny)


class PSIS(NamedTuple):
    """Smoothed log-weights, of shape (K, B) and on the scale of those given, and Pareto k, of shape (B,)."""

    log_weights: Tensor
    pareto_k: Tensor


def tail_size(num_particles: int) -> int:
    r"""The number of largest weights that the Pareto distribution is fitted to.

    :math:`M = \lceil \min(K / 5, 3 \sqrt{K}) \rceil`, and at most K - 1, since one more weight serves as the threshold.

    Arguments:
        num_particles: K, the number of draws per datum.

    Returns:
        M, as in ArviZ 0.x (ArviZ 1.x rounds down).

    >>> [tail_size(K) for K in (1, 20, 100, 1000, 5000)]
    [0, 4, 20, 95, 213]
    """
    if num_particles < 1:
        raise ValueError(
            f"num_particles must be at least 1; got {num_particles}. Draw some log-weights of shape (K, B)."
        )
    return min(math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles))), num_particles - 1)


@torch.no_grad()
def psis(log_weights: Tensor) -> PSIS:
    r"""Pareto-smoothed importance weights.

    The M largest weights are replaced by the expected order statistics of the Pareto distribution fitted to them, cut
    at the largest raw weight. The smoothed weights are not normalised: `log_weights.logsumexp(0) - log(K)` is the
    smoothed estimate of the log evidence in nats (biased, and with far less variance when k is large), and
    `log_weights.softmax(0)` are the weights of a posterior expectation.

    Arguments:
        log_weights: log p(x, z_k) - log q(z_k | x), of shape (K, B).

    Returns:
        The smoothed log-weights, of shape (K, B), and the Pareto k of each datum as in `pareto_k`. A datum whose k is
        infinite keeps its raw weights.

    Raises:
        ValueError: if the log-weights are not of shape (K, B), or contain NaN or positive infinity.
    """
    _check(log_weights, "log_weights", "(K, B)")
    ordered, ranks = log_weights.double().sort(dim=0)
    tail, k = _smooth(ordered[-tail_size(len(log_weights)) - 1 :])
    ordered = torch.cat([ordered[: -len(tail)], tail])
    return PSIS(torch.empty_like(log_weights).scatter_(0, ranks, ordered.to(log_weights)), k.to(log_weights))


@torch.no_grad()
def pareto_k(log_weights: Tensor) -> Tensor:
    """Pareto k of the importance weights of each datum.

    Below 0.7 importance sampling works. The fit pulls k towards 0.5 with the weight of ten draws.

    Two values are not fits. Negative infinity: the M + 1 largest weights are equal (an exact guide, say), so the
    weights are bounded. Positive infinity: fewer than five weights exceed the threshold, because K <= 20 or because
    of ties or zero weights, so nothing is known and nothing is to be trusted. (ArviZ 0.x says positive infinity in
    both cases, 1.x raises.)

    Arguments:
        log_weights: log p(x, z_k) - log q(z_k | x), of shape (K, B). Constants per datum do not matter.

    Returns:
        k, of shape (B,).

    Raises:
        ValueError: if the log-weights are not of shape (K, B), or contain NaN or positive infinity.
    """
    _check(log_weights, "log_weights", "(K, B)")
    num_particles = log_weights.shape[0]
    return pareto_k_from_tail(log_weights.topk(tail_size(num_particles) + 1, dim=0).values, num_particles)


@torch.no_grad()
def pareto_k_from_tail(tail: Tensor, num_particles: int) -> Tensor:
    """Pareto k from the largest log-weights alone, as a running estimate with bounded memory keeps them.

    Arguments:
        tail: the `tail_size(num_particles) + 1` largest log-weights of each datum in any order, of shape (M + 1, B).
        num_particles: K, the number of draws that they are the largest of.

    Returns:
        k as in `pareto_k`, of shape (B,).

    Raises:
        ValueError: if the tail is not of shape (M + 1, B), or contains NaN or positive infinity.
    """
    _check(tail, "tail", "(M + 1, B)")
    rows = tail_size(num_particles) + 1
    if len(tail) != rows:
        raise ValueError(
            f"the tail of {num_particles} particles must hold the {rows} largest log-weights; got {len(tail)}. "
            f"Keep log_weights.topk(tail_size({num_particles}) + 1, dim=0).values."
        )
    return _smooth(tail.double().sort(dim=0).values)[1].to(tail)


def _check(log_weights: Tensor, name: str, shape: str) -> None:
    if log_weights.dim() != 2 or not len(log_weights):
        raise ValueError(
            f"{name} must be of shape {shape}; got {tuple(log_weights.shape)}. "
            "For a single datum add a dimension: log_weights[:, None]."
        )
    bad = (log_weights.isnan() | log_weights.isposinf()).any(dim=0).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"{name} must not contain NaN or positive infinity; got them in {len(bad)} data, first {bad[:5]}. "
            "Look for a log-density that overflows there."
        )


def _smooth(tail: Tensor) -> PSIS:
    """Fits and smooths the M largest of M + 1 ascending log-weights, each datum by itself."""
    top = tail[-1]
    threshold = (tail[0] - top).clamp(min=LOG_TINY)  # (B,)
    counts = (tail - top > threshold).sum(dim=0)  # fewer than M with ties or vanishing weights
    flat = (tail[0] == top) & top.isfinite() & (len(tail) > FEWEST_TO_FIT)
    k = torch.where(flat, -math.inf, math.inf).to(tail)
    smoothed = tail.clone()
    for count in counts.unique().tolist():
        if count < FEWEST_TO_FIT:
            continue
        rows = (counts == count).nonzero().flatten()
        floor = threshold[rows]
        # expm1 keeps the digits that the difference of two weights near one would lose.
        excess = floor.exp() * torch.expm1(tail[-count:, rows] - top[rows] - floor)  # (count, rows)
        shape, scale = _fit(excess)
        k[rows] = shape
        quantiles = _quantiles(count, shape, scale) + floor.exp()
        log_quantiles = quantiles.log().clamp(max=0) + top[rows]
        smoothed[-count:, rows] = torch.where(shape.isfinite(), log_quantiles, tail[-count:, rows])
    return PSIS(smoothed, k)


def _fit(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale of the generalised Pareto distribution, from ascending draws of shape (n, B).

    The posterior mean of Zhang and Stephens over their grid of b = -shape / scale, with the scale profiled out; then
    the shape is pulled towards 0.5, the weak prior of Vehtari et al. (2024).
    """
    n = len(excess)
    size = 30 + math.isqrt(n)
    steps = torch.arange(1, size + 1).to(excess) - 0.5
    quartile = excess[int(n / 4 + 0.5) - 1]
    grid = (1 - (size / steps).sqrt())[:, None] / (3 * quartile) + 1 / excess[-1]  # (size, B)
    profile = torch.stack([_profile_log_likelihood(b, excess) for b in grid])
    b = (profile.softmax(dim=0) * grid).sum(dim=0)
    shape, scale = _shape_and_scale(b, excess)
    shape = (n * shape + PRIOR_DRAWS * PRIOR_SHAPE) / (n + PRIOR_DRAWS)
    return shape.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf), scale


def _profile_log_likelihood(b: Tensor, excess: Tensor) -> Tensor:
    shape, scale = _shape_and_scale(b, excess)
    return -len(excess) * (scale.log() + shape + 1)


def _shape_and_scale(b: Tensor, excess: Tensor) -> tuple[Tensor, Tensor]:
    """The best shape for a given b, and the scale that goes with it; b = 0 is the exponential distribution."""
    shape = torch.log1p(-b * excess).mean(dim=0)
    return shape, torch.where(b == 0, excess.mean(dim=0), -shape / b)


def _quantiles(n: int, shape: Tensor, scale: Tensor) -> Tensor:
    """The (i - 1/2) / n quantiles of generalised Pareto distributions, of shape (n, B)."""
    levels = (torch.arange(n).to(shape) + 0.5)[:, None] / n
    exponential = -torch.log1p(-levels)
    pareto = torch.expm1(shape * exponential) / shape
    return scale * torch.where(shape == 0, exponential, pareto)
