"""The page at /, in a real browser."""

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from ..waiting import PATIENCE_S

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="needs chromium or google-chrome in PATH")


class Page:
    """One page of a headless Chromium, spoken to by the DevTools protocol over two pipes."""

    def __init__(self, program: str, profile: Path, url: str) -> None:
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        self._rest = b""
        self._ids = itertools.count(1)
        self.errors: list[str] = []
        arguments = [program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            # the protocol is spoken on the descriptors 3 and 4
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{theirs} 4>&{ours}',
                "bash",
                *arguments,
                f"--user-data-dir={profile}",
            ],
            pass_fds=[theirs, ours],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs)
        os.close(ours)
        self._session: str | None = None
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Page", "DOM", "Log"):
            self._send(f"{domain}.enable")
        self._send("Page.navigate", url=url)

    def __enter__(self) -> "Page":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def value(self, script: str) -> Any:
        """What an expression is on the page."""
        found = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, script: str, seconds: float = PATIENCE_S) -> Any:
        """Its value as soon as it is true."""
        end_s = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < end_s, f"{script} did not become true; {self.errors}"
            time.sleep(0.05)
        return found

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        root = self._send("DOM.getDocument")["root"]["nodeId"]
        node = self._send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def _send(self, method: str, **params: object) -> Any:
        number = next(self._ids)
        message: dict[str, object] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") == "Runtime.exceptionThrown" or (
                answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error"
            ):
                self.errors.append(json.dumps(answer["params"])[:500])

    def _receive(self) -> Any:
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 16)
            assert part, "the browser ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@pytest.fixture
def page(server, tmp_path):
    with Page(PROGRAM, tmp_path / "profile", f"{server.url}/") as page:
        page.wait_for("document.querySelector('#models')?.textContent.includes('tiny')")
        yield page


def submit(page, form, **fields):
    for name, value in fields.items():
        page.value(f"document.querySelector('#{form} [name={name}]').value = {value!r}")
    page.value(f"document.querySelector('#{form} button').click()")


def test_the_script_finds_what_it_looks_for():
    folder = resources.files("vlmoe_serve").joinpath("page")
    html, script = (folder.joinpath(name).read_text() for name in ("index.html", "page.js"))
    wanted = set(re.findall(r'byId\("([^"]+)"\)', script)) | set(re.findall(r'onSubmit\("([^"]+)"', script))
    assert wanted >= {"explain", "layer", "patches", "words", "experts"}
    assert wanted <= set(re.findall(r' id="([^"]+)"', html))


@pytest.mark.slow
@needs_browser
def test_patches_have_the_colour_of_their_expert(page, client, png, image, tmp_path):
    (tmp_path / "shape.png").write_bytes(png())
    page.choose_file("#file", tmp_path / "shape.png")
    page.wait_for("!document.getElementById('preview').hidden")
    submit(page, "explain")
    page.wait_for("document.querySelectorAll('#patches rect').length")
    asked = {"task": "classify", "image": image}
    (layer,) = client.post("/explain/routing", json=asked).json()["layers"]
    experts = [token["experts"][0] for token in layer["tokens"][1:]]
    shown = page.value("[...document.querySelectorAll('#patches rect')].map((one) => +one.dataset.expert)")
    assert shown == experts
    fills = page.value(
        "[...document.querySelectorAll('#patches rect')].map((one) => getComputedStyle(one).fill)"
    )
    assert len(set(zip(experts, fills, strict=True))) == len(set(fills)) == len(set(experts))
    words = page.value("[...document.querySelectorAll('#words span')].map((one) => one.textContent)")
    assert words == ["[I_CLS]"]
    titles = page.value("document.querySelector('#patches rect title').textContent")
    assert re.fullmatch(r"row 1, column 1: V\d \(\d\.\d\d\)", titles)
    assert page.errors == []


@pytest.mark.slow
@needs_browser
def test_a_question_is_shown_word_by_word(page, png, tmp_path):
    (tmp_path / "shape.png").write_bytes(png())
    page.choose_file("#file", tmp_path / "shape.png")
    page.wait_for("!document.getElementById('preview').hidden")
    submit(page, "explain", question="is there a red circle")
    page.wait_for("document.querySelectorAll('#words span').length > 1")
    words = page.value("[...document.querySelectorAll('#words span')].map((one) => one.textContent)")
    assert words == ["[T_CLS]", "is", "there", "a", "red", "circle", "[T_SEP]", "[I_CLS]"]
    # in the tiny model's only mixture block pairs go through the dense layer
    assert page.value("document.getElementById('experts').textContent") == "VL0: 24"
    submit(page, "ask", question="is there a red circle")
    page.wait_for("document.querySelectorAll('#ask-answers li').length")
    assert page.errors == []


@pytest.mark.slow
@needs_browser
def test_without_a_picture_it_says_so(page):
    submit(page, "explain")
    page.wait_for("document.getElementById('status').textContent === 'choose a picture first'")
    assert page.value("document.getElementById('routes').hidden")
