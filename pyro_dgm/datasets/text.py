"""Text as codes of characters: a running text, names, and molecules written as SMILES."""

__all__ = ["decode", "names", "qm9_smiles", "tiny_shakespeare"]

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.datasets.dataset import Dataset, Split, content_digest
from pyro_dgm.datasets.files import DataFile, read

_SHAKESPEARE = DataFile(
    "text",
    "tinyshakespeare.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
    "/data/tinyshakespeare/input.txt",
)
_NAMES = DataFile(
    "text",
    "names.txt",
    "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
    "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt",
)
_QM9 = DataFile(
    "molecules",
    "qm9_smiles.csv",
    "f7cc792c3e8c066fabf0645d11d8e3e98a41f4c6b7b6bed1e5b6425e5251c133",
    source=None,
    cure=(
        "Take it from the work that you compare with: the line 'smiles' and then, one a line, the 133,247 SMILES of "
        "QM9 (doi:10.1038/sdata.2014.22) that RDKit reads, in the order of QM9"
    ),
)


def tiny_shakespeare() -> Dataset:
    """1,115,394 characters of Shakespeare as one running text.

    References:
        Karpathy (2015), The Unreasonable Effectiveness of Recurrent Neural Networks; char-rnn.

    Returns:
        The codes of the first 90 %, next 5 % and last 5 % of the characters, each int64 of shape (N,); `vocabulary`
        has the 65 characters in order of their code points. No code is reserved for padding.

    Raises:
        DatasetError: If the file is missing and cannot be downloaded, or is truncated or altered.
    """
    content = read(_SHAKESPEARE)
    characters, codes = np.unique(np.frombuffer(content, dtype=np.uint8), return_inverse=True)
    x = torch.from_numpy(codes.astype(np.int64))
    first, second = len(x) * 90 // 100, len(x) * 95 // 100
    return Dataset(
        name="tiny_shakespeare",
        train=Split(x[:first]),
        valid=Split(x[first:second]),
        test=Split(x[second:]),
        digest=content_digest(content),
        protocol="tiny Shakespeare of char-rnn; contiguous split 90 / 5 / 5 %; characters, vocabulary of 65",
        event_shape=(),
        kind="tokens",
        vocabulary=tuple(map(chr, characters)),
    )


def names() -> Dataset:
    """32,033 first names in lower-case letters, in the split of the makemore lectures.

    A name that the list has more than once (2,539 rows repeat an earlier one) may be in several parts, as there.

    References:
        Karpathy (2022), makemore.

    Returns:
        25,626 / 3,203 / 3,204 rows of int64 codes of shape (15,): 1 to 26 for the letters, 0 beyond the `lengths`.

    Raises:
        DatasetError: If the file is missing and cannot be downloaded, or is truncated or altered.
    """
    content = read(_NAMES)
    words = content.decode("ascii").split()
    random.Random(42).shuffle(words)
    return _padded_dataset(
        "names",
        words,
        (len(words) * 80 // 100, len(words) * 90 // 100),
        content_digest(content),
        "names of makemore; split 80 / 10 / 10 % as in its lectures (random.Random(42).shuffle), repeated names kept",
    )


def qm9_smiles(seed: int = 0) -> Dataset:
    """133,247 small organic molecules as SMILES strings, character by character.

    There is no public file of the same bytes: place it at `$PYRO_DGM_DATA/molecules/qm9_smiles.csv`, the line
    `smiles` and then one SMILES a line (those of QM9 that RDKit reads, in the order of QM9).

    References:
        Ramakrishnan, Dral, Rupp and von Lilienfeld (2014), Quantum Chemistry Structures and Properties of 134 kilo
        Molecules, doi:10.1038/sdata.2014.22.

    Arguments:
        seed: Seed of the permutation that deals the molecules to the parts. Numbers compare for one seed only.

    Returns:
        113,247 / 10,000 / 10,000 rows of int64 codes of shape (T,), 0 beyond the `lengths`.

    Raises:
        DatasetError: If the file is missing, truncated or altered.
    """
    content = read(_QM9)
    smiles = content.decode("ascii").split()[1:]
    order = np.random.RandomState(seed).permutation(len(smiles))
    return _padded_dataset(
        "qm9_smiles",
        [smiles[row] for row in order],
        (len(smiles) - 20_000, len(smiles) - 10_000),
        content_digest(content),
        f"QM9 as SMILES; split 113,247 / 10,000 / 10,000, permutation seed {seed}, repeated SMILES kept; characters",
    )


def decode(codes: Tensor, vocabulary: Sequence[str]) -> list[str]:
    """The strings that rows of codes stand for.

    Arguments:
        codes: Integer codes, of shape (T,) for one string or (N, T) for N of them.
        vocabulary: The string of each code, as in `Dataset.vocabulary`; padding stands for the empty string.

    Returns:
        One string per row.

    Raises:
        ValueError: If a code is not in the vocabulary.

    Example:
        >>> decode(torch.tensor([[2, 1, 0], [1, 1, 2]]), ("", "a", "b"))
        ['ba', 'aab']
    """
    rows = torch.atleast_2d(codes)
    wrong = rows[(rows < 0) | (rows >= len(vocabulary))]
    if wrong.numel():
        raise ValueError(
            f"codes must be 0 to {len(vocabulary) - 1}, the places in the vocabulary; got {wrong[0].item()}. "
            "Pass the vocabulary of the data set that the codes are from."
        )
    return ["".join(vocabulary[code] for code in row) for row in rows.tolist()]


def _padded_dataset(name: str, strings: list[str], bounds: tuple[int, int], digest: str, protocol: str) -> Dataset:
    """The strings as padded codes, split at two rows."""
    x, vocabulary = _encode(strings)
    lengths = (x > 0).sum(dim=1)
    first, second = bounds
    return Dataset(
        name=name,
        train=Split(x[:first], lengths=lengths[:first]),
        valid=Split(x[first:second], lengths=lengths[first:second]),
        test=Split(x[second:], lengths=lengths[second:]),
        digest=digest,
        protocol=f"{protocol}, vocabulary of {len(vocabulary) - 1} and code 0 for padding beyond `lengths`",
        event_shape=tuple(x.shape[1:]),
        kind="tokens",
        vocabulary=vocabulary,
    )


def _encode(strings: list[str]) -> tuple[Tensor, tuple[str, ...]]:
    """ASCII strings as codes of shape (N, T), and the vocabulary; code 0 is padding."""
    padded = np.array(strings, dtype=np.bytes_)  # numpy fills up with zero bytes
    characters, codes = np.unique(padded.view(np.uint8).reshape(len(strings), -1), return_inverse=True)
    if characters[0] != 0:  # all strings are of one length
        characters, codes = np.concatenate([characters[:1] * 0, characters]), codes + 1
    return torch.from_numpy(codes.astype(np.int64)), ("", *map(chr, characters[1:]))
