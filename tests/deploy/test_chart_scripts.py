"""The chart's two programs, run as their pods run them: fetching a checkpoint, and asking a question."""

import functools
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

FILES = Path(__file__).parents[2] / "deploy" / "helm" / "vlmoe" / "files"


class Store(http.server.SimpleHTTPRequestHandler):
    """Files, for those who show the right header."""

    def do_GET(self):
        if self.headers.get("Authorization") != "Bearer k":
            self.send_error(401)
            return
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    handler = functools.partial(Store, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def archive(folder, members):
    """A tar file in the store; its sha256."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (folder / "model.tar.gz").write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def fetch(url, sha256, directory, key="Bearer k"):
    return subprocess.run(
        [sys.executable, FILES / "fetch_model.py", f"{url}/model.tar.gz", sha256, directory],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "AUTHORIZATION": key},
    )


@pytest.mark.parametrize("prefix", ["", "mine/"])
def test_a_checkpoint_is_fetched_checked_and_unpacked(store, tmp_path, prefix):
    folder, url = store
    sha256 = archive(folder, {f"{prefix}config.json": b"{}", f"{prefix}labels/vqa.json": b"[]"})
    done = fetch(url, sha256, tmp_path / "fetched" / "m")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "fetched" / "m" / "config.json").read_bytes() == b"{}"
    assert (tmp_path / "fetched" / "m" / "labels" / "vqa.json").is_file()
    assert [path.name for path in (tmp_path / "fetched").iterdir()] == ["m"]


def test_what_is_there_is_not_fetched_again(tmp_path):
    (tmp_path / "m").mkdir()
    assert fetch("http://127.0.0.1:1", 64 * "0", tmp_path / "m").returncode == 0


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("checksum", "its sha256 is"),
        ("key", "401"),
        ("outside", "outside the destination"),
        ("empty", "holds no config.json"),
        ("broken", "file could not be opened"),
    ],
)
def test_what_is_wrong_is_refused_and_leaves_nothing(store, tmp_path, what, said):
    folder, url = store
    members = {"outside": {"config.json": b"{}", "../escaped": b""}, "empty": {"notes.txt": b""}}
    sha256 = archive(folder, members.get(what, {"config.json": b"{}"}))
    if what == "broken":
        (folder / "model.tar.gz").write_bytes(b"no tar")
        sha256 = hashlib.sha256(b"no tar").hexdigest()
    key = "" if what == "key" else "Bearer k"
    done = fetch(url, 64 * "0" if what == "checksum" else sha256, tmp_path / "fetched" / "m", key)
    assert done.returncode == 1
    assert said in done.stderr
    assert list((tmp_path / "fetched").iterdir()) == []


def ask(url, key=""):
    """As the pod of `helm test` does: the file's text is the program."""
    return subprocess.run(
        [sys.executable, "-c", (FILES / "ask.py").read_text(), url],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "KEY": key},
    )


def test_a_server_is_asked(serve, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("one\ntwo\n")
    server = serve("--api-key-file", str(keys))
    done = ask(server.url, "two")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("demo: vqa: ")
    refused = ask(server.url)
    assert refused.returncode == 1
    assert "401" in refused.stderr


def test_nobody_there_is_a_failure():
    assert ask("http://127.0.0.1:1").returncode == 1
