"""Runs what README.md says against a real server with the demo checkpoint, and compares the answers it shows."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("collections")
    command = [str(BIN / "vlmoe"), "serve", "--port", "0", "--data-dir", str(data), "--threads", "1"]
    log = data / "log"
    with log.open("w") as stderr:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if found := re.search(r"ready on (http://\S+)", line):
                yield found.group(1)
                break
        else:
            pytest.fail(log.read_text())
    finally:
        server.terminate()
        server.communicate(timeout=240)
    assert server.returncode == 0


def steps() -> list[tuple[str, str]]:
    """(command, what the README shows as its output), in order."""
    found = re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [
        (command.strip(), output.strip())
        for block in found
        for command, output in re.findall(r"^\$ (.*?)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    ]


def curl(command: str) -> httpx.Response:
    """The request that a curl command line sends."""
    words = iter(shlex.split(command)[1:])
    method, target, form, headers, content = "GET", "", {}, {}, None
    files = {}
    for word in words:
        if word in ("-s", "-i"):
            continue
        if word == "-X":
            method = next(words)
        elif word == "-F":
            name, _, value = next(words).partition("=")
            if value.startswith("@"):
                files[name] = (Path(value[1:]).name, (ROOT / value[1:]).read_bytes())
            else:
                form[name] = value
            method = "POST"
        elif word == "-H":
            name, _, value = next(words).partition(":")
            headers[name] = value.strip()
        elif word == "-d":
            content, method = next(words), "POST"
        else:
            target = word
    return httpx.request(
        method,
        f"http://{target}",
        headers=headers,
        content=content,
        data=form or None,
        files=files or None,
        timeout=240,
    )


def same(shown: Any, real: Any) -> bool:
    """Equal, but for numbers that are no counts: another processor rounds them differently."""
    if isinstance(shown, dict) and isinstance(real, dict):
        return shown.keys() == real.keys() and all(same(shown[key], real[key]) for key in shown)
    if isinstance(shown, list) and isinstance(real, list):
        return len(shown) == len(real) and all(map(same, shown, real))
    if isinstance(shown, float) or isinstance(real, float):
        return shown == pytest.approx(real, abs=0.05)
    return bool(shown == real)


def test_every_command_answers_as_shown(url: str):
    commands = steps()
    assert len(commands) >= 6
    address = url.removeprefix("http://")
    for command, shown in commands:
        command = command.replace("127.0.0.1:8000", address)
        if command.startswith("curl "):
            response = curl(command)
            assert same(json.loads(shown), response.json()), (command, response.text)
        else:
            program, *arguments = shlex.split(command)
            paths = [str(path) for a in arguments for path in (sorted(ROOT.glob(a)) if "*" in a else [a])]
            done = subprocess.run(
                [str(BIN / Path(program).name), *paths],
                cwd=ROOT,
                env={**os.environ, "VLMOE_URL": url},
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == 0, done.stderr
            words = re.sub(r"\d+\.\d+", "#", done.stdout).split()
            assert words == re.sub(r"\d+\.\d+", "#", shown).split(), command


def test_the_two_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("serve", "test"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
