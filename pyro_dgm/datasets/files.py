"""Where data files are found, and how they are known to be the right ones."""

__all__ = ["DataFile", "DatasetError", "find", "locate", "read"]

import gzip
import hashlib
import os
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

FOLDER_VARIABLE = "PYRO_DGM_DATA"


class DatasetError(ValueError):
    """A data file is missing, truncated or altered; the message names the file and the cure."""


class DataFile(NamedTuple):
    """A data file and the digest that it must have.

    Arguments:
        folder: Its folder below the data folders, such as 'mnist'.
        name: Its file name. A name ending in .gz stands for the decompressed content, because mirrors compress
            the same content to different bytes.
        sha256: Digest of the content, in hexadecimal digits.
        source: The public address of a file of this content, or None where there is none.
        cure: What to do where it is neither found nor downloaded, if there is more to say than `source` does.
    """

    folder: str
    name: str
    sha256: str
    source: str | None
    cure: str = ""


def find(file: DataFile) -> Path | None:
    """The path of a data file on this machine, or None; its content is not checked.

    `$PYRO_DGM_DATA/<folder>/<name>` comes first, then the same below the user cache directory.

    Arguments:
        file: The file to look for.
    """
    return next((path for path in _paths(file) if path.is_file()), None)


def locate(file: DataFile) -> Path:
    """The path of a data file, downloaded into the user cache directory where it is not on this machine.

    A download is checked before it gets its name, so that a broken one leaves nothing behind; a file that is found
    is checked by `read`.

    Arguments:
        file: The file to look for.

    Raises:
        DatasetError: If it is not found and cannot be downloaded, or the download has another content.
    """
    found = find(file)
    if found is not None:
        return found
    if file.source is None:
        raise _missing(file, "it has no public source of the same bytes")
    try:
        return _download(file, file.source, _paths(file)[-1])
    except OSError as err:  # what requests raises for any failure, too
        raise _missing(file, f"downloading {file.source} failed ({type(err).__name__}: {err})") from err


def read(file: DataFile) -> bytes:
    """The checked content of a data file, decompressed where its name ends in .gz.

    Arguments:
        file: The file to read.

    Raises:
        DatasetError: If it is missing (see `locate`), truncated or altered.
    """
    path = locate(file)
    return _checked(file, path, f"Delete {path} and fetch it again{f' from {file.source}' if file.source else ''}.")


def _paths(file: DataFile) -> list[Path]:
    """Where the file may lie, first choice first; the last is in the cache."""
    import pooch

    folders = [os.environ.get(FOLDER_VARIABLE), pooch.os_cache("pyro_dgm")]
    return [Path(folder) / file.folder / file.name for folder in folders if folder]


def _checked(file: DataFile, path: Path, cure: str) -> bytes:
    content = raw = path.read_bytes()
    try:
        if file.name.endswith(".gz"):
            content = gzip.decompress(raw)
        got = f"{hashlib.sha256(content).hexdigest()} over {len(content)} bytes"
    except (OSError, EOFError, zlib.error) as err:
        got = f"{len(raw)} bytes that do not decompress ({err})"
    if not got.startswith(file.sha256):
        what = "decompressed content" if file.name.endswith(".gz") else "content"
        raise DatasetError(
            f"{path} is truncated or altered: its {what} must have sha256 {file.sha256}; got {got}. {cure}"
        )
    return content


def _download(file: DataFile, source: str, path: Path) -> Path:
    import pooch

    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary folder is a sibling: os.replace is atomic on one file system only.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="downloading-") as folder:
        temporary = Path(folder) / file.name
        pooch.HTTPDownloader(progressbar=True)(source, str(temporary), None)
        _checked(file, temporary, f"This download of {source} was not kept; try again, or place the file yourself.")
        os.replace(temporary, path)
    return path


def _missing(file: DataFile, reason: str) -> DatasetError:
    folders = " and ".join(str(path.parent) for path in _paths(file))
    cure = file.cure or f"Fetch {file.source} elsewhere"
    return DatasetError(
        f"the data file {file.folder}/{file.name} must be in one of the data folders; found none in {folders}, and "
        f"{reason}. {cure.rstrip('.')}, and place it at <folder>/{file.folder}/{file.name} with "
        f"{FOLDER_VARIABLE}=<folder> in the environment."
    )
