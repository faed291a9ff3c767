"""Facts about finding, checking and downloading data files."""

import gc
import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading

import pytest

from pyro_dgm.datasets import DatasetError, load
from pyro_dgm.datasets.files import DataFile, locate, read

CONTENT = b"a data file\n" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An empty data folder and an empty cache, and no way out but to this machine."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    (data / "folder").mkdir(parents=True)
    monkeypatch.setenv("PYRO_DGM_DATA", str(data))
    monkeypatch.setattr("pooch.os_cache", lambda name: cache / name)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    return data / "folder", cache / "pyro_dgm" / "folder"


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/public over HTTP on this machine; a path that ends in 'cut' breaks off half-way."""
    public = tmp_path / "public"
    public.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=public)

        def do_GET(self):
            if not self.path.endswith("cut"):
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: len(CONTENT) // 2])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield public, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()
    gc.collect()  # pooch leaves the connection of a failed download to the garbage collector


def everything_below(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() or not any(path.iterdir()))


def test_data_folder_comes_before_the_cache(folders):
    data, cache = folders
    file = DataFile("folder", "a.txt", SHA256, source=None)
    cache.mkdir(parents=True)
    (cache / "a.txt").write_bytes(CONTENT)
    assert locate(file) == cache / "a.txt"
    (data / "a.txt").write_bytes(CONTENT)
    assert locate(file) == data / "a.txt"
    assert read(file) == CONTENT


def test_unset_data_folder_leaves_the_cache(folders, monkeypatch):
    _, cache = folders
    monkeypatch.setenv("PYRO_DGM_DATA", "")
    cache.mkdir(parents=True)
    (cache / "a.txt").write_bytes(CONTENT)
    assert locate(DataFile("folder", "a.txt", SHA256, source=None)) == cache / "a.txt"


def test_compressed_file_is_known_by_its_content_however_it_is_compressed(folders):
    data, _ = folders
    file = DataFile("folder", "a.gz", SHA256, source=None)
    for level in (1, 9):
        (data / "a.gz").write_bytes(gzip.compress(CONTENT, level))
        assert read(file) == CONTENT


@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_damaged_file_is_refused_by_name_with_both_digests(folders, name, damage):
    path = folders[0] / name
    content = {"truncated": CONTENT[:-1], "altered": b"A" + CONTENT[1:], "empty": b""}[damage]
    path.write_bytes(gzip.compress(content) if name == "a.gz" else content)
    with pytest.raises(DatasetError) as caught:
        read(DataFile("folder", name, SHA256, "http://example.org/a"))
    message = str(caught.value)
    assert f"{path} is truncated or altered" in message
    assert SHA256 in message
    assert f"got {hashlib.sha256(content).hexdigest()} over {len(content)} bytes" in message
    assert f"Delete {path} and fetch it again from http://example.org/a" in message


@pytest.mark.parametrize("raw", [b"no gzip", gzip.compress(CONTENT, mtime=0)[:-20]], ids=["no gzip", "cut off"])
def test_compressed_file_cut_off_is_refused_by_name(folders, raw):
    path = folders[0] / "a.gz"
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match=f"{path} is truncated or altered: .* {SHA256}; got .* do not decompress"):
        read(DataFile("folder", "a.gz", SHA256, source=None))


@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
def test_download_is_checked_and_kept_in_the_cache(folders, server, name, capsys):
    public, url = server
    (public / name).write_bytes(gzip.compress(CONTENT) if name == "a.gz" else CONTENT)
    file = DataFile("folder", name, SHA256, url + name)
    assert locate(file) == folders[1] / name
    (public / name).unlink()
    assert read(file) == CONTENT
    assert everything_below(folders[1]) == [name]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", ["other.txt", "other.gz", "cut", "absent"])
def test_failed_download_leaves_nothing_behind(folders, server, name, capsys):
    public, url = server
    (public / "other.txt").write_bytes(CONTENT[1:])
    (public / "other.gz").write_bytes(gzip.compress(CONTENT)[:-1])
    with pytest.raises(DatasetError, match=r"truncated or altered|downloading .* failed") as caught:
        read(DataFile("folder", name, SHA256, url + name))
    assert url + name in str(caught.value)
    assert everything_below(folders[1].parent) == ["folder"]  # which is empty


def test_missing_file_without_network_names_the_file_the_folders_and_the_cure(folders):
    data, cache = folders
    with pytest.raises(DatasetError) as caught:
        read(DataFile("folder", "a.txt", SHA256, "http://127.0.0.1:9/a.txt"))  # the discard port: refused
    message = str(caught.value)
    assert "the data file folder/a.txt must be in one of the data folders" in message
    assert f"found none in {data} and {cache}" in message
    assert "downloading http://127.0.0.1:9/a.txt failed" in message
    assert "place it at <folder>/folder/a.txt with PYRO_DGM_DATA=<folder>" in message


def test_cache_that_cannot_be_written_is_a_clear_error(folders, server, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    (server[0] / "a.txt").write_bytes(CONTENT)
    with pytest.raises(DatasetError, match=r"folder/a\.txt must be in one of the data folders"):
        read(DataFile("folder", "a.txt", SHA256, server[1] + "a.txt"))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "mnist/train-images-idx3-ubyte.gz"),
        ("fashion_mnist", "fashion_mnist/train-images-idx3-ubyte.gz"),
        ("binarized_mnist", "binarized_mnist/binarized_mnist_train.amat"),
        ("jsb_chorales", "polyphonic_music/JSB_Chorales.mat"),
        ("tiny_shakespeare", "text/tinyshakespeare.txt"),
        ("names", "text/names.txt"),
        ("qm9_smiles", "molecules/qm9_smiles.csv"),
    ],
)
def test_every_loader_names_its_missing_file(folders, monkeypatch, name, file):
    def no_network(*args):
        raise ConnectionError("no network")

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", no_network)
    with pytest.raises(DatasetError, match=f"the data file {file} must be in one of the data folders"):
        load(name)


def test_importing_is_lean_and_needs_no_network():
    code = (
        "import socket, sys\n"
        "socket.socket.connect = None  # calling it fails\n"
        "import pyro_dgm.datasets\n"
        "assert not {'sklearn', 'scipy', 'pooch', 'matplotlib', 'arviz', 'requests', 'pyro'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
