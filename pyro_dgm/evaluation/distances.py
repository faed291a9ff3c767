r"""Distances between the distributions of two sets of features: Fréchet (as in FID) and polynomial kernel (as in KID).

Both depend on the features, on the numbers of data and, the first, on bias: they compare runs that were judged alike.
"""

__all__ = [
    "Extrapolation",
    "frechet_distance",
    "frechet_distance_at_infinity",
    "frechet_distance_of_moments",
    "kernel_distance",
]

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_dgm.distributions.conditional import check_count
from pyro_dgm.evaluation.batching import Estimate
from pyro_dgm.evaluation.vectors import check_pair, check_vectors

SYMMETRY = 1e-6  # relative


class Extrapolation(NamedTuple):
    """A value at infinitely many samples, from a line through values at finite numbers.

    Arguments:
        value: where the line ends.
        slope: the bias times the number of samples.
        residual: root mean square distance of the values from the line: if it is not far below the bias that was taken
            away, do not trust the line.
    """

    value: float
    slope: float
    residual: float


@torch.no_grad()
def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""Squared Wasserstein-2 distance between the Gaussians with the moments of two sets of features.

    On features of the Inception network that was trained on ImageNet this is the Fréchet inception distance (FID); on
    others it has no published values to compare with. Biased upwards, by an amount of order D / n + D / m that also
    depends on the model: compare at equal numbers, use `frechet_distance_at_infinity`, or `kernel_distance`, which is
    unbiased. It sees nothing but means and covariances.

    References:
        Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter (2017), GANs Trained by a Two Time-Scale Update Rule,
        arXiv:1706.08500.

    Arguments:
        x: features of data, (n, D).
        y: features of samples by the same network, (m, D).

    Returns:
        The distance, in squared units of the features, at least 0.

    Raises:
        TypeError: one is no tensor.
        ValueError: the shapes do not fit, there are fewer than two rows, or a value is not finite.
    """
    x, y = check_pair(x, y)
    return _distance(*_moments(x), *_moments(y))


@torch.no_grad()
def frechet_distance_of_moments(mean_x: Tensor, covariance_x: Tensor, mean_y: Tensor, covariance_y: Tensor) -> float:
    r"""Squared Wasserstein-2 distance between two Gaussians.

    .. math:: |\mu_x - \mu_y|^2 + \operatorname{tr}\left(\Sigma_x + \Sigma_y
        - 2 (\Sigma_x^{1/2} \Sigma_y \Sigma_x^{1/2})^{1/2}\right).

    The last trace is the sum of the singular values of :math:`\Sigma_x^{1/2} \Sigma_y^{1/2}`, with roots by symmetric
    eigendecomposition: exact for singular covariances as well, where general matrix square roots fail.

    Arguments:
        mean_x: (D,).
        covariance_x: symmetric and positive semi-definite, (D, D).
        mean_y: (D,).
        covariance_y: symmetric and positive semi-definite, (D, D).

    Returns:
        The distance, in squared units of the features, at least 0.

    Raises:
        TypeError: something is no tensor.
        ValueError: the shapes do not fit, a value is not finite, or a covariance is not symmetric and positive
            semi-definite.
    """
    moments = []
    for mean, covariance, name in ((mean_x, covariance_x, "x"), (mean_y, covariance_y, "y")):
        centre = check_vectors(mean.unsqueeze(0) if isinstance(mean, Tensor) else mean, f"mean_{name}, as one row,")
        moments += [centre[0], _checked_covariance(covariance, f"covariance_{name}", centre.shape[1])]
    if moments[0].shape != moments[2].shape:
        raise ValueError(
            f"both Gaussians must have the same number of features; got {len(moments[0])} and {len(moments[2])}. "
            "Take both from one network."
        )
    return _distance(*moments)


@torch.no_grad()
def frechet_distance_at_infinity(
    x: Tensor,
    y: Tensor,
    num_sizes: int = 15,
    least_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Extrapolation:
    r"""The Fréchet distance as it would be with infinitely many samples y, without the bias of their number.

    The distance of random subsets of y is linear in one over their size, once that is well above D; the line through
    values at several sizes is followed to zero. What remains is the bias of the number of data x, the same for all
    models, and noise, more than that of `frechet_distance`: the value may be negative.

    References:
        Chong and Forsyth (2020), Effectively Unbiased FID and Inception Score, arXiv:1911.07023.

    Arguments:
        x: features of data, (n, D).
        y: features of samples by the same network, (m, D).
        num_sizes: number of sizes, evenly spaced from the least to m.
        least_size: the least size; a tenth of m when None.
        generator: of the subsets; torch's own when None.

    Returns:
        The value, in squared units of the features, with slope and residual of the line.

    Raises:
        TypeError: one is no tensor.
        ValueError: the shapes do not fit, a value is not finite, there are fewer than three sizes, or the least one is
            not at least 2 and below m.
    """
    x, y = check_pair(x, y)
    check_count("num_sizes", num_sizes, 3, "15 is usual.")
    least = max(2, len(y) // 10) if least_size is None else check_count("least_size", least_size, 2, "Take a tenth.")
    if least >= len(y):
        raise ValueError(
            f"least_size must be below the number of samples; got {least} for {len(y)}. Draw more samples."
        )
    moments = _moments(x)
    sizes = torch.linspace(least, len(y), num_sizes, dtype=torch.float64).round()
    subsets = (y[torch.randperm(len(y), generator=generator)[: int(size)].to(y.device)] for size in sizes)
    values = torch.tensor([_distance(*moments, *_moments(subset)) for subset in subsets], dtype=torch.float64)
    inverse = 1 / sizes
    centred = inverse - inverse.mean()
    slope = (centred * values).sum() / centred.square().sum()
    value = values.mean() - slope * inverse.mean()
    residual = (values - value - slope * inverse).square().mean().sqrt()
    return Extrapolation(float(value), float(slope), float(residual))


@torch.no_grad()
def kernel_distance(
    x: Tensor,
    y: Tensor,
    degree: int = 3,
    num_subsets: int = 100,
    subset_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Squared maximum mean discrepancy with the kernel :math:`(x^T y / D + 1)^d`, averaged over random subsets.

    Unbiased, and so at times negative; zero in expectation if the two agree in their moments up to the degree. On
    Inception features it is the kernel inception distance (KID). The standard error is that of sampling data and
    samples: the variance v between subsets of size s of n, by the delete-d jackknife, gives :math:`v (s / (n - s) + 1 /
    B)` with B subsets. Where the distributions are equal it is too large, since there the error falls as 1 / n.

    References:
        Bińkowski, Sutherland, Arbel and Gretton (2018), Demystifying MMD GANs, arXiv:1801.01401.

    Arguments:
        x: features of data, (n, D).
        y: features of samples by the same network, (m, D).
        degree: d of the kernel.
        num_subsets: number B of pairs of subsets.
        subset_size: rows s of a subset; half of the smaller set, and at most 1000, when None.
        generator: of the subsets; torch's own when None.

    Returns:
        The mean and its standard error, in units of the kernel (not nats); the error is NaN for one subset, or subsets
        that are the whole of a set.

    Raises:
        TypeError: one is no tensor.
        ValueError: the shapes do not fit, a value is not finite, or a number is out of range.
    """
    x, y = check_pair(x, y)
    check_count("degree", degree, 1, "3 is usual.")
    check_count("num_subsets", num_subsets, 1, "100 is usual.")
    smaller = min(len(x), len(y))
    size = max(2, min(1000, smaller // 2)) if subset_size is None else subset_size
    check_count("subset_size", size, 2, "1000 is usual.")
    if size > smaller:
        raise ValueError(
            f"subset_size must be at most the number of rows of each set; got {size} for {len(x)} and {len(y)}. Leave "
            "it out, or draw more samples."
        )
    found = []
    for _ in range(num_subsets):
        rows = [torch.randperm(len(v), generator=generator)[:size].to(v.device) for v in (x, y)]
        found.append(_polynomial_mmd(x[rows[0]], y[rows[1]], degree))
    values = torch.stack(found)
    if num_subsets == 1 or size == smaller:
        return Estimate(float(values.mean()), math.nan)
    inflation = size / (smaller - size) + 1 / num_subsets
    return Estimate(float(values.mean()), math.sqrt(float(values.var()) * inflation))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(dim=0), x.T.cov().reshape(x.shape[1], x.shape[1])


def _distance(mean_x: Tensor, covariance_x: Tensor, mean_y: Tensor, covariance_y: Tensor) -> float:
    cross = torch.linalg.svdvals(_root(covariance_x) @ _root(covariance_y)).sum()
    value = (mean_x - mean_y).square().sum() + covariance_x.trace() + covariance_y.trace() - 2 * cross
    return max(0.0, float(value))


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _polynomial_mmd(x: Tensor, y: Tensor, degree: int) -> Tensor:
    within_x, within_y, between = ((a @ b.T / x.shape[1] + 1) ** degree for a, b in ((x, x), (y, y), (x, y)))
    pairs = len(x) * (len(x) - 1)
    within = within_x.sum() - within_x.trace() + within_y.sum() - within_y.trace()
    return within / pairs - 2 * between.mean()


def _checked_covariance(covariance: Tensor, name: str, features: int) -> Tensor:
    found = check_vectors(covariance, name)
    if found.shape != (features, features):
        raise ValueError(
            f"{name} must have shape (D, D) with the mean's D; got {tuple(found.shape)} for D = {features}. Compute it "
            "by x.T.cov()."
        )
    scale = SYMMETRY * float(found.abs().max())
    if float((found - found.T).abs().max()) > scale or float(torch.linalg.eigvalsh(found)[0]) < -scale * features:
        raise ValueError(
            f"{name} must be symmetric and positive semi-definite; got a matrix that is not. Compute it by x.T.cov()."
        )
    return found
