"""Collectors of OpenTelemetry: they receive OTLP over gRPC, or over HTTP."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


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
    """What was received. resources: of everybody who sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, object]] = []

    def take(self, request) -> None:
        for resource in request.resource_spans:
            self.resources.append(_values(resource.resource.attributes))
            self.spans += [_span(each) for scope in resource.scope_spans for each in scope.spans]


class GrpcCollector(Collector):
    def __init__(self) -> None:
        super().__init__()
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request, context):
        self.take(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def stop(self) -> None:
        self._server.stop(None).wait()


class HttpCollector(Collector):
    """statuses: of its first answers; 200 after those. posts: path and headers of every request."""

    def __init__(self, *statuses: int) -> None:
        super().__init__()
        self.posts: list[tuple[str, dict[str, str]]] = []
        left = list(statuses)
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.posts.append(
                    (self.path, {name.lower(): value for name, value in self.headers.items()})
                )
                status = left.pop(0) if left else 200
                if status == 200:
                    collector.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


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
