"""Traces of a real server, over both doors, as a real collector receives them."""

from typing import get_args

import grpc
import pytest

from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2, vlmoe_pb2_grpc
from vlmoe_serve.batching.release import Reason
from vlmoe_serve.main import run

from ..collectors import HttpCollector

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
SECRET = "what shape is in the image"


@pytest.fixture
def tell(collector, start, image, png):
    """tell(ask): what a server, asked this way and ended, has sent."""

    def make(ask):
        server = start("--otlp", collector.url, "--grpc-port", "auto")
        answer = ask(server)
        assert server.end() == 0
        return answer, collector.spans

    return make


def test_http(tell, image):
    def ask(server):
        for path in ("/healthz", "/readyz", "/metrics"):
            assert "traceparent" not in server.client.get(path).headers
        body = {"image": image, "question": SECRET}
        headers = {"traceparent": PARENT, "x-request-id": "mine"}
        good = server.client.post("/vqa?user=content", json=body, headers=headers)
        bad = server.client.post("/vqa", json={"image": "?", "question": SECRET})
        unknown = server.client.get("/collections/secret-name")
        return good, bad, unknown

    (good, bad, unknown), spans = tell(ask)
    assert [answer.status_code for answer in (good, bad, unknown)] == [200, 400, 404]
    by_trace = {}
    for span in spans:
        by_trace.setdefault(span.trace, {})[span.name] = span
    assert len(by_trace) == 3
    ours = by_trace[TRACE]
    assert set(ours) == {"POST /vqa", "encode", "queue", "forward"}
    door = ours["POST /vqa"]
    assert door.parent == "b7ad6b7169203331"
    assert good.headers["traceparent"] == f"00-{TRACE}-{door.id}-01"
    assert door.attributes == {
        "http.request.method": "POST",
        "http.route": "/vqa",
        "http.response.status_code": 200,
        "vlmoe.request_id": "mine",
    }
    encode, queue, forward = (ours[name] for name in ("encode", "queue", "forward"))
    assert {each.parent for each in (encode, queue, forward)} == {door.id}
    assert door.start_ns <= encode.start_ns <= encode.end_ns <= queue.start_ns
    assert queue.end_ns <= forward.start_ns + 1000 <= forward.end_ns + 1000
    assert forward.end_ns <= door.end_ns
    assert forward.attributes["vlmoe.batch.jobs"] == 1
    assert forward.attributes["vlmoe.batch.tokens"] == int(good.headers["x-batch-tokens"])
    assert queue.attributes["vlmoe.batch.reason"] in get_args(Reason)
    # what was refused has a span of the door alone, and a trace of its own
    (refused,) = by_trace[bad.headers["traceparent"][3:35]].values()
    assert (refused.name, refused.failed) == ("POST /vqa", False)
    (missing,) = by_trace[unknown.headers["traceparent"][3:35]].values()
    assert missing.attributes["http.response.status_code"] == 404
    everything = repr(spans)
    for told in (SECRET, "user=content", "secret-name", image):
        assert told not in everything


def test_grpc(tell, png):
    def ask(server):
        with grpc.insecure_channel(server.grpc) as channel:
            stub = vlmoe_pb2_grpc.VLMoEStub(channel)
            request = vlmoe_pb2.VqaRequest(image=png(), question=SECRET)
            _, call = stub.Vqa.with_call(request, metadata=(("traceparent", PARENT),))
            with pytest.raises(grpc.RpcError) as caught:
                stub.Vqa(vlmoe_pb2.VqaRequest(image=b"?", question=SECRET))
        return dict(call.trailing_metadata()), dict(caught.value.trailing_metadata())

    (good, bad), spans = tell(ask)
    ours = {span.name: span for span in spans if span.trace == TRACE}
    assert set(ours) == {"vlmoe.v1.VLMoE/Vqa", "encode", "queue", "forward"}
    door = ours["vlmoe.v1.VLMoE/Vqa"]
    assert (door.parent, good["traceparent"]) == ("b7ad6b7169203331", f"00-{TRACE}-{door.id}-01")
    assert door.attributes["rpc.method"] == "Vqa"
    assert door.attributes["rpc.service"] == "vlmoe.v1.VLMoE"
    assert {ours[name].parent for name in ("encode", "queue", "forward")} == {door.id}
    (refused,) = (span for span in spans if span.trace == bad["traceparent"][3:35])
    assert (refused.failed, refused.attributes["http.response.status_code"]) == (False, 415)


def test_a_collector_that_speaks_http(start, image, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    collector = HttpCollector()
    server = start("--otlp", collector.url)
    answer = server.client.post("/vqa", json={"image": image, "question": SECRET})
    assert answer.status_code == 200
    assert server.end() == 0
    collector.stop()
    ours = [span for span in collector.spans if span.trace == answer.headers["traceparent"][3:35]]
    assert {span.name for span in ours} == {"POST /vqa", "encode", "queue", "forward"}


def test_a_protocol_that_is_not_spoken_is_2_and_one_line(monkeypatch, capsys):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    assert run(["--otlp", "http://127.0.0.1:4318", "--port", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "http/protobuf" in line


def test_without_a_collector_answers_carry_no_trace(server, image):
    answer = server.client.post(
        "/vqa", json={"image": image, "question": SECRET}, headers={"traceparent": PARENT}
    )
    assert "traceparent" not in answer.headers
