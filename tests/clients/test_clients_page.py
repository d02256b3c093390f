"""Runs every block of docs/clients.md, in order, as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, png: bytes) -> Path:
    for name in ("shoe", "cat", "dog"):
        (tmp_path / f"{name}.png").write_bytes(png)
    return tmp_path


def run(command: list[str], folder: Path, url: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "VLMOE_URL": url, "PYTHONWARNINGS": "error"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_python_blocks_run(server, folder):
    found = blocks("python")
    assert len(found) >= 9
    printed = run(
        [sys.executable, "-c", "\n".join(found).replace("http://127.0.0.1:8000", server.url)],
        folder,
        server.url,
    )
    assert "404 collection_not_found no collection 'nowhere'" in printed
    assert "['demo'] True" in printed
    assert server.collections == {}


def test_the_shell_blocks_run(server, folder):
    install, *found = blocks("bash")
    assert install == "pip install vlmoe\n"
    script = "set -euo pipefail\n" + "\n".join(found).replace("http://127.0.0.1:8000", server.url)
    printed = run(["bash", "-c", script], folder, server.url)
    assert "2 added to gallery" in printed
    assert printed.count('"answers"') == 1
