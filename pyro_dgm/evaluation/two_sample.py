"""Tests of the hypothesis that two sets of draws have one distribution."""

__all__ = ["ClassifierTest", "MMDTest", "classifier_two_sample_test", "mmd_test"]

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Binomial

from pyro_dgm.distributions.conditional import check_count
from pyro_dgm.evaluation.vectors import check_number, check_pair, distances

PERMUTATIONS_AT_ONCE = 200
ROUNDING = 1e-12
IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

_KERNELS = ("gaussian", "imq")
_CLASSIFIERS = ("knn", "logistic")


class MMDTest(NamedTuple):
    """A permutation test of the maximum mean discrepancy.

    Arguments:
        statistic: the squared discrepancy, unbiased, in units of the kernel.
        p_value: under the hypothesis it is at most a with a probability of at most a, for every a: exact, not
            asymptotic.
        bandwidth: l of the kernel, in the data's units.
        num_permutations: how many; the least p-value is one over one more.
    """

    statistic: float
    p_value: float
    bandwidth: float
    num_permutations: int


class ClassifierTest(NamedTuple):
    """A test by the accuracy of a classifier that tells the two sets apart.

    Arguments:
        statistic: the accuracy on held-out draws; 1/2 if there is nothing to tell.
        p_value: probability of at least that accuracy if every held-out draw is decided by a fair coin.
        num_held_out: number of held-out draws, half of each set.
    """

    statistic: float
    p_value: float
    num_held_out: int


@torch.no_grad()
def mmd_test(
    x: Tensor,
    y: Tensor,
    num_permutations: int = 1000,
    kernel: str = "gaussian",
    bandwidth: float | None = None,
    generator: torch.Generator | None = None,
) -> MMDTest:
    r"""Tests whether two sets of draws have one distribution, by their maximum mean discrepancy.

    The statistic is that of ``infer.divergences.mmd``. The matrix of kernels is computed once; a permutation deals its
    rows to the two sets anew. With c of the P permuted discrepancies at least as large as the observed one, the p-value
    is (1 + c) / (1 + P). The memory is that of (n + m)^2 numbers. It asks for draws that are independent: the state of
    a Markov chain needs thinning.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A Kernel Two-Sample Test, JMLR 13;
        Phipson and Smyth (2010), Permutation P-values Should Never Be Zero, arXiv:1603.05766.

    Arguments:
        x: draws, (n, D).
        y: draws, (m, D).
        num_permutations: number P of permutations.
        kernel: ``"gaussian"``, :math:`\exp(-d^2 / 2 l^2)`, or ``"imq"``, inverse multiquadratics over seven scales.
        bandwidth: l, in the data's units; the median distance between two of all draws when None. (``mmd`` itself has
            other defaults.)
        generator: of the permutations, on the CPU; torch's own when None.

    Raises:
        TypeError: one is no tensor.
        ValueError: the shapes do not fit, there are fewer than two draws of either, a value is not finite, the kernel
            is unknown, a number is out of range, or most draws are equal, so that the median distance is zero.
    """
    x, y = check_pair(x, y)
    check_count("num_permutations", num_permutations, 1, "1000 is usual.")
    if kernel not in _KERNELS:
        raise ValueError(f"kernel must be one of {_KERNELS}; got {kernel!r}. 'imq' has the heavier tails.")
    if bandwidth is not None:
        check_number("bandwidth", bandwidth, "None takes the median distance.")
    both = torch.cat([x, y])
    apart = torch.cat([piece for _, piece in distances(both, both)])
    length = _median_distance(apart) if bandwidth is None else float(bandwidth)
    gram = _gram(apart, kernel, length, x.shape[1]).fill_diagonal_(0)  # no pairs of a draw with itself
    observed = _discrepancies(gram, torch.arange(len(x)).unsqueeze(0))[0]
    count = 0
    for start in range(0, num_permutations, PERMUTATIONS_AT_ONCE):
        num = min(PERMUTATIONS_AT_ONCE, num_permutations - start)
        rows = torch.rand(num, len(both), generator=generator).argsort(dim=1)[:, : len(x)]
        count += int((_discrepancies(gram, rows) >= observed - ROUNDING * gram.amax()).sum())
    return MMDTest(float(observed), (1 + count) / (1 + num_permutations), length, num_permutations)


def classifier_two_sample_test(
    x: Tensor,
    y: Tensor,
    classifier: str = "knn",
    num_neighbours: int | None = None,
    generator: torch.Generator | None = None,
) -> ClassifierTest:
    r"""Tests whether two sets of draws have one distribution, by how well a classifier tells new draws apart.

    As many of each set as the smaller one has are kept, at random; half of each trains the classifier, the other half
    is held out. The p-value is that of the binomial distribution of N held-out draws with probability 1/2. Since as
    many of each set are held out, the true null is no wider than that: the test is conservative if the classifier
    prefers a set.

    References:
        Lopez-Paz and Oquab (2017), Revisiting Classifier Two-Sample Tests, arXiv:1610.06545.

    Arguments:
        x: draws, (n, D), or their features.
        y: draws, (m, D).
        classifier: ``"knn"``, the majority of the nearest neighbours, which sees any difference given enough draws; or
            ``"logistic"``, linear, which sees little more than a shift, but in many dimensions earlier.
        num_neighbours: of the first; the root of the number of training draws when None, made odd. Ties cannot be.
        generator: of the halves, on the CPU; torch's own when None.

    Raises:
        TypeError: one is no tensor.
        ValueError: the shapes do not fit, there are fewer than four draws of either, a value is not finite, the
            classifier is unknown, or the number of neighbours is not odd, or too large.
    """
    x, y = check_pair(x, y, least=4)
    if classifier not in _CLASSIFIERS:
        raise ValueError(f"classifier must be one of {_CLASSIFIERS}; got {classifier!r}. 'knn' sees any difference.")
    kept = min(len(x), len(y))
    half = kept // 2
    chosen = [v[torch.randperm(len(v), generator=generator)[:kept].to(v.device)] for v in (x, y)]
    training, held_out = (torch.cat([v[rows] for v in chosen]) for rows in (slice(half), slice(half, None)))
    neighbours = _odd_root(2 * half) if num_neighbours is None else num_neighbours
    _check_neighbours(neighbours, 2 * half)
    decide: Callable[[Tensor], Tensor] = (
        _nearest_neighbours(training, neighbours) if classifier == "knn" else _logistic(training)
    )
    of_y = torch.arange(len(held_out), device=x.device) >= kept - half
    correct = int((decide(held_out) == of_y).sum())
    chances = Binomial(len(held_out), torch.tensor(0.5, dtype=torch.float64), validate_args=False)
    p_value = float(chances.log_prob(torch.arange(correct, len(held_out) + 1, dtype=torch.float64)).exp().sum())
    return ClassifierTest(correct / len(held_out), min(1.0, p_value), len(held_out))


def _median_distance(apart: Tensor) -> float:
    first, second = torch.triu_indices(len(apart), len(apart), offset=1, device=apart.device)
    median = float(apart[first, second].median())
    if not median:
        raise ValueError(
            "the median distance between draws is the bandwidth, so most of them must differ; got 0. Give a bandwidth."
        )
    return median


def _gram(apart: Tensor, kernel: str, length: float, features: int) -> Tensor:
    squared = apart.square()
    if kernel == "gaussian":
        return (-squared / (2 * length**2)).exp()
    scales = [scale * 2 * features * length**2 for scale in IMQ_SCALES]
    return torch.stack([scale / (scale + squared) for scale in scales]).sum(dim=0)


def _discrepancies(gram: Tensor, rows: Tensor) -> Tensor:
    """The unbiased squared discrepancy between some rows, (P, n) by number, and the others, for every P.

    With w the indicator of the rows, w' K w sums their kernels and w' K 1 those with all; the rest is arithmetic.
    """
    n, m = rows.shape[1], len(gram) - rows.shape[1]
    indicator = gram.new_zeros(len(rows), len(gram)).scatter_(1, rows.to(gram.device), 1.0)
    within = ((indicator @ gram) * indicator).sum(dim=1)
    with_all = indicator @ gram.sum(dim=1)
    others = gram.sum() - 2 * with_all + within
    return within / (n * (n - 1)) + others / (m * (m - 1)) - 2 * (with_all - within) / (n * m)


def _nearest_neighbours(training: Tensor, neighbours: int) -> Callable[[Tensor], Tensor]:
    """Says whether most of the nearest training draws, whose second half is of y, are of y."""

    def decide(points: Tensor) -> Tensor:
        nearest = [piece.topk(neighbours, dim=1, largest=False).indices for _, piece in distances(points, training)]
        return (torch.cat(nearest) >= len(training) // 2).double().mean(dim=1) > 0.5

    return decide


def _logistic(training: Tensor) -> Callable[[Tensor], Tensor]:
    """Says on which side of a plane a point lies."""
    from sklearn.linear_model import LogisticRegression

    mean, sd = training.mean(dim=0), training.std(dim=0)
    sd = torch.where(sd > 0, sd, 1.0)
    of_y = (torch.arange(len(training)) >= len(training) // 2).numpy()
    fitted = LogisticRegression(max_iter=1000).fit(((training - mean) / sd).cpu().numpy(), of_y)

    def decide(points: Tensor) -> Tensor:
        return torch.as_tensor(fitted.predict(((points - mean) / sd).cpu().numpy()), device=points.device)

    return decide


def _odd_root(num: int) -> int:
    root = math.isqrt(num)
    return root if root % 2 else root - 1 if root > 1 else 1


def _check_neighbours(neighbours: int, num_training: int) -> None:
    check_count("num_neighbours", neighbours, 1, "The root of the number of training draws is usual.")
    if neighbours % 2 == 0 or neighbours > num_training:
        raise ValueError(
            f"num_neighbours must be odd, and at most the {num_training} training draws; got {neighbours}. Leave it "
            "out for their root."
        )
