"""Streams against a real server: order, failures, flow control, cancellation."""

import io
import queue
import random
import time

import grpc
from PIL import Image

from vlmoe_client.proto.fields import all_fields_of
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2_grpc

from ...waiting import wait_until


def by_id(answers):
    found = {}
    for answer in answers:
        assert answer.id not in found
        found[answer.id] = answer
    return found


def asks(number, **fields):
    return pb.EmbedStreamRequest(id=str(number), request=pb.EmbedRequest(**fields))


def test_each_request_is_answered_under_its_id_and_fails_alone(stub, png):
    good = pb.VqaRequest(image=png(), question="is there a cat")
    requests = [pb.VqaStreamRequest(id=f"n{n}", request=good) for n in range(20)]
    requests[7] = pb.VqaStreamRequest(id="broken", request=pb.VqaRequest(image=b"no", question="a"))
    requests[8] = pb.VqaStreamRequest(id="none")
    requests[9] = pb.VqaStreamRequest(request=good)
    call = stub.VqaStream(iter(requests))
    answers = by_id(call)
    assert set(answers) == {request.id for request in requests}
    broken = answers.pop("broken").error
    assert (broken.code, broken.param) == ("unsupported_image", "image")
    assert answers.pop("none").error.code == "invalid_field"
    alone = stub.Vqa(good)
    assert all(answer.response == alone for answer in answers.values())
    assert all(answer.timings.batch_tokens > 0 for answer in answers.values())
    trailing = dict(call.trailing_metadata())
    assert float(trailing["x-forward-ms"]) > 0


def test_the_other_streams(stub, client, png, image):
    classify = pb.ClassifyStreamRequest(id="c", request=pb.ClassifyRequest(image=png()))
    (answer,) = stub.ClassifyStream(iter([classify]))
    assert all_fields_of(answer.response) == client.post("/classify", json={"image": image}).json()
    (answer,) = stub.EmbedStream(iter([asks("e", text="a cat")]))
    assert all_fields_of(answer.response) == client.post("/embed", json={"text": "a cat"}).json()

    stub.PutCollection(pb.PutCollectionRequest(name="streamed"))
    items = [pb.ItemInput(id="a", text="a cat"), pb.ItemInput(id="b")]
    upserts = [
        pb.UpsertStreamRequest(id="1", request=pb.UpsertItemsRequest(collection="streamed", items=items)),
        pb.UpsertStreamRequest(id="2", request=pb.UpsertItemsRequest(collection="other", items=items)),
    ]
    answers = by_id(stub.UpsertStream(iter(upserts)))
    assert answers["1"].response.upserted == 1
    assert [failed.id for failed in answers["1"].response.errors] == ["b"]
    assert answers["2"].error.code == "collection_not_found"
    query = pb.RetrieveStreamRequest(id="q", request=pb.RetrieveRequest(collection="streamed", text="a cat"))
    (answer,) = stub.RetrieveStream(iter([query]))
    assert [hit.id for hit in answer.response.hits] == ["a"]
    stub.DeleteCollection(pb.DeleteCollectionRequest(name="streamed"))


def test_what_is_done_first_is_answered_first(server, stub):
    """The engine stands still, so only what needs no engine can be answered."""
    requests = queue.SimpleQueue()
    call = stub.EmbedStream(iter(requests.get, None))
    with server.engine_paused():
        requests.put(asks("slow", text="a cat"))
        requests.put(asks("wrong"))
        first = next(call)
        assert (first.id, first.error.code) == ("wrong", "invalid_field")
    assert next(call).id == "slow"
    # the stream is still open for more
    requests.put(asks("again", text="a cat"))
    assert next(call).id == "again"
    requests.put(None)
    assert list(call) == []


def noise(seed):
    """A picture that no format makes smaller."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (150, 150), random.Random(seed).randbytes(150 * 150 * 3)).save(buffer, "PNG")
    return buffer.getvalue()


def test_no_more_is_read_than_is_worked_on(start):
    server = start("--max-body-mb", "0.1")
    sent = []

    def requests():
        for number in range(160):
            sent.append(number)
            yield asks(number, image=noise(number))

    with grpc.insecure_channel(server.grpc) as channel:
        stub = vlmoe_pb2_grpc.VLMoEStub(channel)
        with server.engine_paused():
            call = stub.EmbedStream(requests())
            before = -1
            while not sent or before != len(sent):
                before = len(sent)
                time.sleep(1.0)
            # two are worked on; the rest is what the connection's buffers hold, a matter of megabytes
            assert len(sent) < 140
        assert sorted(int(answer.id) for answer in call) == list(range(160))
    assert server.end() == 0


def test_a_cancelled_stream_takes_its_requests_out_of_the_queue(server, stub):
    cancelled = 'vlmoe_dropped_total{model="tiny",why="cancelled"}'
    encoded = "vlmoe_encode_seconds_count"
    before, encoded_before = server.metric(cancelled), server.metric(encoded)
    requests = queue.SimpleQueue()
    with server.engine_paused():
        call = stub.EmbedStream(iter(requests.get, None))
        for number in range(5):
            requests.put(asks(number, text="a cat"))
        requests.put(asks("last"))
        assert next(call).id == "last"
        # that one needed no tokens; the others have to be in the queue, or beyond it
        wait_until(lambda: server.metric(encoded) == encoded_before + 5)
        call.cancel()
        wait_until(lambda: server.metric(cancelled) == before + 5)
    requests.put(None)
    assert stub.Embed(pb.EmbedRequest(text="a cat")).embedding


def test_leaving_while_answers_are_written_is_no_failure(server, stub):
    """What gRPC says of a write to somebody who has left may come before the cancellation does."""
    failed = 'vlmoe_requests_total{method="GRPC",route="/vlmoe.v1.VLMoE/EmbedStream",status="500"}'
    for _ in range(100):
        call = stub.EmbedStream(iter([asks(number) for number in range(30)]))
        next(call)
        call.cancel()
    wait_until(lambda: server.metric("vlmoe_requests_in_flight") == 1)
    assert server.metric(failed) == 0
    assert not server.tracebacks


def test_a_message_that_is_none_ends_the_stream(server, refused):
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_stream("/vlmoe.v1.VLMoE/EmbedStream")
        found = refused(lambda: list(call(iter([b"\xff\xff"]))))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "malformed_message")
