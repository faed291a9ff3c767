r"""How many modes of a mixture a generator has found, how evenly, and how sharply.

For toys whose modes are known, such as ``datasets.ring`` and ``datasets.grid``: equal round Gaussians. Published counts
of modes differ by their thresholds, so what is reported here stands beside what a perfect generator scores by the same
count, `perfect_coverage`.
"""

__all__ = ["ModeCoverage", "mode_coverage", "perfect_coverage"]

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Binomial

from pyro_dgm.distributions.conditional import check_count
from pyro_dgm.evaluation.vectors import check_number, check_pair, distances

ROUNDING = 1e-6


class ModeCoverage(NamedTuple):
    """What draws make of the modes of a mixture.

    Arguments:
        num_hit: modes with at least one draw of high quality: within ``num_sds`` standard deviations of the mean.
        num_covered: modes whose draws of high quality are at least ``least_share`` of the draws that are due there.
        high_quality: share of all draws that are of high quality.
        masses: share of the draws that are nearest to each mode, (M,).
        reverse_kl: KL divergence from these masses to the weights of the modes, in nats; 0 is best. As an estimate
            biased upwards, by about (M - 1) / 2n.
        sd_ratio: standard deviation within the modes over the true one: below 1 the modes are too sharp. NaN where no
            mode has two draws of high quality.
        num_samples: number n of draws.
    """

    num_hit: float
    num_covered: float
    high_quality: float
    masses: Tensor
    reverse_kl: float
    sd_ratio: float
    num_samples: int


@torch.no_grad()
def mode_coverage(
    samples: Tensor,
    means: Tensor,
    sd: float,
    weights: Tensor | None = None,
    num_sds: float = 3.0,
    least_share: float = 0.1,
) -> ModeCoverage:
    r"""Counts the modes of a mixture of round Gaussians that draws have found, and measures what they make of them.

    Every draw belongs to the mode that is nearest. The standard deviation within the modes pools the draws of high
    quality around their own mean in each mode, so that a mode in the wrong place does not count as a wide one. Cutting
    at r = ``num_sds`` leaves of the variance of a Gaussian in D dimensions only the share
    :math:`c = P(D / 2 + 1, r^2 / 2) / P(D / 2, r^2 / 2)`, with P the regularised incomplete gamma function (0.949 at 3
    standard deviations in the plane); the variance is divided by it, and so unbiased if the generator is perfect. Of
    far too sharp modes nothing is cut, and their ratio comes out too large by the root of 1 / c, 3 % in the plane; of
    far too wide ones it cannot exceed that of the uniform distribution on the disc.

    References:
        Metz, Poole, Pfau and Sohl-Dickstein (2017), Unrolled Generative Adversarial Networks, arXiv:1611.02163;
        Srivastava et al. (2017), VEEGAN, section 4.1 (high quality: within 3 standard deviations), arXiv:1705.07761;
        Lin, Khetan, Fanti and Oh (2018), PacGAN, section 4.1 (reverse KL), arXiv:1712.04086.

    Arguments:
        samples: draws of the generator, (n, D), in the data's units.
        means: means of the modes, (M, D).
        sd: standard deviation of every mode in every direction, in the data's units.
        weights: probabilities of the modes, (M,), positive; equal when None.
        num_sds: how many standard deviations from a mean a draw still is of high quality. Modes should be further
            apart than twice that, for `perfect_coverage` to be exact.
        least_share: share of the draws due to a mode from which on it counts as covered.

    Returns:
        Counts, shares and ratios, without units but for the reverse KL, in nats.

    Raises:
        TypeError: samples, means or weights are no tensors.
        ValueError: a shape does not fit, a value is not finite, the weights are no probabilities, or a number is out of
            range.

    Example:
        >>> means = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
        >>> found = mode_coverage(torch.tensor([[2.01, 0.0], [1.99, 0.0], [0.5, 0.0]]), means, sd=0.02)
        >>> found.num_hit, round(found.high_quality, 2), round(found.reverse_kl, 2)
        (1, 0.67, 0.69)
    """
    samples, means = check_pair(samples, means, ("samples", "means"), least=1)
    features, num_samples = samples.shape[1], len(samples)
    shares = _checked_weights(weights, len(means)).to(samples)
    _check_numbers(sd, num_sds, least_share)
    nearest, far = _nearest(samples, means)
    good = far <= num_sds * sd
    counts = torch.bincount(nearest[good], minlength=len(means))
    masses = torch.bincount(nearest, minlength=len(means)).double() / num_samples
    return ModeCoverage(
        num_hit=int((counts > 0).sum()),
        num_covered=int((counts >= _least_counts(shares, num_samples, least_share)).sum()),
        high_quality=float(good.double().mean()),
        masses=masses,
        reverse_kl=max(0.0, float((torch.xlogy(masses, masses) - masses * shares.log()).sum())),
        sd_ratio=math.sqrt(_variance_within(samples[good], nearest[good], counts) / _kept(features, num_sds)) / sd,
        num_samples=num_samples,
    )


@torch.no_grad()
def perfect_coverage(
    num_samples: int,
    num_modes: int,
    features: int = 2,
    weights: Tensor | None = None,
    num_sds: float = 3.0,
    least_share: float = 0.1,
) -> ModeCoverage:
    r"""What independent draws of the mixture itself score in expectation: the best that `mode_coverage` should find.

    A generator that scores more high quality than this is too sharp: at 3 standard deviations in the plane a perfect
    one has :math:`1 - e^{-9/2}`, 98.9 %, and 99.3 % means under-dispersion. All values are exact sums over the binomial
    counts of the modes, for modes that lie far apart; but the ratio of standard deviations is the root of an unbiased
    one of variances, and so below 1 by an amount of order 1 / n.

    Arguments:
        num_samples: number n of draws.
        num_modes: number M of modes.
        features: number D of dimensions.
        weights: probabilities of the modes, (M,), positive; equal when None.
        num_sds: as in `mode_coverage`.
        least_share: as in `mode_coverage`.

    Returns:
        The expectations of the fields of `mode_coverage`.

    Raises:
        TypeError: the weights are no tensor.
        ValueError: the weights are no probabilities, or a number is out of range.

    Example:
        >>> perfect = perfect_coverage(num_samples=1000, num_modes=8)
        >>> round(perfect.high_quality, 3), round(perfect.reverse_kl, 4)
        (0.989, 0.0035)
    """
    check_count("num_samples", num_samples, 1, "2500 is a usual number of draws.")
    check_count("num_modes", num_modes, 1, "The ring has 8, the grid 25.")
    check_count("features", features, 1, "It is 2 for points of the plane.")
    _check_numbers(1.0, num_sds, least_share)
    shares = _checked_weights(weights, num_modes)
    good = _mass_within(features, num_sds)
    needed = _least_counts(shares, num_samples, least_share)
    counts = torch.arange(num_samples + 1, dtype=torch.float64)
    hit, covered, kl = 0.0, 0.0, 0.0
    for share, least in zip(shares, needed, strict=True):
        of_quality = Binomial(num_samples, share * good, validate_args=False).log_prob(counts).exp()
        hit += float(1 - of_quality[0])
        covered += float(of_quality[counts >= least].sum())
        if num_modes > 1:
            mass = counts / num_samples
            chances = Binomial(num_samples, share, validate_args=False).log_prob(counts).exp()
            kl += float((chances * (torch.xlogy(mass, mass) - mass * share.log())).sum())
    return ModeCoverage(hit, covered, good, shares, kl, 1.0, num_samples)


def _nearest(samples: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest mode of every draw, and how far it is."""
    found = [piece.min(dim=1) for _, piece in distances(samples, means)]
    return torch.cat([piece.indices for piece in found]), torch.cat([piece.values for piece in found])


def _variance_within(samples: Tensor, nearest: Tensor, counts: Tensor) -> float:
    """The variance per dimension around the modes' own means, pooled; NaN if there are not two draws in any."""
    sums = samples.new_zeros(len(counts), samples.shape[1]).index_add_(0, nearest, samples)
    centred = samples - (sums / counts.clamp(min=1).unsqueeze(1))[nearest]
    freedom = (len(samples) - int((counts > 0).sum())) * samples.shape[1]
    return float(centred.square().sum()) / freedom if freedom else math.nan


def _mass_within(features: int, num_sds: float) -> float:
    """The probability of a standard normal vector to be no longer than that."""
    half = torch.tensor([features / 2, num_sds**2 / 2], dtype=torch.float64)
    return float(torch.special.gammainc(*half))


def _kept(features: int, num_sds: float) -> float:
    """The variance per dimension of a standard normal vector, given that it is no longer than that."""
    return _mass_within(features + 2, num_sds) / _mass_within(features, num_sds)


def _least_counts(shares: Tensor, num_samples: int, least_share: float) -> Tensor:
    """The draws from which on a mode is covered: one at least."""
    return (least_share * num_samples * shares - ROUNDING).ceil().clamp(min=1)


def _checked_weights(weights: Tensor | None, num_modes: int) -> Tensor:
    if weights is None:
        return torch.full((num_modes,), 1 / num_modes, dtype=torch.float64)
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a tensor; got {type(weights).__name__}. Convert them with torch.as_tensor.")
    found = weights.detach().double()
    if found.shape != (num_modes,) or not bool((found > 0).all()) or abs(float(found.sum()) - 1) > ROUNDING:
        raise ValueError(
            f"weights must be {num_modes} positive numbers that add up to 1, one per mode; got shape "
            f"{tuple(found.shape)} and sum {float(found.sum()):g}. Divide them by their sum, or leave out empty modes."
        )
    return found


def _check_numbers(sd: float, num_sds: float, least_share: float) -> None:
    check_number("sd", sd, "That of the ring is 0.02.")
    check_number("num_sds", num_sds, "3 is usual.")
    check_number("least_share", least_share, "0.1 asks for a tenth of the draws that are due.", 1, positive=False)
