"""MNIST in the fixed binarisation of Larochelle's files."""

__all__ = ["binarized_mnist"]

import io

import numpy as np
import torch

from pyro_dgm.datasets.dataset import Dataset, Split, content_digest
from pyro_dgm.datasets.files import DataFile, find, read

_PARTS = ("train", "valid", "test")
_PACKED = DataFile(
    "binarized_mnist",
    "binarized_mnist_packed.npz",
    "8b4aca87821bf8d1d98bf488d6029e206885841ec51f43c41c7c052fa6807726",
    source=None,
)
_AMAT_SHA256 = {
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
_AMAT_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_{}.amat"


def binarized_mnist() -> Dataset:
    """MNIST binarised once and for all by Larochelle: the *static* binarisation of the VampPrior, DRAW and AVB tables.

    Its test images are MNIST's, sorted by digit: never evaluate on the first n. Results differ by about 2 nats from
    those with dynamic binarisation; never compare the two.

    It is read from `binarized_mnist_packed.npz` (keys train, valid, test, each `np.packbits` of the rows) where a data
    folder has one, else from Larochelle's three .amat text files (110 MB), which is what is downloaded.

    References:
        Salakhutdinov and Murray (2008), On the Quantitative Analysis of Deep Belief Networks.
        Larochelle and Murray (2011), The Neural Autoregressive Distribution Estimator.

    Returns:
        50,000 / 10,000 / 10,000 images of shape (1, 28, 28), 0 or 1, without labels.

    Raises:
        DatasetError: If a file is missing and cannot be downloaded, or is truncated or altered.
    """
    if find(_PACKED):
        with np.load(io.BytesIO(read(_PACKED)), allow_pickle=False) as arrays:
            packed = [arrays[part] for part in _PARTS]
    else:
        packed = [np.packbits(_parse_amat(read(_amat(part))), axis=1) for part in _PARTS]
    train, valid, test = (Split(_unpack(rows)) for rows in packed)
    return Dataset(
        name="binarized_mnist",
        train=train,
        valid=valid,
        test=test,
        digest=content_digest(*(rows.tobytes() for rows in packed)),
        protocol=(
            "MNIST in the static binarisation of Larochelle (fixed files); split 50,000 / 10,000 / 10,000 as in the "
            "files; the test images are sorted by digit"
        ),
        event_shape=(1, 28, 28),
        kind="binary",
    )


def _amat(part: str) -> DataFile:
    source = _AMAT_URL.format(part)
    cure = f"Fetch {source} elsewhere, or place the packed form of all three parts as {_PACKED.name}"
    return DataFile("binarized_mnist", source.rpartition("/")[2], _AMAT_SHA256[part], source, cure)


def _unpack(packed: np.ndarray) -> torch.Tensor:
    """Rows of 98 bytes as 0/1 images, of shape (N, 1, 28, 28)."""
    return torch.from_numpy(np.unpackbits(packed, axis=1).astype(np.float32)).view(-1, 1, 28, 28)


def _parse_amat(content: bytes) -> np.ndarray:
    """The bits in an .amat file, of shape (N, 784): a line of text per row, '0' or '1' and a separator per bit."""
    return np.frombuffer(content, dtype=np.uint8)[::2].reshape(-1, 784) - np.uint8(ord("0"))
