"""What tests of the server share: a real engine process that needs no torch, and jobs for it."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vlmoe_model.inputs import Example, Job
from vlmoe_serve.engine.base import EngineOptions

FACTORY = "toy_engine:load"


@dataclass(frozen=True, slots=True)
class Toy:
    """How to start `toy_engine.py`, and the directory where it keeps its files."""

    directory: Path
    factory: str = FACTORY

    @property
    def options(self) -> EngineOptions:
        return EngineOptions(self.directory)

    def batch_sizes(self) -> list[int]:
        """Jobs of each batch it began, since its warm-ups."""
        return [int(line) for line in (self.directory / "batches").read_text().split()]

    def release(self) -> None:
        """Let go of every batch that is held."""
        (self.directory / "go").touch()


@dataclass(frozen=True, slots=True)
class Span:
    """What a collector was sent of one span."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, object]


class Collector:
    """A collector of OpenTelemetry: receives OTLP over gRPC. resources: of everybody who sent."""

    def __init__(self) -> None:
        import grpc
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

        self.spans: list[Span] = []
        self.resources: list[dict[str, object]] = []
        self._answer = trace_service_pb2.ExportTraceServiceResponse
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request, context):
        for resource in request.resource_spans:
            self.resources.append(_values(resource.resource.attributes))
            self.spans += [_span(each) for scope in resource.scope_spans for each in scope.spans]
        return self._answer()

    def stop(self) -> None:
        self._server.stop(None).wait()


def _span(each) -> Span:
    return Span(
        name=each.name,
        trace=each.trace_id.hex(),
        id=each.span_id.hex(),
        parent=each.parent_span_id.hex(),
        kind=each.kind,
        start_ns=each.start_time_unix_nano,
        end_ns=each.end_time_unix_nano,
        failed=each.status.code == each.status.STATUS_CODE_ERROR,
        attributes=_values(each.attributes),
    )


def _values(attributes) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@pytest.fixture
def collector():
    receiver = Collector()
    yield receiver
    receiver.stop()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "engine"), prepend=os.pathsep)
    return Toy(tmp_path)


@pytest.fixture
def job() -> Callable[..., Job]:
    def make(first: int, length: int = 4, size: int | None = 4) -> Job:
        tokens = np.arange(length, dtype=np.int32)
        tokens[0] = first
        image = None if size is None else np.full((size, size, 3), first % 251, np.uint8)
        return Job("toy", Example(image, tokens))

    return make


@pytest.fixture
def answers() -> Callable[[Sequence[Job]], list[list[float]]]:
    """What the toy engine says to these jobs."""

    def make(jobs: Sequence[Job]) -> list[list[float]]:
        return [
            [
                0.0 if job.example.image is None else float(job.example.image.sum(dtype=np.int64)),
                0.0 if job.example.tokens is None else float(job.example.tokens.sum()),
                0.0 if job.example.tokens is None else float(len(job.example.tokens)),
            ]
            for job in jobs
        ]

    return make
