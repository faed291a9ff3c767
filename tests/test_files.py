"""Files are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from pyro_dgm.files import replace_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["picture.png", "archive.tar.gz", "no_suffix", ".hidden"])
def test_a_new_file_appears_when_it_is_complete(tmp_path, name):
    path = tmp_path / name
    with replace_atomically(str(path)) as draft:
        assert draft.parent == tmp_path
        draft.write_bytes(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert names(tmp_path) == [name]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    path = tmp_path / "file.txt"
    with replace_atomically(path) as draft:
        left = draft
        draft.write_text("first")
    left.write_text("half of something")
    with replace_atomically(path) as draft:
        draft.write_text("second")
    assert path.read_text() == "second"
    assert names(tmp_path) == ["file.txt"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replace_atomically(tmp_path / "none" / "file.txt") as draft:
        draft.write_text("content")
    assert names(tmp_path) == []


def test_the_old_file_is_there_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replace_atomically(path) as draft:
        draft.write_text("new, and half w")
        assert path.read_text() == "old"
        draft.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with replace_atomically(path) as draft:
            draft.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_disk_that_is_full_on_syncing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), replace_atomically(path) as draft:
        draft.write_text("new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_file_that_was_not_written_is_an_error(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replace_atomically(path):
        pass
    assert path.read_text() == "old"
