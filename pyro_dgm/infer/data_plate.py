"""The plate over the data, opened alike by models and guides."""

__all__ = ["data_plate", "num_rows", "plate_of_rows", "same_plate"]

from numbers import Integral

import pyro
import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import Tensor

from pyro_dgm.infer.programs import DATA_PLATE


def data_plate(num: int, data_size: int | None = None) -> SubsampleMessenger:
    """Opens the plate named ``data``, on dimension -1, for a minibatch of ``num`` out of ``data_size`` data.

    It leaves no site of rows: a model that is replayed keeps the rows that it was given itself.

    Raises:
        ValueError: the minibatch is empty, or larger than the data.
    """
    if not isinstance(num, Integral) or num < 1:
        raise ValueError(f"num, the number of data, must be a positive integer; got {num!r}. Ask for at least one.")
    if data_size is None:
        return pyro.plate(DATA_PLATE, num, dim=-1)
    if not isinstance(data_size, Integral) or data_size < num:
        raise ValueError(
            f"data_size is the number of data the minibatch stands for, at least its {num} rows; got {data_size}. "
            "Pass the size of the training set."
        )
    return plate_of_rows(DATA_PLATE, data_size, num, dim=-1)


def plate_of_rows(name: str, full_size: int | None, rows: int, dim: int) -> SubsampleMessenger:
    """Opens a plate for so many rows, which stand for ``full_size`` data, and leaves no site of their numbers."""
    with poutine.block():
        return pyro.plate(name, full_size, subsample=torch.arange(rows), dim=dim)


def same_plate(frame: CondIndepStackFrame) -> SubsampleMessenger:
    """Opens a plate that the same program has opened and left before, for further sites of its elements.

    Its rows are a site of the trace already, which may not have two of one name: this plate leaves none.
    """
    if frame.size < 0:
        return pyro.plate(frame.name, dim=frame.dim)
    return plate_of_rows(frame.name, frame.full_size, frame.size, frame.dim)


def num_rows(x: Tensor, context: Tensor | None = None) -> int:
    """The number of data in a batch, checked: at least one, and one row of context for each."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor; got {type(x).__name__}. Convert it with torch.as_tensor(x).")
    if x.dim() == 0 or x.shape[0] == 0:
        raise ValueError(f"x must hold at least one datum; got shape {tuple(x.shape)}. Give it a batch dimension.")
    if context is not None and (context.dim() == 0 or context.shape[0] != x.shape[0]):
        raise ValueError(
            f"context must have one row per datum; got shape {tuple(context.shape)} for {x.shape[0]} data. "
            "One-hot labels have shape (B, classes)."
        )
    return x.shape[0]
