"""Grey images: digits (bundled with scikit-learn), MNIST and Fashion-MNIST."""

__all__ = ["digits", "fashion_mnist", "mnist"]

import numpy as np
import torch

from pyro_dgm.datasets.dataset import Dataset, Split, content_digest
from pyro_dgm.datasets.files import DataFile, read

_IDX_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MNIST_SHA256 = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
_FASHION_MNIST_SHA256 = (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)


def digits(seed: int = 0) -> Dataset:
    """The 1,797 handwritten digits bundled with scikit-learn, 8x8 grey levels; needs no download.

    Values are k / 16 for k = 0 … 16. Of every seven images of a class five train, one validates and one tests.

    References:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI repository (its test part).

    Arguments:
        seed: Seed of the permutation that deals the images to the parts. Numbers compare for one seed only.

    Returns:
        1,285 / 256 / 256 images of shape (1, 8, 8) with class labels.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.as_tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.as_tensor(bunch.target, dtype=torch.int64)

    # RandomState, because numpy guarantees its stream for ever (NEP 19).
    order = np.random.RandomState(seed).permutation(len(y))
    place_in_turn = np.empty_like(order)
    place_in_turn[order[np.argsort(bunch.target[order], kind="stable")]] = np.arange(len(y)) % 7
    turn = place_in_turn[order]
    parts = [torch.from_numpy(order[rows]) for rows in (turn < 5, turn == 5, turn == 6)]
    train, valid, test = (Split(x[rows], y[rows]) for rows in parts)
    return Dataset(
        name="digits",
        train=train,
        valid=valid,
        test=test,
        digest=content_digest(x.mul(16).to(torch.uint8), y),
        protocol=(
            "scikit-learn's bundled digits (test part of UCI Optical Recognition of Handwritten Digits); "
            f"split 1,285 / 256 / 256, stratified by class, permutation seed {seed}; grey levels k / 16, not binarised"
        ),
        event_shape=(1, 8, 8),
        kind="grey",
    )


def mnist() -> Dataset:
    """MNIST: 70,000 handwritten digits, 28x28 grey levels k / 255.

    References:
        LeCun, Bottou, Bengio and Haffner (1998), Gradient-Based Learning Applied to Document Recognition.

    Returns:
        50,000 / 10,000 / 10,000 images of shape (1, 28, 28) with class labels; the validation images are the last
        10,000 of the training file. For a Bernoulli likelihood binarise them: `binarize`, `fix_binarization`.

    Raises:
        DatasetError: If a file is missing and cannot be downloaded, or is truncated or altered.
    """
    return _idx_dataset("mnist", "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/", _MNIST_SHA256)


def fashion_mnist() -> Dataset:
    """Fashion-MNIST: 70,000 pictures of clothes in ten classes, 28x28 grey levels k / 255.

    References:
        Xiao, Rasul and Vollgraf (2017), Fashion-MNIST, arXiv:1708.07747.

    Returns:
        50,000 / 10,000 / 10,000 images of shape (1, 28, 28) with class labels, split as `mnist`.

    Raises:
        DatasetError: If a file is missing and cannot be downloaded, or is truncated or altered.
    """
    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    return _idx_dataset("fashion_mnist", "Fashion-MNIST", url, _FASHION_MNIST_SHA256)


def _idx_dataset(name: str, title: str, url: str, sha256: tuple[str, ...]) -> Dataset:
    """A data set in the four idx files of MNIST's form."""
    contents = [read(DataFile(name, file, digest, url + file)) for file, digest in zip(_IDX_NAMES, sha256, strict=True)]
    arrays = [_parse_idx(content) for content in contents]
    x, test_x = (torch.from_numpy(k.astype(np.float32)).div_(255).unsqueeze(1) for k in arrays[0::2])
    y, test_y = (torch.from_numpy(k.astype(np.int64)) for k in arrays[1::2])
    num_train = len(x) - 10_000
    return Dataset(
        name=name,
        train=Split(x[:num_train], y[:num_train]),
        valid=Split(x[num_train:], y[num_train:]),
        test=Split(test_x, test_y),
        digest=content_digest(*contents),
        protocol=(
            f"{title}; train = first 50,000 and valid = last 10,000 of the training file, test = the test file "
            "(10,000); grey levels k / 255, not binarised"
        ),
        event_shape=(1, 28, 28),
        kind="grey",
    )


def _parse_idx(content: bytes) -> np.ndarray:
    """The array in an idx file: two zero bytes, 8 for bytes, the number of dimensions, each as a big-endian 32-bit
    integer, the values.
    """
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], dtype=">u4").tolist()
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
