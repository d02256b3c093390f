"""Who may call, deadlines and cancellation, ids, metrics, and the end of the server."""

import concurrent.futures
import queue
import signal

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2_grpc

from ...waiting import PATIENCE_S, wait_until

CAT = pb.EmbedRequest(text="a cat")


def test_a_key_is_asked_for(start, tmp_path, refused):
    keys = tmp_path / "keys"
    keys.write_text("the-key\nsecond\n")
    server = start("--api-key-file", str(keys))
    with grpc.insecure_channel(server.grpc) as channel:
        stub = vlmoe_pb2_grpc.VLMoEStub(channel)
        for metadata in (
            [],
            [("x-api-key", "wrong")],
            [("authorization", "Basic the-key")],
            [("authorization", "Bearer")],
        ):
            # of any method, and before the message is read: this one is larger than what is allowed
            found = refused(stub.Vqa, pb.VqaRequest(image=bytes(33_000_000)), metadata=metadata)
            assert (found.code, found.reason, found.status) == ("UNAUTHENTICATED", "unauthorized", "401")
            found = refused(lambda given: list(stub.EmbedStream(iter([]), metadata=given)), metadata)
            assert found.reason == "unauthorized"
        for metadata in (
            [("x-api-key", "the-key")],
            [("authorization", "Bearer second")],
            [("authorization", "bearer the-key")],
        ):
            assert stub.Embed(CAT, metadata=metadata).embedding
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            ProtoReflectionDescriptorDatabase(channel).get_services()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert server.end() == 0


def test_ids_and_priorities(server, stub, refused):
    def trailing(**given):
        call = stub.Embed.with_call(CAT, metadata=list(given.items()))[1]
        return dict(call.trailing_metadata())

    assert trailing(**{"x-request-id": "mine", "x-priority": "batch"})["x-request-id"] == "mine"
    made = trailing(**{"x-request-id": "two words"})["x-request-id"]
    assert len(made) == 32
    with pytest.raises(grpc.RpcError) as caught:
        stub.Embed(pb.EmbedRequest(), metadata=[("x-request-id", "failed")])
    assert dict(caught.value.trailing_metadata())["x-request-id"] == "failed"
    found = refused(stub.Embed, CAT, metadata=[("x-priority", "urgent")])
    assert (found.code, found.reason, found.param) == ("INVALID_ARGUMENT", "bad_request", "x-priority")
    wait_until(lambda: "id=failed" in server.lately)
    (line,) = [line for line in server.lately.splitlines() if "id=failed" in line]
    assert "GRPC /vlmoe.v1.VLMoE/Embed 422" in line


def test_calls_are_counted_beside_those_of_http(server, stub):
    def count(status):
        route = 'method="GRPC",route="/vlmoe.v1.VLMoE/GetItem"'
        return server.metric(f'vlmoe_requests_total{{{route},status="{status}"}}')

    before = count(404)
    with pytest.raises(grpc.RpcError):
        stub.GetItem(pb.GetItemRequest(collection="none", id="a"))
    wait_until(lambda: count(404) == before + 1)


def test_past_its_deadline_a_call_is_dropped(server, stub):
    def drops():
        return sum(
            server.metric(f'vlmoe_dropped_total{{model="tiny",why="{why}"}}')
            for why in ("cancelled", "expired")
        )

    def all_are_dropped(deadline_s):
        """Whether all of 8 calls came into the queue in time; if so they were dropped."""
        before, encoded = drops(), server.metric("vlmoe_encode_seconds_count")
        with server.engine_paused():
            # the first two batches are in the engine's hands; those behind them wait in the queue
            calls = [stub.Embed.future(CAT, timeout=deadline_s) for _ in range(8)]
            came = False
            while not came and not all(call.done() for call in calls):
                came = server.metric("vlmoe_encode_seconds_count") >= encoded + 8
            for call in calls:
                assert call.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED
            if came:
                wait_until(lambda: drops() >= before + 8)
        return came

    # half a second is enough, but on a crowded machine
    assert any(map(all_are_dropped, (0.5, 5, 50)))
    assert stub.Embed(CAT, timeout=PATIENCE_S).embedding


def test_a_cancelled_call_is_dropped(server, stub):
    cancelled = 'vlmoe_dropped_total{model="tiny",why="cancelled"}'
    left = 'vlmoe_disconnects_total{route="/vlmoe.v1.VLMoE/Embed"}'
    before = server.metric(cancelled), server.metric(left)
    with server.engine_paused():
        in_flight = server.metric("vlmoe_requests_in_flight")
        calls = [stub.Embed.future(CAT) for _ in range(6)]
        wait_until(lambda: server.metric("vlmoe_requests_in_flight") >= in_flight + 6)
        for call in calls:
            call.cancel()
        wait_until(lambda: server.metric(left) == before[1] + 6)
        wait_until(lambda: server.metric(cancelled) > before[0])
    assert stub.Embed(CAT).embedding


def test_overload_says_when_to_come_back(start, refused):
    server = start("--max-queue-ms", "1")
    with grpc.insecure_channel(server.grpc) as channel:
        stub = vlmoe_pb2_grpc.VLMoEStub(channel)
        found = None
        with server.engine_paused():
            calls = [stub.Embed.future(CAT) for _ in range(40)]
            wait_until(lambda: any(call.done() for call in calls))
            (first, *_) = (call for call in calls if call.done())
            found = refused(first.result)
        assert (found.code, found.reason, found.status) == ("RESOURCE_EXHAUSTED", "overloaded", "429")
        assert found.retry_s > 0
        for call in calls:
            assert call.exception() is None or call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.end() == 0


def test_a_drain_answers_what_is_there_and_refuses_the_rest(start, refused):
    server = start("--drain-s", "120")
    with grpc.insecure_channel(server.grpc) as channel, concurrent.futures.ThreadPoolExecutor(1) as pool:
        stub = vlmoe_pb2_grpc.VLMoEStub(channel)
        states = queue.SimpleQueue()
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        pool.submit(lambda: [states.put(answer.status) for answer in watched])
        assert states.get(timeout=PATIENCE_S) == health_pb2.HealthCheckResponse.SERVING
        requests = queue.SimpleQueue()
        with server.engine_paused():
            unary = [stub.Embed.future(CAT) for _ in range(4)]
            stream = stub.EmbedStream(iter(requests.get, None))
            for number in range(4):
                requests.put(pb.EmbedStreamRequest(id=str(number), request=CAT))
            requests.put(pb.EmbedStreamRequest(id="wrong"))
            assert next(stream).id == "wrong"
            wait_until(lambda: server.metric("vlmoe_requests_in_flight") >= 6)
            server.process.send_signal(signal.SIGTERM)
            assert states.get(timeout=PATIENCE_S) == health_pb2.HealthCheckResponse.NOT_SERVING
            found = refused(stub.Embed, CAT)
            assert (found.code, found.reason) == ("UNAVAILABLE", "shutting_down")
            assert found.retry_s == 1.0
        assert [len(call.result().embedding) for call in unary] == [8] * 4
        answers = []

        def rest():
            answers.extend(stream)

        # what was read is answered; then the stream ends, and its caller goes elsewhere
        assert refused(rest).reason == "shutting_down"
        assert sorted(answer.id for answer in answers) == ["0", "1", "2", "3"]
        assert all(answer.WhichOneof("outcome") == "response" for answer in answers)
        requests.put(None)
        assert server.process.wait(timeout=PATIENCE_S) == 0
    assert not server.tracebacks
    assert "never retrieved" not in server.log
