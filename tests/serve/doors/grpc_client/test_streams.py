"""Streams of the client over gRPC."""

import threading

import pytest

from vlmoe_client import (
    Embedding,
    GrpcClient,
    ItemError,
    Retry,
)

from ...ports import free_port
from ...waiting import wait_until
from .comparing import server_url


def test_streams_take_inputs_as_there_is_room(both, png):
    client = both[1]
    taken, most = 0, 0
    given = 0

    def inputs():
        nonlocal taken, most
        for number in range(100):
            taken += 1
            most = max(most, taken - given)
            yield (png(), "is there a cat") if number != 7 else (b"broken", "a")

    found = {}
    for position, result in client.vqa_stream(inputs(), window=8):
        given += 1
        assert position not in found
        found[position] = result
    assert sorted(found) == list(range(100))
    assert most <= 9
    assert found[7] == ItemError("unsupported_image", found[7].message, "image")
    alone = client.vqa(png(), "is there a cat")
    assert all(result == alone for position, result in found.items() if position != 7)
    assert found[0].timings.forward_ms > 0

    vectors = dict(client.embed_stream(texts=["a cat", "a dog"]))
    assert [vectors[0], vectors[1]] == client.embed_many(texts=["a cat", "a dog"])
    labels = dict(client.classify_stream([png()], labels=["a", "b"]))
    assert labels[0] == client.classify(png(), labels=["a", "b"])
    assert list(client.embed_stream(texts=[])) == []


def test_a_stream_that_is_left_early_ends(both):
    client = both[1]

    def endless():
        while True:
            yield "a cat"

    stream = client.embed_stream(texts=endless())
    assert isinstance(next(stream)[1], Embedding)
    stream.close()
    assert client.embed(text="a cat").vector

    def failing():
        yield "a cat"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(client.embed_stream(texts=failing()))
    wait_until(lambda: not [thread for thread in threading.enumerate() if "_listen" in thread.name])


def test_a_stream_outlives_its_server(start):
    """What was not answered when the server ended is sent to the next one on that port."""
    port = free_port()
    server = start("--grpc-port", str(port))
    texts = [f"a cat {'a ' * (n % 5)}" for n in range(60)]
    answers = {}
    with GrpcClient(server_url(server), retry=Retry(attempts=60, base_s=0.5, cap_s=0.5)) as client:
        stream = client.embed_stream(texts=texts, window=4)
        for position, result in stream:
            answers[position] = result
            if len(answers) == 20:
                assert server.end() == 0
                server = start("--grpc-port", str(port))
        assert sorted(answers) == list(range(60))
        assert all(isinstance(result, Embedding) for result in answers.values())
    assert server.end() == 0
