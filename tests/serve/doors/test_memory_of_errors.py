"""Large requests that fail are let go at once: what an error holds, a caller could heap up with a loop."""

import base64
import contextlib
import json
import struct
from pathlib import Path

import grpc
import pytest

from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2_grpc

_SIZE = 8_000_000
_TIMES = 8
# all of what is sent in one round of a test is many times as much
_MOST_MB = 60


@pytest.fixture(scope="module")
def cached(start):
    """As servers are by default: with a cache."""
    server = start("--cache-mb", "16")
    server.client.put("/collections/shoes").raise_for_status()
    return server


@pytest.fixture(scope="module")
def broken():
    return b"\x89PNG\r\n\x1a\n" + bytes(_SIZE)


@pytest.fixture(scope="module")
def as_json(broken):
    return base64.b64encode(broken).decode()


@pytest.fixture(scope="module")
def stub(cached):
    with grpc.insecure_channel(cached.grpc, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield vlmoe_pb2_grpc.VLMoEStub(channel)


def resident_mb(server):
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def stays_small(server, send):
    send()
    before_mb = resident_mb(server)
    for _ in range(_TIMES):
        send()
    assert resident_mb(server) - before_mb < _MOST_MB


def in_tensor(data):
    size = len(data) + 4
    one = {"name": "IMAGE", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [one]}).encode()
    return head + struct.pack("<I", len(data)) + data, {"inference-header-content-length": str(len(head))}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/embed", lambda image: {"image": image}, 400),
        ("/embed", lambda image: {"inputs": [{"image": image}, {"text": "a"}]}, 200),
        ("/classify", lambda image: {"image": image, "labels": ["a", "b"]}, 400),
        ("/rerank", lambda image: {"query": "a", "images": [image]}, 400),
        ("/retrieve", lambda image: {"collection": "shoes", "image": image}, 400),
        ("/explain/routing", lambda image: {"task": "embed", "image": image}, 400),
        ("/collections/shoes/items", lambda image: {"items": [{"id": "a", "image": image}]}, 200),
        ("/v1/embeddings", lambda image: {"input": ["a", {"image": image}]}, 400),
        ("/embed", lambda image: {"text": image}, 413),
    ],
)
def test_json(cached, as_json, path, body, status):
    content = json.dumps(body(as_json)).encode()

    def send():
        assert cached.client.post(path, content=content).status_code == status

    stays_small(cached, send)


def test_forms_and_tensors(cached, broken):
    content, headers = in_tensor(broken)

    def send():
        assert cached.client.post("/embed", files={"image": broken}).status_code == 400
        answer = cached.client.post("/v2/models/tiny.embed/infer", content=content, headers=headers)
        assert answer.status_code == 400

    stays_small(cached, send)


def test_grpc(cached, stub, broken):
    def streamed():
        (answer,) = stub.EmbedStream(iter([pb.EmbedStreamRequest(request=pb.EmbedRequest(image=broken))]))
        assert answer.error.code == "broken_image"

    def send():
        for call, request in (
            (stub.Embed, pb.EmbedRequest(image=broken)),
            (stub.Embed, pb.EmbedRequest(text="a" * _SIZE)),
            (stub.Rerank, pb.RerankRequest(query="a", images=[broken])),
        ):
            with contextlib.suppress(grpc.RpcError):
                call(request)
                raise AssertionError
        streamed()

    stays_small(cached, send)


def test_a_message_that_grows_when_it_is_unpacked(cached):
    """gRPC takes packed messages: the limit holds for what comes out."""
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(cached.grpc, options=options, compression=grpc.Compression.Gzip) as channel:
        stub = vlmoe_pb2_grpc.VLMoEStub(channel)

        def send():
            with pytest.raises(grpc.RpcError) as caught:
                stub.Embed(pb.EmbedRequest(text="a" * 200_000_000))
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

        before_mb = resident_mb(cached)
        send()
        assert resident_mb(cached) - before_mb < _MOST_MB
