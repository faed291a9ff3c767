"""Grey levels as Bernoulli draws: every time anew (dynamic), or once by a stated seed."""

__all__ = ["binarize", "fix_binarization"]

from dataclasses import replace

import torch
from torch import Tensor

from pyro_dgm.datasets.dataset import Dataset, Split


def binarize(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One Bernoulli draw per pixel whose probability is its grey level.

    Dynamic binarisation draws anew every time an image is seen: `Batches(x, transform=binarize, ...)`.

    References:
        Salakhutdinov and Murray (2008), On the Quantitative Analysis of Deep Belief Networks.
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519.

    Arguments:
        x: Grey levels in [0, 1], of any shape.
        generator: Source of the draws; torch's global one if None.

    Returns:
        Zeros and ones in the shape and dtype of x.

    Raises:
        ValueError: If a value is outside [0, 1] or not a number, or x is not of floating point.

    Example:
        >>> binarize(torch.tensor([0.0, 1.0]))
        tensor([0., 1.])
    """
    if not x.is_floating_point():
        raise ValueError(
            f"binarize needs floating-point grey levels in [0, 1]; got {x.dtype}. Use x.float() / 255 for 8-bit pixels."
        )
    low, high = x.aminmax() if x.numel() else (x.new_zeros(()), x.new_zeros(()))
    if not (low >= 0 and high <= 1):  # not(...) refuses NaN, too
        raise ValueError(
            f"binarize needs grey levels in [0, 1]; got values from {low:g} to {high:g}. "
            "Divide pixels of 0-255 by 255; replace NaN or infinity."
        )
    # A uniform number in [0, 1) is below x with probability x; torch.bernoulli takes several times as long.
    return torch.empty_like(x).uniform_(generator=generator).lt_(x)


def fix_binarization(dataset: Dataset, seed: int = 0) -> Dataset:
    """The data set with its test and validation images binarised once, and the training images left grey.

    Training then binarises dynamically (`binarize`), while every evaluation sees the same images.

    Arguments:
        dataset: A data set of kind 'grey'.
        seed: Seed of the draws. Numbers compare for one seed only; the protocol names it.

    Returns:
        A data set of the same digest whose protocol says so.

    Raises:
        ValueError: If the data are not grey levels.
    """
    if dataset.kind != "grey":
        raise ValueError(
            f"fix_binarization needs a data set of grey levels; got {dataset.name!r}, of kind {dataset.kind!r}. "
            "Binary data need none; for others choose a likelihood of their kind."
        )
    generator = torch.Generator().manual_seed(seed)
    # The test part is drawn first, so that it does not depend on the size of the validation part.
    test, valid = (
        Split(binarize(split.x, generator), split.y, split.lengths) for split in (dataset.test, dataset.valid)
    )
    protocol = dataset.protocol.replace(", not binarised", "")
    return replace(
        dataset,
        valid=valid,
        test=test,
        protocol=f"{protocol}; test, then valid, binarised once by Bernoulli draws of seed {seed}; train left grey",
    )
