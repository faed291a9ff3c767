"""Files that are written whole or not at all."""

__all__ = ["replace_atomically"]

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replace_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a draft beside ``path`` to write, and moves it into the place of ``path`` when it is safe on disk.

    A path so holds the old file or the new one at any moment, also through a kill or a power cut. After an error the
    draft is removed and the old file is as it was. The draft is ``NAME.tmp``, one per name, so what a killed process
    left is overwritten by the next one; one process at a time may write to a path.

    Arguments:
        path: the file to write; its folder must exist.

    Yields:
        The path of the draft.

    Raises:
        OSError: the draft could not be written or moved.
    """
    path = Path(path)
    draft = path.with_name(path.name + ".tmp")
    try:
        yield draft
        with open(draft, "r+b") as written:  # Windows syncs only what is open for writing
            os.fsync(written.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself survive a power cut, where the file system lets a folder be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
