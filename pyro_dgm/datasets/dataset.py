"""What a data set is: three splits of tensors, and what a reported number must say about them."""

__all__ = ["Dataset", "Kind", "Split", "content_digest"]

import hashlib
from dataclasses import dataclass
from typing import Literal, NamedTuple, final, get_args

from torch import Tensor

Kind = Literal["grey", "binary", "real", "sequence", "tokens"]


class Split(NamedTuple):
    """One part of a data set; all its tensors have the same rows.

    Arguments:
        x: The data, of shape (N, *event_shape).
        y: Class labels of shape (N,), int64, or None.
        lengths: For padded sequences the true lengths, of shape (N,), int64; else None.
    """

    x: Tensor
    y: Tensor | None = None
    lengths: Tensor | None = None


@final
@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Real or generated data with its canonical splits, in memory.

    Arguments:
        name: The name that `load` knows it by.
        train: The training part.
        valid: The part to choose settings on.
        test: The part to report on, once.
        digest: sha256 of the underlying data (before splitting, scaling or binarising), so that a reported
            number can name what it was computed on.
        protocol: Source, split, scaling and binarisation in plain words.
        event_shape: Shape of one row of `x`, the same in every part.
        kind: 'grey' levels in [0, 1], 'binary' 0/1, 'real' numbers, 'sequence' (time, features), or int64 'tokens'.
        vocabulary: For tokens, the string that each code stands for; else None.

    Raises:
        ValueError: If `kind` is unknown, a part is empty, or a row does not have `event_shape`.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    digest: str
    protocol: str
    event_shape: tuple[int, ...]
    kind: Kind
    vocabulary: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {get_args(Kind)}; got {self.kind!r}. Name what a row of x holds.")
        for part in ("train", "valid", "test"):
            shape = tuple(getattr(self, part).x.shape)
            if shape[1:] != self.event_shape or not shape[0]:
                raise ValueError(
                    f"every part of a Dataset must have shape (N, *event_shape), N at least 1, with event_shape "
                    f"{self.event_shape}; got {part}.x of shape {shape}. Reshape x, or name its event_shape."
                )

    def __repr__(self) -> str:
        rows = " + ".join(f"{len(split.x):,}" for split in (self.train, self.valid, self.test))
        return f"Dataset({self.name!r}, {rows} rows of {self.event_shape} {self.kind}, sha256 {self.digest[:12]}…)"


def content_digest(*contents: bytes | Tensor) -> str:
    """Sha256 of the bytes of several contents in order, as 64 hexadecimal digits.

    Arguments:
        contents: Bytes, or tensors, which count with their values in row-major order.

    Example:
        >>> content_digest(b"a", b"bc") == content_digest(b"abc")
        True
    """
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content.numpy().tobytes() if isinstance(content, Tensor) else content)
    return digest.hexdigest()
