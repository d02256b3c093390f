"""Spans through OpenTelemetry's SDK to a collector: OTLP over gRPC or HTTP, in batches, from a thread of the SDK.

What is sent: routes, statuses, request ids, model names, times and sizes. Never a path, a query, a body or a name that
users chose. Sampling and batching obey the variables of the SDK (OTEL_TRACES_SAMPLER, OTEL_BSP_...), and so does
the choice of the protocol.
"""

import os
import time
from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from vlmoe_serve import __version__
from vlmoe_serve.telemetry.trace import Attributes

# also how long a server that ends may wait for a collector that does not answer
_EXPORT_TIMEOUT_S = 3.0
_PROPAGATOR = TraceContextTextMapPropagator()
_PARENT = ("traceparent", "tracestate")
_PROTOCOLS = ("grpc", "http/protobuf")


class OtlpTraces:
    """Sends to one collector: `http://HOST:PORT` in the clear, `https://HOST:PORT` over TLS.

    Raises:
        ValueError: OTEL_EXPORTER_OTLP_PROTOCOL names another protocol than `grpc` and `http/protobuf`.
    """

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({"service.name": "vlmoe", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint)))
        self._tracer = self._provider.get_tracer("vlmoe", __version__)

    def begin(self, name: str, header: Callable[[str], str | None]) -> "OtlpTrace":
        """A call has come, with its parent if it names one; a `traceparent` that is none is read over."""
        carrier = {key: value for key in _PARENT if (value := header(key)) is not None}
        parent = _PROPAGATOR.extract(carrier, Context())
        return OtlpTrace(self._tracer, self._tracer.start_span(name, context=parent, kind=SpanKind.SERVER))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class OtlpTrace:
    """One call's spans."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer, self._span = tracer, span
        self._context = set_span_in_context(span, Context())
        # spans have the time of day; the service measures on a clock that nobody sets
        self._epoch_ns = time.time_ns() - time.monotonic_ns()

    @property
    def traceparent(self) -> str:
        """The door's span."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, self._context)
        return carrier["traceparent"]

    def phase(self, name: str, start_s: float, end_s: float, attributes: Attributes) -> None:
        """A part of the call that is over."""
        if not self._span.is_recording():
            return
        span = self._tracer.start_span(
            name, context=self._context, attributes=attributes, start_time=self._ns(start_s)
        )
        span.end(self._ns(end_s))

    def end(self, name: str, attributes: Attributes, *, failed: bool) -> None:
        """The call is over."""
        self._span.update_name(name)
        self._span.set_attributes(attributes)
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def _ns(self, monotonic_s: float) -> int:
        return self._epoch_ns + round(monotonic_s * 1e9)


def _exporter(endpoint: str) -> SpanExporter:
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    name, protocol = next(((name, os.environ[name]) for name in names if os.environ.get(name)), ("", "grpc"))
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_S)
    if protocol == "http/protobuf":
        from vlmoe_serve.telemetry.http_exporter import HttpSpanExporter

        return HttpSpanExporter(endpoint, _EXPORT_TIMEOUT_S)
    raise ValueError(f"{name} must be one of {', '.join(_PROTOCOLS)}, got {protocol!r}")
