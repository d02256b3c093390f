"""Callers who go at any moment of a request, on both doors: no error of ours, and nothing of theirs stays behind."""

import asyncio
import contextlib
import json
import random
import socket
import struct

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from vlmoe_client.proto.inference import grpc_predict_v2_pb2 as oip
from vlmoe_client.proto.inference import grpc_predict_v2_pb2_grpc as oip_grpc
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2_grpc

from ..waiting import PATIENCE_S, wait_until

_NUM_CALLERS, _ROUNDS = 24, 12


@pytest.fixture
def nothing_remains(server):
    """No traceback, no failure of ours, and nobody in the server but who asks."""

    def failures():
        lines = server.client.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith("vlmoe_requests_total") and 'status="500"' in line]

    before = failures()
    yield
    wait_until(lambda: server.metric("vlmoe_requests_in_flight") == 1)
    wait_until(lambda: server.metric('vlmoe_queue_depth{model="tiny"}') == 0)
    wait_until(lambda: server.metric("vlmoe_connections") <= 2)
    assert failures() == before
    assert not server.tracebacks
    assert "ERROR" not in server.lately
    assert server.client.post("/embed", json={"text": "a cat"}).status_code == 200


def test_over_http(server, image, nothing_remains):
    address = server.url.removeprefix("http://").split(":")
    dice = random.Random(0)

    def post(path, body):
        content = json.dumps(body).encode()
        return b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path, len(content)), content

    question = {"image": image, "question": "what shape"}
    requests = [
        post(b"/vqa", question),
        post(b"/vqa", {"inputs": [question] * 40}),
        post(b"/v1/embeddings", {"input": ["a", "b"]}),
        post(b"/explain/routing", {"task": "vqa", **question}),
        post(b"/v2/models/tiny.embed/infer", {"inputs": []}),
        (b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n", b""),
        (b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n", b""),
    ]

    async def leave_abruptly():
        head, body = dice.choice(requests)
        whole = head + body
        sent = dice.choice(
            [
                b"",
                head[:-3],
                head,
                head + body[: len(body) // 2],
                whole,
                whole * 5,
                whole + head,
                head[:-2] + b"expect: 100-continue\r\n\r\n",
                head[:-2] + b"transfer-encoding: chunked\r\n\r\n5\r\nhel",
            ]
        )
        reader, writer = await asyncio.open_connection(address[0], int(address[1]))
        writer.write(sent)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(dice.choice([0.0, 0.002, 0.02])):
                await reader.read(dice.choice([1, 1000]))
        if dice.random() < 0.7:
            # a reset instead of an orderly end
            connection = writer.get_extra_info("socket")
            # of one that the server has ended there is no socket any more
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def caller():
        for _ in range(_ROUNDS):
            await leave_abruptly()

    async def all_of_them():
        await asyncio.gather(*(caller() for _ in range(_NUM_CALLERS)))

    asyncio.run(all_of_them())


def test_who_closes_half_of_a_connection_has_left(server, nothing_remains):
    left = 'vlmoe_disconnects_total{route="/embed"}'
    before = server.metric(left)
    host, port = server.url.removeprefix("http://").split(":")
    body = b'{"text": "half"}'
    with (
        server.engine_paused(),
        socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection,
    ):
        connection.sendall(
            b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000) == b""
        wait_until(lambda: server.metric(left) == before + 1)
        wait_until(lambda: server.metric('vlmoe_queue_depth{model="tiny"}') == 0)


def test_over_grpc(server, png, nothing_remains):
    dice = random.Random(0)
    vqa = pb.VqaRequest(image=png(), question="what shape")
    infer = oip.ModelInferRequest(model_name="tiny.embed")
    infer.inputs.add(name="TEXT", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a cat")

    async def unary(channel):
        stub, open_stub = vlmoe_pb2_grpc.VLMoEStub(channel), oip_grpc.GRPCInferenceServiceStub(channel)
        method, request = dice.choice(
            [
                (stub.Vqa, vqa),
                (stub.Embed, pb.EmbedRequest(text="a cat")),
                (stub.Rerank, pb.RerankRequest(query="a cat", images=[png()] * 3)),
                (stub.ListCollections, pb.ListCollectionsRequest()),
                (stub.GetItem, pb.GetItemRequest(collection="none", id="a")),
                (open_stub.ModelInfer, infer),
                (open_stub.ServerMetadata, oip.ServerMetadataRequest()),
                (health_pb2_grpc.HealthStub(channel).Check, health_pb2.HealthCheckRequest()),
            ]
        )
        call = method(request, timeout=dice.choice([0.001, 0.01, None]))
        await asyncio.sleep(dice.choice([0.0, 0.002, 0.02]))
        call.cancel()

    async def stream(channel):
        call = vlmoe_pb2_grpc.VLMoEStub(channel).VqaStream(timeout=dice.choice([0.01, 0.05, None]))
        for number in range(dice.choice([0, 1, 20])):
            await call.write(pb.VqaStreamRequest(id=str(number), request=vqa))
        if dice.random() < 0.5:
            await call.done_writing()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(dice.choice([0.0, 0.005, 0.05])):
                await call.read()
        call.cancel()

    async def watch(channel):
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await call.read()
        call.cancel()

    async def reflect(channel):
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        call.cancel()

    async def caller():
        options = [("grpc.use_local_subchannel_pool", 1)]
        for _ in range(_ROUNDS):
            async with grpc.aio.insecure_channel(server.grpc, options=options) as channel:
                for kind in (unary, stream, watch, reflect, unary):
                    with contextlib.suppress(
                        grpc.aio.BaseError, grpc.RpcError, asyncio.CancelledError, asyncio.InvalidStateError
                    ):
                        await kind(channel)

    async def all_of_them():
        await asyncio.gather(*(caller() for _ in range(_NUM_CALLERS // 3)))

    asyncio.run(all_of_them())
