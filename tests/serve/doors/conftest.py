"""A tiny checkpoint with a head for every task, and real server processes that serve it."""

import base64
import contextlib
import io
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2_grpc
from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.network import VLMoE
from vlmoe_model.tokenizer import train_wordpiece

from ..processes import children
from ..waiting import PATIENCE_S

TEXTS = ["what shape is in the image", "is there a red circle", "a sleeping cat", "two pairs of scissors"]
LABELS = {
    "questions": ["yes", "no", "circle", "square"],
    "shapes": ["round", "square", "star"],
    "entailment": ["no", "yes"],
}
_MAIN = "import sys; from vlmoe_serve.main import run; sys.exit(run(sys.argv[1:]))"


class Server:
    """One server process on a free port of the loopback interface."""

    def __init__(self, *arguments: str, start_s: float = PATIENCE_S) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, "--port", "0", "--threads", "1", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._errors: list[str] = []
        self._judged = 0
        self._threads = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._lines.put), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self._errors.append), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.url, self.grpc = self._wait_until_ready(start_s)
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)

    def _read(self, stream: io.TextIOBase, put: Callable[[str], object]) -> None:
        with stream:
            for line in stream:
                put(line)

    def _wait_until_ready(self, start_s: float) -> tuple[str, str]:
        end_s = time.monotonic() + start_s
        while time.monotonic() < end_s:
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=0.1)
                if line.startswith("vlmoe is ready on "):
                    words = line.split()
                    return words[4], words[6].rpartition("//")[2] if words[5] == "and" else ""
            if self.process.poll() is not None:
                break
        self.process.kill()
        self.process.wait()
        raise RuntimeError(f"the server did not start: {self.log}")

    @property
    def log(self) -> str:
        """What it wrote to stderr so far."""
        return "".join(self._errors)

    @property
    def lately(self) -> str:
        """What it wrote to stderr since this test began."""
        return "".join(self._errors[self._judged :])

    @property
    def tracebacks(self) -> str:
        """What this test had it write, from the first traceback on; empty, if all went as foreseen."""
        lately = self.lately
        return lately[max(0, lately.find("Traceback") - 200) :] if "Traceback" in lately else ""

    def judge_from_here(self) -> None:
        """Leave what it wrote so far to the test that is over: one fault fails one test, not all after it."""
        self._judged = len(self._errors)

    @property
    def engine_pid(self) -> int:
        """Its engine process; there is one model."""
        (pid,) = self.children()
        return pid

    def children(self) -> list[int]:
        return children(self.process.pid)

    @contextlib.contextmanager
    def engine_paused(self) -> Iterator[None]:
        """Nothing is computed inside."""
        pid = self.engine_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def metric(self, line: str) -> float:
        """The value of one line of /metrics, 0 if it is not there."""
        for found in self.client.get("/metrics").text.splitlines():
            name, _, value = found.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and wait; its exit code."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=PATIENCE_S)
        finally:
            self.process.kill()
            for thread in self._threads:
                thread.join()


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    def make(seed: int) -> Path:
        image = ImageSpec(size=16)
        config = ModelConfig(
            dim=32,
            num_layers=2,
            num_heads=2,
            ffn_dim=64,
            vocab_size=150,
            image_size=16,
            patch_size=4,
            max_text=24,
            moe_blocks=(1,),
            num_experts=4,
            vl_start=1,
            heads=(
                HeadConfig(name="questions", task="vqa", out_dim=4, image=image, max_text=24),
                HeadConfig(name="shapes", task="image_classification", out_dim=3, image=image, max_text=0),
                HeadConfig(name="entailment", task="text_classification", out_dim=2, image=None, max_text=24),
                HeadConfig(name="matching", task="contrastive", out_dim=8, image=image, max_text=24),
            ),
        )
        torch.manual_seed(seed)
        path = tmp_path_factory.mktemp("checkpoint") / "tiny"
        save(path, config, VLMoE(config).state_dict(), train_wordpiece(TEXTS, 140), LABELS)
        return path

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[[int], Path]) -> Path:
    return make_checkpoint(0)


@pytest.fixture(scope="session")
def started() -> list[Server]:
    """Every server of this session."""
    return []


@pytest.fixture(autouse=True)
def _judged_by_its_own_log(started: list[Server]) -> Iterator[None]:
    # afterwards, not before: what a server says while it starts belongs to the test that it starts for
    yield
    for server in started:
        server.judge_from_here()


@pytest.fixture(scope="session")
def start(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, started: list[Server]
) -> Iterator[Callable[..., Server]]:
    """start(*arguments): a server of the tiny checkpoint; ended with the session at the latest."""

    def begin(*arguments: str, start_s: float = PATIENCE_S) -> Server:
        given = [*arguments]
        if "--model" not in given:
            given += ["--model", f"tiny={checkpoint}"]
        if "--cache-mb" not in given:
            # most tests are about the engine's path; those of the cache turn it on
            given += ["--cache-mb", "0"]
        if "--data-dir" not in given:
            given += ["--data-dir", str(tmp_path_factory.mktemp("data"))]
        server = Server("--dtype", "fp32", *given, start_s=start_s)
        started.append(server)
        return server

    yield begin
    for server in started:
        server.end()


@pytest.fixture(scope="session")
def server(start: Callable[..., Server]) -> Server:
    """The server that tests share; they leave it as they found it."""
    return start()


@pytest.fixture
def client(server: Server) -> httpx.Client:
    return server.client


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    def make(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (20, 20)) -> bytes:
        image = Image.new("RGB", size, (255, 255, 255))
        image.paste(colour, (4, 4, size[0] - 4, size[1] // 2))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def image(png: Callable[..., bytes]) -> str:
    """A picture as JSON carries it."""
    return base64.b64encode(png()).decode()


@dataclass(frozen=True, slots=True)
class Refused:
    """A failed call as its caller sees it."""

    code: str
    reason: str
    param: str | None
    status: str
    retry_s: float | None
    message: str


@pytest.fixture
def stub(server: Server) -> Iterator[vlmoe_pb2_grpc.VLMoEStub]:
    """Calls the server that tests share, over gRPC."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield vlmoe_pb2_grpc.VLMoEStub(channel)


@pytest.fixture(scope="session")
def refused() -> Callable[..., Refused]:
    """refused(call, *arguments): the error of a call that must fail, read with Google's own messages."""

    def make(call: Callable[..., object], *arguments: object, **more: object) -> Refused:
        with pytest.raises(grpc.RpcError) as caught:
            call(*arguments, **more)
        return read(caught.value)

    def read(error: grpc.RpcError) -> Refused:
        status = rpc_status.from_call(error)
        assert status is not None, error
        assert (status.code, status.message) == (error.code().value[0], error.details())
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(info)
        assert info.domain == "vlmoe"
        waits = len(status.details) > 1 and status.details[1].Unpack(retry)
        return Refused(
            error.code().name,
            info.reason,
            info.metadata.get("param"),
            info.metadata["status"],
            retry.retry_delay.ToNanoseconds() / 1e9 if waits else None,
            status.message,
        )

    return make
