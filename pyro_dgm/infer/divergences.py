r"""Divergences between two sets of draws, as pure functions: what compares an aggregated posterior with its prior."""

__all__ = ["energy_distance", "mmd", "sliced_wasserstein"]

import torch
from torch import Tensor

_KERNELS = ("gaussian", "imq")


def mmd(x: Tensor, y: Tensor, kernel: str = "imq", bandwidth: float | None = None) -> Tensor:
    r"""Squared maximum mean discrepancy, :math:`E k(x, x') + E k(y, y') - 2 E k(x, y)`.

    Unbiased (pairs of a draw with itself are left out), so it may be negative; zero in expectation if and only if the
    two distributions are equal.

    References:
        Gretton et al. (2012), A Kernel Two-Sample Test, equation 3, JMLR 13; Tolstikhin et al. (2018), section 4,
        arXiv:1711.01558 (inverse multiquadratics over seven scales).

    Arguments:
        x: draws, (n, D).
        y: draws, (m, D).
        kernel: ``"gaussian"``, :math:`\exp(-d^2 / 2 l^2)`, or ``"imq"``, the sum over s in 0.1, 0.2, 0.5, 1, 2, 5, 10
            of :math:`s C / (s C + d^2)` with :math:`C = 2 D l^2`.
        bandwidth: l; 1 for ``"imq"`` and :math:`\sqrt{D}` for ``"gaussian"`` when None.

    Returns:
        A scalar.

    Raises:
        ValueError: there are fewer than two draws of either, they have other numbers of features, or the kernel is
            unknown.
    """
    _check_pair(x, y)
    if kernel not in _KERNELS:
        raise ValueError(f"kernel must be one of {_KERNELS}; got {kernel!r}. 'imq' has the heavier tails.")
    if bandwidth is not None and not 0 < bandwidth < float("inf"):
        raise ValueError(f"bandwidth must be a positive number; got {bandwidth}. None takes the usual one.")
    if len(x) < 2 or len(y) < 2:
        raise ValueError(
            f"the MMD compares pairs, so it needs two draws of each; got {len(x)} and {len(y)}. Use a larger batch."
        )
    length = bandwidth if bandwidth is not None else x.shape[1] ** 0.5 if kernel == "gaussian" else 1.0
    within = [
        (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (_gram(v, v, kernel, length) for v in (x, y))
    ]
    return within[0] + within[1] - 2 * _gram(x, y, kernel, length).mean()


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Energy distance, :math:`2 E |x - y| - E |x - x'| - E |y - y'|` with Euclidean norms.

    Unbiased (pairs of a draw with itself are left out), so it may be negative; zero in expectation if and only if the
    two distributions, of finite mean, are equal. In one dimension it is twice the squared Cramér distance.

    References:
        Székely and Rizzo (2013), Energy statistics, equation 1.1, JSPI 143.

    Arguments:
        x: draws, (n, D).
        y: draws, (m, D).

    Returns:
        A scalar.

    Raises:
        ValueError: there are fewer than two draws of either, or they have other numbers of features.
    """
    _check_pair(x, y)
    if len(x) < 2 or len(y) < 2:
        raise ValueError(
            f"the energy distance compares pairs, so it needs two draws of each; got {len(x)} and {len(y)}. Use a "
            "larger batch."
        )
    within = [_lengths(v, v).sum() / (len(v) * (len(v) - 1)) for v in (x, y)]
    return 2 * _lengths(x, y).mean() - within[0] - within[1]


def sliced_wasserstein(x: Tensor, y: Tensor, num_projections: int = 50) -> Tensor:
    r"""Squared sliced Wasserstein-2 distance: the mean over random directions of the squared distance along them.

    Along a direction the optimal coupling pairs the sorted draws. For finite samples it is biased upwards: two samples
    of one distribution are not equal.

    References:
        Kolouri, Pope, Martin and Rohde (2019), Sliced-Wasserstein Autoencoder, equation 9, arXiv:1804.01947.

    Arguments:
        x: draws, (n, D).
        y: draws, (n, D).
        num_projections: how many directions are drawn, uniformly on the sphere.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: the two have other shapes, or there is no direction.
    """
    _check_pair(x, y)
    if len(x) != len(y):
        raise ValueError(f"the sliced distance pairs draws, as many of each; got {len(x)} and {len(y)}. Draw as many.")
    if isinstance(num_projections, bool) or not isinstance(num_projections, int) or num_projections < 1:
        raise ValueError(f"num_projections must be a positive integer; got {num_projections!r}. 50 is a usual choice.")
    directions = torch.randn(x.shape[1], num_projections, dtype=x.dtype, device=x.device)
    directions = directions / directions.norm(dim=0)
    return ((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean()


def _gram(x: Tensor, y: Tensor, kernel: str, length: float) -> Tensor:
    squared = (x.square().sum(1).unsqueeze(1) + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)
    if kernel == "gaussian":
        return (-squared / (2 * length**2)).exp()
    scales = squared.new_tensor([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]) * (2 * x.shape[1] * length**2)
    return (scales / (scales + squared.unsqueeze(-1))).sum(-1)


def _lengths(x: Tensor, y: Tensor) -> Tensor:
    """Distances of all pairs, (n, m), from differences; equal points have no gradient, where the norm has a kink."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _check_pair(x: Tensor, y: Tensor) -> None:
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"draws must have shape (n, D) with one D; got {tuple(x.shape)} and {tuple(y.shape)}. Flatten the features."
        )
