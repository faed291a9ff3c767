r"""How many different things a generator makes: near-duplicates in small batches, as in the birthday paradox."""

__all__ = ["BirthdayParadox", "birthday_paradox", "birthday_probability", "support_size"]

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_dgm.distributions.conditional import check_count
from pyro_dgm.evaluation.batching import Estimate
from pyro_dgm.evaluation.vectors import check_number, check_vectors


class BirthdayParadox(NamedTuple):
    """Duplicates within batches of s draws, and what they say of the number of different draws.

    Arguments:
        probability: share of the batches that hold a duplicate, with its standard error, which is 0, and says
            nothing, where none or all do; NaN without a threshold.
        support_size: number of equally likely things that would give such a share. Things that are not equally likely
            meet more often, so the true number is larger. Infinite if no batch holds a duplicate (take larger ones),
            0 if all do (take smaller ones), NaN without a threshold.
        pairs: the nearest two draws of each batch, by their number among the samples, (num_batches, 2): look at them.
        distances: how far apart they are, in units of the features, (num_batches,).
        batch_size: s.
    """

    probability: Estimate
    support_size: float
    pairs: Tensor
    distances: Tensor
    batch_size: int


@torch.no_grad()
def birthday_paradox(
    samples: Tensor,
    batch_size: int,
    threshold: float | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    num_batches: int | None = None,
) -> BirthdayParadox:
    r"""Looks for near-duplicates in batches of independent draws, and estimates the size of the generator's support.

    If s of N equally likely things are drawn, two are the same with a probability of about one half once
    :math:`s^2 \approx 2 N \log 2`. What a duplicate is, a threshold on the distance decides; choose it by looking at
    the nearest pairs, and see that data of as many rows have none. A continuous generator has no equal draws at all:
    its "support" is the number of things that differ at that threshold.

    References:
        Arora and Zhang (2018), Do GANs Learn the Distribution? Some Theory and Empirics, arXiv:1706.08224.

    Arguments:
        samples: independent draws, (n, *event); every ``batch_size`` of them in a row are a batch.
        batch_size: number s of draws of a batch.
        threshold: the distance up to which two draws are duplicates, in units of the features; None to find the nearest
            pairs only.
        features: maps samples to vectors (n, D) to measure distances between, such as ``Classifier.features``; the
            flattened draws when None.
        num_batches: number of batches; as many as there are when None.

    Returns:
        Shares, sizes and pairs. The estimate of the support is consistent as the number of batches grows, if
        things are equally likely; its error bars are wide unless the probability is well within (0, 1).

    Raises:
        TypeError: the samples are no tensor, or the features none.
        ValueError: there are fewer samples than batches need, a value is not finite, or a number is out of range.
    """
    if not isinstance(samples, Tensor):
        raise TypeError(f"samples must be a tensor; got {type(samples).__name__}. Convert them with torch.as_tensor.")
    check_count("batch_size", batch_size, 2, "A few hundred suit a support of some ten thousand.")
    if threshold is not None:
        check_number("threshold", threshold, "Look at the nearest pairs to choose one.", positive=False)
    available = len(samples) // batch_size if samples.dim() else 0
    num = max(1, available) if num_batches is None else check_count("num_batches", num_batches, 1, "20 is usual.")
    if num > available:
        raise ValueError(
            f"there must be samples for {num} batches of {batch_size}; got {tuple(samples.shape)}. Draw more of them, "
            "or take smaller batches."
        )
    used = samples[: num * batch_size]
    vectors = _features(used, features)
    found = [_nearest_pair(batch) for batch in vectors.split(batch_size)]
    nearest = torch.stack([apart for apart, _ in found])
    pairs = torch.stack([pair + batch_size * number for number, (_, pair) in enumerate(found)])
    if threshold is None:
        return BirthdayParadox(Estimate(math.nan, math.nan), math.nan, pairs, nearest, batch_size)
    probability = Estimate.of((nearest <= threshold).double())
    return BirthdayParadox(probability, support_size(probability.mean, batch_size), pairs, nearest, batch_size)


def birthday_probability(batch_size: int, support_size: int) -> float:
    r"""The probability that s draws of N equally likely things are not all different.

    .. math:: 1 - \prod_{i=0}^{s-1} (1 - i / N).

    Arguments:
        batch_size: number s of draws.
        support_size: number N of things.

    Raises:
        ValueError: a number is below 1.

    Example:
        >>> round(birthday_probability(23, 365), 3)
        0.507
    """
    check_count("batch_size", batch_size, 1, "23 persons make one half.")
    check_count("support_size", support_size, 1, "A year has 365 days.")
    if batch_size > support_size:
        return 1.0
    return -math.expm1(math.fsum(math.log1p(-i / support_size) for i in range(batch_size)))


def support_size(probability: float, batch_size: int) -> float:
    r"""The number of equally likely things of which s draws hold a duplicate with that probability.

    :math:`N = -s (s - 1) / (2 \log(1 - p)) + (2 s - 1) / 6`, which at one half is about :math:`s^2 / (2 \log 2)`; the
    relative error is of order (s / N)^2.

    Arguments:
        probability: p, between 0 and 1; 0 gives infinity, and 1 gives 0.
        batch_size: number s of draws.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> round(support_size(0.507, 23))
        365
    """
    check_count("batch_size", batch_size, 2, "23 persons make one half.")
    check_number("probability", probability, "Give the share of the batches.", 1, positive=False)
    if probability in (0, 1):
        return math.inf if probability == 0 else 0.0
    return -batch_size * (batch_size - 1) / (2 * math.log1p(-probability)) + (2 * batch_size - 1) / 6


def _features(samples: Tensor, features: Callable[[Tensor], Tensor] | None) -> Tensor:
    found = samples.reshape(len(samples), -1) if features is None else features(samples)
    vectors = check_vectors(found, "the features of samples")
    if len(vectors) != len(samples):
        raise ValueError(
            f"features must give one row per sample; got {len(vectors)} for {len(samples)}. Keep the first dimension."
        )
    return vectors


def _nearest_pair(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The least distance between two rows, and their numbers in order."""
    apart = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    place = apart.argmin()
    return apart.flatten()[place], torch.stack([place // len(vectors), place % len(vectors)]).sort().values
