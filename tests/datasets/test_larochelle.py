"""Facts about MNIST in Larochelle's binarisation."""

import hashlib

import numpy as np
import pytest
import torch

from pyro_dgm.datasets import binarized_mnist, larochelle, mnist
from pyro_dgm.datasets.files import DataFile
from pyro_dgm.datasets.larochelle import _parse_amat


def amat(bits):
    return "".join(" ".join(map(str, row)) + "\n" for row in bits.tolist()).encode()


def test_amat_file_gives_the_bits_that_were_written():
    bits = np.random.default_rng(0).integers(2, size=(5, 784), dtype=np.uint8)
    content = amat(bits)
    assert np.array_equal(_parse_amat(content), bits)


def test_packed_and_text_form_of_the_static_binarisation_agree(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    bits = {
        part: rng.integers(2, size=(rows, 784), dtype=np.uint8)
        for part, rows in zip(larochelle._PARTS, (4, 2, 3), strict=True)
    }
    folder = tmp_path / "binarized_mnist"
    folder.mkdir()
    for part, rows in bits.items():
        (folder / f"binarized_mnist_{part}.amat").write_bytes(amat(rows))
    monkeypatch.setenv("PYRO_DGM_DATA", str(tmp_path))
    digests = {part: hashlib.sha256(amat(rows)).hexdigest() for part, rows in bits.items()}
    monkeypatch.setattr(larochelle, "_AMAT_SHA256", digests)
    from_text = binarized_mnist()

    path = folder / "binarized_mnist_packed.npz"
    np.savez_compressed(path, **{part: np.packbits(rows, axis=1) for part, rows in bits.items()})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(larochelle, "_PACKED", DataFile("binarized_mnist", path.name, digest, source=None))
    from_packed = binarized_mnist()

    assert from_text.digest == from_packed.digest
    for part, rows in bits.items():
        x = getattr(from_packed, part).x
        assert torch.equal(x, getattr(from_text, part).x)
        assert np.array_equal(x.flatten(1).numpy(), rows)


@pytest.mark.usefixtures("real_data")
def test_static_test_images_are_mnists_sorted_by_digit():
    static, grey = binarized_mnist(), mnist()
    assert [len(part.x) for part in (static.train, static.valid, static.test)] == [50_000, 10_000, 10_000]
    assert static.train.x.unique().tolist() == [0, 1]
    expected = grey.test.x[grey.test.y.argsort(stable=True)]
    # A Bernoulli draw of these images: black stays black and white stays white, in all ten thousand.
    assert static.test.x[expected == 0].max() == 0
    assert static.test.x[expected == 1].min() == 1


@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize("part", ["valid", "test"])
def test_text_of_the_static_images_has_the_digest_that_is_checked_on_download(part):
    bits = getattr(binarized_mnist(), part).x.flatten(1).numpy().astype(np.uint8)
    text = np.full((*bits.shape, 2), ord(" "), dtype=np.uint8)
    text[:, :, 0] = bits + ord("0")
    text[:, -1, 1] = ord("\n")
    content = text.tobytes()
    assert hashlib.sha256(content).hexdigest() == larochelle._AMAT_SHA256[part]
    assert np.array_equal(_parse_amat(content), bits)
