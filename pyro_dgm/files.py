"""Files that are written whole or not at all."""

__all__ = ["replace_atomically"]

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary file beside ``path`` to write, and puts it in the place of ``path`` once it is complete.

    The file is flushed to disk first, so that a crash leaves the old file or the new one, never half of one. After
    an error the temporary file is removed and the old file is as it was.

    Arguments:
        path: the file to write; its folder is made if need be.

    Yields:
        The temporary path, with the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
