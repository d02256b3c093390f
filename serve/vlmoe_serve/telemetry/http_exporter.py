"""Spans to a collector by OTLP over HTTP, as protobuf, with the client's HTTP library: no further package is needed."""

import logging
import os
import threading
import time
from collections.abc import Sequence

import httpx
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.util.re import parse_env_headers

_log = logging.getLogger(__name__)
_PATH = "/v1/traces"
# what the protocol calls worth another try; 0: there was no answer
_RETRYABLE = (0, 429, 502, 503, 504)
_FIRST_WAIT_S = 0.2


class HttpSpanExporter(SpanExporter):
    """Posts to `ENDPOINT/v1/traces`, with the headers that OTEL_EXPORTER_OTLP_HEADERS names.

    timeout_s: of one batch, its retries included.
    """

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        self._url = endpoint.rstrip("/") + _PATH
        self._timeout_s = timeout_s
        self._ended = threading.Event()
        given = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or os.environ.get(
            "OTEL_EXPORTER_OTLP_HEADERS", ""
        )
        headers = {**parse_env_headers(given, liberal=True), "content-type": "application/x-protobuf"}
        self._client = httpx.Client(headers=headers)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; tried again for as long as its time lasts."""
        content = encode_spans(spans).SerializeToString()
        end_s, wait_s = time.monotonic() + self._timeout_s, _FIRST_WAIT_S
        while True:
            status = self._post(content, end_s - time.monotonic())
            if 200 <= status < 300:
                return SpanExportResult.SUCCESS
            left_s = end_s - time.monotonic()
            if status not in _RETRYABLE or wait_s >= left_s or self._ended.wait(wait_s):
                _log.warning("%d spans were not taken: %s", len(spans), status or "no answer")
                return SpanExportResult.FAILURE
            wait_s *= 2

    def shutdown(self) -> None:
        """Nothing more is sent."""
        self._ended.set()
        self._client.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept here."""
        return True

    def _post(self, content: bytes, timeout_s: float) -> int:
        try:
            return self._client.post(self._url, content=content, timeout=max(timeout_s, 0.01)).status_code
        except httpx.TransportError:
            return 0
