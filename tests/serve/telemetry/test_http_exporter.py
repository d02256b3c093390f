"""How batches are posted, and what is tried again."""

import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from vlmoe_serve.telemetry.http_exporter import HttpSpanExporter

from ..collectors import HttpCollector


@pytest.fixture
def spans():
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("one")
    span.end()
    return [span]


@pytest.fixture
def send(spans):
    """send(*statuses, timeout_s): the result of a batch that a collector answers so, and the collector."""
    collectors = []

    def make(*statuses, timeout_s=30.0):
        collectors.append(HttpCollector(*statuses))
        exporter = HttpSpanExporter(collectors[-1].url + "/", timeout_s)
        result = exporter.export(spans)
        assert exporter.force_flush()
        exporter.shutdown()
        return result, collectors[-1]

    yield make
    for collector in collectors:
        collector.stop()


def test_a_batch_is_one_post_of_protobuf_with_the_headers_of_the_environment(send, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20key,x-tenant=a b")
    result, collector = send()
    assert result is SpanExportResult.SUCCESS
    assert [span.name for span in collector.spans] == ["one"]
    ((path, headers),) = collector.posts
    assert path == "/v1/traces"
    assert headers["content-type"] == "application/x-protobuf"
    assert (headers["authorization"], headers["x-tenant"]) == ("Bearer key", "a b")


def test_headers_for_traces_alone_count_for_more(send, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=all")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-tenant=traces")
    _, collector = send()
    assert collector.posts[0][1]["x-tenant"] == "traces"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_collector_that_is_busy_is_asked_again(send, status):
    result, collector = send(status, status)
    assert result is SpanExportResult.SUCCESS
    assert len(collector.posts) == 3
    assert len(collector.spans) == 1


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_refusal_is_not_repeated_and_is_one_line(send, caplog, status):
    with caplog.at_level(logging.WARNING, "vlmoe_serve"):
        result, collector = send(status)
    assert result is SpanExportResult.FAILURE
    assert len(collector.posts) == 1
    assert [record.getMessage() for record in caplog.records] == [f"1 spans were not taken: {status}"]


def test_it_gives_up_when_its_time_is_over(send, caplog):
    with caplog.at_level(logging.WARNING, "vlmoe_serve"):
        result, collector = send(*[503] * 100, timeout_s=0.5)
    assert result is SpanExportResult.FAILURE
    assert len(collector.posts) < 100
    assert caplog.records
