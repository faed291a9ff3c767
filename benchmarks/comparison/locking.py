"""One run at a time in a folder of cells."""

__all__ = ["locked"]

import contextlib
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # where there is no such lock, as on Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder, which must exist, for a run; the lock ends with its process, however that ends.

    Raises:
        ValueError: another run holds the folder.
    """
    with (folder / NAME).open("a+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ValueError(
                    f"a folder of cells has one run at a time; got {folder}, which {file.read().strip() or 'another'} "
                    "holds. Wait until it has ended, or choose another --runs."
                ) from None
            except OSError as error:  # some network file systems have no locks
                warnings.warn(f"{folder} cannot be locked ({error}); start no second run on it.", stacklevel=4)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node() or 'a host without a name'}\n")
        file.flush()
        yield
