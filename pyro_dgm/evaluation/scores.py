"""Scores of generated images by the classes a classifier gives them."""

__all__ = ["ClassEntropies", "InceptionScore", "class_entropies", "inception_score"]

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_dgm.distributions.conditional import check_count

ROUNDING = 1e-3  # by how much probabilities in single precision may miss 1


class ClassEntropies(NamedTuple):
    """Entropies of the classes of images, in nats.

    Arguments:
        intra: mean entropy of p(y | x): low if every image is clearly of one class.
        inter: entropy of the mean of p(y | x): at most log of the number of classes, if all are as frequent.
    """

    intra: float
    inter: float


class InceptionScore(NamedTuple):
    """A score between 1 and the number of classes, larger being better.

    Arguments:
        mean: mean over the splits.
        sd: standard deviation over the splits, not divided by the root of their number, as it is usually published;
            NaN for one split.
    """

    mean: float
    sd: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.sd:.2f}"


@torch.no_grad()
def class_entropies(log_probs: Tensor) -> ClassEntropies:
    r"""How certain the classes of images are, and how evenly they come.

    The difference, inter minus intra, is the mutual information of image and class in nats. The inter-class entropy
    is biased downwards, by about (C - 1) / 2n at most.

    Arguments:
        log_probs: log p(y | x) of a classifier, (n, C), normalised.

    Returns:
        Both entropies, in nats.

    Raises:
        TypeError: the log-probabilities are no tensor.
        ValueError: they have another shape, a NaN, or are not normalised.
    """
    return _entropies(_checked(log_probs))


@torch.no_grad()
def inception_score(log_probs: Tensor, num_splits: int = 10) -> InceptionScore:
    r"""The inception score, which is exp(inter - intra) of the class entropies.

    .. math:: \exp E_x \mathrm{KL}(p(y | x) \| p(y)).

    Each of the splits takes every ``num_splits``-th image, so that images sorted by class do no harm. Biased downwards,
    the more the fewer images a split has and the more classes there are. It never looks at data: one perfect image per
    class scores best. With another classifier than the Inception network, its values compare only with each other.

    References:
        Salimans et al. (2016), Improved Techniques for Training GANs, arXiv:1606.03498;
        Barratt and Sharma (2018), A Note on the Inception Score, arXiv:1801.01973.

    Arguments:
        log_probs: log p(y | x) of a classifier, (n, C), normalised.
        num_splits: number of splits.

    Returns:
        Mean and standard deviation over the splits, without unit.

    Raises:
        TypeError: the log-probabilities are no tensor.
        ValueError: they have another shape, a NaN, are not normalised, or there are fewer images than splits.

    Example:
        >>> inception_score(torch.eye(4).repeat(10, 1).log(), num_splits=1).mean
        4.0
    """
    found = _checked(log_probs)
    check_count("num_splits", num_splits, 1, "10 is usual.")
    if num_splits > len(found):
        raise ValueError(
            f"there must be an image for every split; got {len(found)} for {num_splits} splits. Draw more images."
        )
    entropies = [_entropies(found[first::num_splits]) for first in range(num_splits)]
    scores = torch.tensor([each.inter - each.intra for each in entropies], dtype=torch.float64).exp()
    return InceptionScore(float(scores.mean()), float(scores.std()) if num_splits > 1 else math.nan)


def _entropies(log_probs: Tensor) -> ClassEntropies:
    probs = log_probs.exp()
    intra = torch.special.entr(probs).sum(dim=1).mean()
    return ClassEntropies(float(intra), float(torch.special.entr(probs.mean(dim=0)).sum()))


def _checked(log_probs: Tensor) -> Tensor:
    """The log-probabilities in float64, normalised to its precision."""
    if not isinstance(log_probs, Tensor) or not log_probs.is_floating_point():
        kind = str(log_probs.dtype) if isinstance(log_probs, Tensor) else type(log_probs).__name__
        raise TypeError(
            f"log_probs must be a tensor of floating-point numbers; got {kind}. Take logits.log_softmax(dim=1)."
        )
    if log_probs.dim() != 2 or not log_probs.numel():
        raise ValueError(
            f"log_probs must have shape (n, classes), with something in it; got {tuple(log_probs.shape)}. Give one row "
            "per image."
        )
    found = log_probs.detach().double()
    totals = found.logsumexp(dim=1, keepdim=True)  # NaN and infinity show here too
    bad = int((~(totals.abs() <= ROUNDING)).sum())
    if bad:
        raise ValueError(
            f"log_probs must be the logarithms of probabilities that add up to 1; got {bad} of {len(found)} rows that "
            "do not. Take logits.log_softmax(dim=1), and look for NaN."
        )
    return found - totals
