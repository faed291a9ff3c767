"""Facts about the chorales."""

import io
import itertools

import numpy as np
import pytest
import torch

from pyro_dgm.datasets import jsb_chorales
from pyro_dgm.datasets.music import _parse_piano_rolls


def matlab(**cells):
    from scipy.io import savemat

    stream = io.BytesIO()
    savemat(stream, cells)
    return stream.getvalue()


def cell(*rolls):
    array = np.empty((1, len(rolls)), dtype=object)
    for place, roll in enumerate(rolls):
        array[0, place] = roll
    return array


def test_matlab_file_gives_the_rolls_that_were_written():
    rng = np.random.default_rng(0)
    rolls = [rng.integers(2, size=(steps, 88), dtype=np.uint8) for steps in (3, 5, 2, 4)]
    content = matlab(traindata=cell(*rolls[:2]), validdata=cell(rolls[2]), testdata=cell(rolls[3]))
    parts = _parse_piano_rolls(content)
    assert [len(part) for part in parts] == [2, 1, 1]
    assert all(np.array_equal(roll, other) for roll, other in zip(itertools.chain(*parts), rolls, strict=True))


@pytest.mark.usefixtures("real_data")
def test_chorales_are_padded_with_silence_beyond_their_lengths():
    data = jsb_chorales()
    for part, rows in ((data.train, 229), (data.valid, 76), (data.test, 77)):
        assert part.x.shape == (rows, 160, 88)
        assert part.x.unique().tolist() == [0, 1]
        beyond = torch.arange(160) >= part.lengths.unsqueeze(1)  # (N, T)
        assert part.x[beyond].sum() == 0
    lengths = torch.cat([part.lengths for part in (data.train, data.valid, data.test)])
    assert (lengths.min(), lengths.max()) == (25, 160)
