"""How networks take their inputs: several vectors side by side, checked before they are used."""

__all__ = ["check_dtype", "check_features", "check_size", "concatenate"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def concatenate(inputs: Sequence[Tensor]) -> Tensor:
    """Joins vectors along the last dimension, their leading dimensions broadcast.

    Arguments:
        inputs: tensors of shapes (*batch_i, features_i), the batch shapes broadcastable.

    Returns:
        A tensor of shape (*batch, sum of features).

    Raises:
        ValueError: there is no input, or the leading dimensions do not broadcast.
    """
    if not inputs:
        raise ValueError("a network needs at least one input; got none. Pass the features it is to map.")
    if len(inputs) == 1:
        return inputs[0]
    try:
        batch = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    except RuntimeError as err:
        shapes = [tuple(x.shape) for x in inputs]
        raise ValueError(
            f"the inputs of a network must agree in their leading dimensions; got shapes {shapes}. "
            "Give every input one row per datum."
        ) from err
    return torch.cat([x.expand(*batch, x.shape[-1]) for x in inputs], dim=-1)


def check_features(x: Tensor, features: int, name: str) -> None:
    """Checks that the last dimension of x holds the expected number of features."""
    if x.dim() and x.shape[-1] == features:
        return
    cure = "Give it vectors of that length."
    image = x.shape[-3:]
    if x.dim() >= 3 and image.numel() == features:
        cure = "It looks like images: flatten them with x.flatten(-3), or use ConvEncoder."
    raise ValueError(f"{name} takes {features} features in the last dimension; got shape {tuple(x.shape)}. {cure}")


def check_dtype(x: Tensor, net: nn.Module, name: str) -> None:
    """Checks that x has the dtype of the network's parameters (autocast may change it on the way)."""
    parameter = next(net.parameters(), None)
    if parameter is None or x.dtype == parameter.dtype or torch.is_autocast_enabled(x.device.type):
        return
    hint = " and scale pixels to [0, 1]" if x.dtype is torch.uint8 else ""
    raise TypeError(
        f"{name} computes in {parameter.dtype}; got an input of {x.dtype}. "
        f"Convert it with x.to({parameter.dtype}){hint}."
    )


def check_size(name: str, value: int) -> int:
    """Returns the size of a layer if it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer; got {value!r}. Give the width of the layer.")
    return value
