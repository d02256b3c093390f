"""Spans as a real collector receives them."""

import logging
import time

import pytest

from vlmoe_serve.telemetry.otlp import OtlpTraces

from ..waiting import PATIENCE_S

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=1"}
UNSAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}


def test_a_call_and_its_phases_are_one_trace_below_the_callers_span(collector):
    traces = OtlpTraces(collector.url)
    trace = traces.begin("POST", PARENT.get)
    now_s = time.monotonic()
    trace.phase("encode", now_s, now_s + 0.25, {"vlmoe.jobs": 2})
    trace.end("POST /vqa", {"http.response.status_code": 200}, failed=False)
    traces.close()
    encode, door = collector.spans
    assert (door.name, door.trace, door.parent) == (
        "POST /vqa",
        PARENT["traceparent"][3:35],
        "b7ad6b7169203331",
    )
    assert (encode.name, encode.trace, encode.parent) == ("encode", door.trace, door.id)
    assert trace.traceparent == f"00-{door.trace}-{door.id}-01"
    assert (door.kind, encode.kind) == (2, 1), "server, internal"
    assert (door.attributes, encode.attributes) == ({"http.response.status_code": 200}, {"vlmoe.jobs": 2})
    assert encode.end_ns - encode.start_ns == pytest.approx(0.25e9, abs=1000)
    # the time of day, whatever clock the service measures on
    assert abs(encode.start_ns - time.time_ns()) < 60e9
    assert not door.failed
    assert collector.resources[0]["service.name"] == "vlmoe"


def test_our_own_faults_are_marked(collector):
    traces = OtlpTraces(collector.url)
    traces.begin("POST", {}.get).end("POST /vqa", {"http.response.status_code": 503}, failed=True)
    traces.close()
    assert [span.failed for span in collector.spans] == [True]


@pytest.mark.parametrize("value", ["", "garbage", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "0" * 10_000])
def test_a_traceparent_that_is_none_begins_a_trace(collector, value, caplog):
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    traces = OtlpTraces(collector.url)
    trace = traces.begin("POST", {"traceparent": value}.get)
    trace.end("POST /vqa", {}, failed=False)
    traces.close()
    (span,) = collector.spans
    assert (span.parent, len(span.trace)) == ("", 32)
    assert trace.traceparent.startswith(f"00-{span.trace}-{span.id}-")


def test_what_the_caller_does_not_sample_is_not_sent_but_goes_on(collector):
    traces = OtlpTraces(collector.url)
    trace = traces.begin("POST", UNSAMPLED.get)
    trace.phase("encode", 0.0, 1.0, {})
    trace.end("POST /vqa", {}, failed=False)
    traces.close()
    assert collector.spans == []
    assert trace.traceparent.startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert trace.traceparent.endswith("-00")


def test_a_collector_that_is_not_there_keeps_nobody_waiting_for_long(collector, caplog):
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    collector.stop()
    traces = OtlpTraces(collector.url)
    traces.begin("POST", {}.get).end("POST /vqa", {}, failed=False)
    start_s = time.monotonic()
    traces.close()
    assert time.monotonic() - start_s < PATIENCE_S, "a bound, not a measurement"


def test_a_protocol_that_is_not_spoken_is_named_with_those_that_are(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    with pytest.raises(
        ValueError,
        match=r"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL must be one of grpc, http/protobuf, got 'http/json'",
    ):
        OtlpTraces("http://127.0.0.1:4318")
