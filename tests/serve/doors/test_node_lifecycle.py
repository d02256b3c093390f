"""Two servers as two nodes: the one with doors, and the one without; on one host, and in two network namespaces."""

import contextlib
import io
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from ..ports import free_port
from ..waiting import PATIENCE_S, wait_until

MAIN = "import sys; from vlmoe_serve.main import run; sys.exit(run(sys.argv[1:]))"
START_S = 240.0


class Node:
    """A server process. within: a command in front of it."""

    def __init__(self, *arguments: str, within: Sequence[str] = ()) -> None:
        self.lines: queue.Queue[str] = queue.Queue()
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [*within, sys.executable, "-c", MAIN, "--threads", "1", "--dtype", "fp32", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._threads = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines.put)),
            threading.Thread(target=self._read, args=(self.process.stderr, self.log.append)),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: io.TextIOBase, put: Callable[[str], object]) -> None:
        with stream:
            for line in stream:
                put(line)

    def url(self, after: str) -> str:
        """The address in the line that begins so."""
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            with contextlib.suppress(queue.Empty):
                line = self.lines.get(timeout=0.1)
                if line.startswith(after):
                    return next(word for word in line.split() if word.startswith("http"))
            assert self.process.poll() is None, "".join(self.log)
        raise AssertionError("".join(self.log))

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            for thread in self._threads:
                thread.join()


@pytest.fixture
def start_node() -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def start(*arguments: str, within: Sequence[str] = ()) -> Node:
        made.append(Node(*arguments, within=within))
        return made[-1]

    yield start
    for node in made:
        node.end(signal.SIGKILL)


def until_ready(url: str) -> None:
    end_s = time.monotonic() + START_S
    while httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code != 200:
        assert time.monotonic() < end_s
        time.sleep(0.05)


@pytest.mark.slow
def test_a_node_without_doors_says_how_it_is_and_ends_with_node_0(
    start, start_node: Callable[..., Node], checkpoint: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("a key of this test alone")
    group = (
        *("--model", f"tiny={checkpoint}", "--ranks", "2", "--nodes", "2"),
        *("--rendezvous", f"127.0.0.1:{free_port()}", "--rendezvous-key-file", str(key)),
    )
    node = start_node(*group, "--node-rank", "1", "--port", "0")
    health = node.url("vlmoe node 1 of 2: health at ")
    assert httpx.get(f"{health}/healthz", timeout=PATIENCE_S).json() == {"status": "ok"}
    waiting = httpx.get(f"{health}/readyz", timeout=PATIENCE_S)
    assert waiting.status_code == 503
    assert waiting.json()["error"]["code"] == "engine_unavailable"
    refused = httpx.post(f"{health}/vqa", json={}, timeout=PATIENCE_S)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    assert httpx.post(f"{health}/readyz", timeout=PATIENCE_S).status_code == 405

    server = start_node(*group, "--port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path / "data"))
    url = server.url("vlmoe is ready on ")
    until_ready(health)
    alone = start().client.post("/embed", json={"text": "a sleeping cat"}).json()
    answer = httpx.post(f"{url}/embed", json={"text": "a sleeping cat"}, timeout=PATIENCE_S)
    assert answer.json()["embedding"] == alone["embedding"]

    # asked to end first, it stays while node 0 needs it
    node.process.send_signal(signal.SIGTERM)
    wait_until(lambda: httpx.get(f"{health}/readyz", timeout=PATIENCE_S).status_code != 200)
    assert (
        httpx.get(f"{health}/readyz", timeout=PATIENCE_S).json()["error"]["message"] == "this node is ending"
    )
    assert (
        httpx.post(f"{url}/embed", json={"text": "a sleeping cat"}, timeout=PATIENCE_S).json()
        == answer.json()
    )
    assert server.end() == 0
    assert node.process.wait(PATIENCE_S) == 0


NAMES = ("vlmoe-test-a", "vlmoe-test-b")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two hosts as far as the network can tell, with one cable between them."""
    if shutil.which("ip") is None:
        pytest.skip("there is no ip: install iproute2")
    try:
        for name in NAMES:
            ip("netns", "add", name)
        try:
            ends = ("netns", NAMES[0], "type", "veth", "peer", "name", "vlmoe-b", "netns", NAMES[1])
            ip("link", "add", "vlmoe-a", *ends)
            for name, end, address in zip(
                NAMES, ("vlmoe-a", "vlmoe-b"), ("10.99.7.1", "10.99.7.2"), strict=True
            ):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
                ip("-n", name, "link", "set", end, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no cable between network namespaces here: {error.stderr.strip()}")
        yield NAMES
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=30)


@pytest.mark.slow
def test_nodes_in_two_network_namespaces_answer_as_one(
    start, start_node: Callable[..., Node], namespaces: tuple[str, str], checkpoint: Path, tmp_path: Path
) -> None:
    """Neither sees the other's loopback interface; two ranks on each."""
    inside = [("ip", "netns", "exec", name) for name in namespaces]
    group = (
        *("--model", f"tiny={checkpoint}", "--ranks", "4", "--nodes", "2"),
        *("--rendezvous", "10.99.7.1:29500"),
    )
    node = start_node(*group, "--node-rank", "1", "--port", "8000", within=inside[1])
    server = start_node(
        *(*group, "--port", "8000", "--grpc-port", "0", "--data-dir", str(tmp_path / "data")),
        within=inside[0],
    )
    server.url("vlmoe is ready on ")
    program = (
        "import httpx, json; "
        "answer = httpx.post('http://127.0.0.1:8000/embed', json={'text': 'two pairs of scissors'}, timeout=60); "
        "print(json.dumps(answer.json()['embedding']))"
    )
    told = subprocess.run(
        [*inside[0], sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    alone = start().client.post("/embed", json={"text": "two pairs of scissors"}).json()
    assert json.loads(told.stdout) == alone["embedding"]
    assert "whoever reaches port 29500 may join" in "".join(server.log)
    assert "node 1 came from 10.99.7.2" in "".join(server.log)
    assert server.end() == 0
    assert node.end() == 0
