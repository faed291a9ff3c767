"""Facts about digits, MNIST and Fashion-MNIST."""

import hashlib

import numpy as np
import pytest
import torch

from pyro_dgm.datasets import digits, fashion_mnist, mnist
from pyro_dgm.datasets.images import _parse_idx


def test_digits_are_all_of_scikit_learns_in_sixteenths():
    from sklearn.datasets import load_digits

    data = digits()
    x = torch.cat([data.train.x, data.valid.x, data.test.x]).mul(16).flatten(1)
    bundled = torch.as_tensor(load_digits().data, dtype=torch.float32)
    assert torch.equal(x.unique(dim=0), bundled.unique(dim=0))
    assert len(x) == len(bundled) == 1797
    assert (len(data.train.x), len(data.valid.x), len(data.test.x)) == (1285, 256, 256)


def test_digits_keep_image_and_label_together():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    label_of = {
        image.astype(np.float32).tobytes(): label for image, label in zip(bunch.data, bunch.target, strict=True)
    }
    data = digits()
    for part in (data.train, data.valid, data.test):
        images = part.x.mul(16).flatten(1).numpy()
        assert [label_of[image.tobytes()] for image in images] == part.y.tolist()


def test_digits_are_stratified_to_within_one_image_of_a_class():
    data = digits()
    counts = torch.stack([part.y.bincount(minlength=10) for part in (data.train, data.valid, data.test)])  # (3, 10)
    shares = torch.tensor([[5.0], [1.0], [1.0]]) / 7 * counts.sum(dim=0)
    assert (counts - shares).abs().max() < 2
    assert (counts[1] - counts[2]).abs().max() <= 1


def test_digits_are_split_by_the_seed_alone():
    one, same, other = digits(seed=3), digits(seed=3), digits(seed=4)
    assert torch.equal(one.test.x, same.test.x)
    assert not torch.equal(one.test.x, other.test.x)
    assert one.digest == same.digest == other.digest
    assert "seed 3" in one.protocol


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_idx_file_gives_the_array_that_was_written(shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    content = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes() + array.tobytes()
    assert np.array_equal(_parse_idx(content), array)


@pytest.mark.parametrize("loader", [mnist, fashion_mnist])
@pytest.mark.usefixtures("real_data")
def test_idx_images_have_the_canonical_split_and_all_grey_levels(loader):
    data = loader()
    assert [tuple(part.x.shape) for part in (data.train, data.valid, data.test)] == [
        (50_000, 1, 28, 28),
        (10_000, 1, 28, 28),
        (10_000, 1, 28, 28),
    ]
    assert [part.y.shape for part in (data.train, data.valid, data.test)] == [(50_000,), (10_000,), (10_000,)]
    assert data.test.y.bincount().numel() == 10
    assert data.train.y.dtype == torch.int64
    assert torch.equal(data.test.x.unique(), torch.arange(256) / 255)


@pytest.mark.usefixtures("real_data")
def test_mnist_is_lecuns_and_validates_on_the_last_of_the_training_file():
    data = mnist()
    pixels = torch.cat([data.train.x, data.valid.x]).mul(255).round().to(torch.uint8)
    header = bytes.fromhex("00000803 0000ea60 0000001c 0000001c")
    assert hashlib.md5(header + pixels.numpy().tobytes()).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    assert data.train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
