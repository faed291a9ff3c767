r"""Precision and recall of samples: are they like the data, and are all data like them?

The set of data is taken for the union of balls around them, each as large as the distance to its k-th nearest
neighbour.
"""

__all__ = ["PrecisionRecall", "expected_coverage", "precision_recall"]

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_dgm.distributions.conditional import check_count
from pyro_dgm.evaluation.vectors import check_pair, distances


class PrecisionRecall(NamedTuple):
    """How samples and data lie to each other, as shares in [0, 1] (density may exceed 1).

    Arguments:
        precision: share of the samples within the ball of a datum: fidelity. One outlier among the data can raise it.
        recall: share of the data within the ball of a sample: diversity. Scattered samples can raise it.
        density: how many balls of data a sample lies in, over k: fidelity, less ruled by outliers. Its expectation is 1
            if both have the same distribution.
        coverage: share of the balls of data that hold a sample: diversity. `expected_coverage` if both have the same
            distribution.
    """

    precision: float
    recall: float
    density: float
    coverage: float


@torch.no_grad()
def precision_recall(real: Tensor, fake: Tensor, k: int = 5) -> PrecisionRecall:
    r"""Precision and recall by balls to the k-th nearest neighbour, with density and coverage.

    With :math:`r_k(x)` the distance from x to its k-th nearest neighbour in its own set, itself not counted,

    .. math:: \text{density} = \frac{1}{k m} \sum_{j=1}^m \sum_{i=1}^n 1[|y_j - x_i| \le r_k(x_i)].

    Of equal distributions precision and recall stay below 1, by an amount that depends on the distribution, its
    dimension, k, n and m: compare runs at the same numbers, and with a second set of data in the place of the samples.
    Memory is bounded; time grows as (n + m)^2 D.

    References:
        Kynkäänniemi et al. (2019), Improved Precision and Recall Metric, arXiv:1904.06991 (k = 3);
        Naeem et al. (2020), Reliable Fidelity and Diversity Metrics, arXiv:2002.09797 (density and coverage, k = 5).

    Arguments:
        real: features of data, (n, D).
        fake: features of samples by the same network, (m, D).
        k: which nearest neighbour, fewer than n and m.

    Raises:
        TypeError: one is no tensor.
        ValueError: the shapes do not fit, a value is not finite, or k is out of range.
    """
    real, fake = check_pair(real, fake, ("real", "fake"))
    _check_k(k, len(real), len(fake))
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    in_any_real = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    in_any_fake, holds_fake = (torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2))
    num_in = 0
    for rows, apart in distances(fake, real):  # (some of the samples, n)
        within = apart <= real_radii
        in_any_real[rows] = within.any(dim=1)
        holds_fake |= within.any(dim=0)
        in_any_fake |= (apart <= fake_radii[rows].unsqueeze(1)).any(dim=0)
        num_in += int(within.sum())
    return PrecisionRecall(
        precision=float(in_any_real.double().mean()),
        recall=float(in_any_fake.double().mean()),
        density=num_in / (k * len(fake)),
        coverage=float(holds_fake.double().mean()),
    )


def expected_coverage(num_real: int, num_fake: int, k: int = 5) -> float:
    r"""The expected coverage of samples that have the data's own distribution, whatever that is (without atoms).

    .. math:: 1 - \prod_{j=0}^{k-1} \frac{n - 1 - j}{n + m - 1 - j},

    which goes to :math:`1 - 2^{-k}` as n = m grows: the k nearest of the other n - 1 data and m samples are all data.

    References:
        Naeem et al. (2020), lemma 2, arXiv:2002.09797.

    Arguments:
        num_real: number n of data.
        num_fake: number m of samples.
        k: as in `precision_recall`.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> round(expected_coverage(10_000, 10_000, 5), 3)
        0.969
    """
    check_count("num_real", num_real, 2, "10,000 is a usual number.")
    check_count("num_fake", num_fake, 1, "10,000 is a usual number.")
    _check_k(k, num_real, k + 1)
    none = 1.0
    for j in range(k):
        none *= (num_real - 1 - j) / (num_real + num_fake - 1 - j)
    return 1 - none


def _radii(x: Tensor, k: int) -> Tensor:
    """The distance from every row to its k-th nearest other row."""
    radii = torch.empty(len(x), dtype=x.dtype, device=x.device)
    for rows, apart in distances(x, x):
        radii[rows] = apart.kthvalue(k + 1, dim=1).values  # the row itself, at zero, comes before them
    return radii


def _check_k(k: int, num_real: int, num_fake: int) -> None:
    check_count("k", k, 1, "3 and 5 are usual.")
    if k >= min(num_real, num_fake):
        raise ValueError(
            f"k must be less than the number of data and of samples; got k={k} for {num_real} and {num_fake}. Use a "
            "smaller k, or more of them."
        )
