"""The client over gRPC against a real server: it does what the client over HTTP does."""

import dataclasses
import inspect
import io
import socket
import threading
import time

import grpc
import pytest
from PIL import Image

from vlmoe_client import (
    CallTimeout,
    Client,
    ConnectFailed,
    DeadlineExceeded,
    Embedding,
    GrpcClient,
    ItemError,
    NotFound,
    Overloaded,
    Retry,
    TooLarge,
    Unauthorized,
    Unprocessable,
    UnsupportedImage,
)

from ..waiting import PATIENCE_S

# whichever of the two notices first
LATE = (CallTimeout, DeadlineExceeded)
QUICK = Retry(attempts=2, base_s=0.01)


@pytest.fixture
def both(server):
    """The same server over HTTP and over gRPC."""
    with (
        Client(server.url, timeout=30) as http,
        GrpcClient(f"grpc://{server.grpc}", timeout=30) as grpc_client,
    ):
        yield http, grpc_client


def same(both, method, *arguments, **more):
    """What both answer to the same call."""
    over_http, over_grpc = (getattr(client, method)(*arguments, **more) for client in both)
    if isinstance(over_http, list):
        over_http, over_grpc = map(plain, over_http), map(plain, over_grpc)
        over_http, over_grpc = list(over_http), list(over_grpc)
    assert over_grpc == over_http
    return over_grpc


def plain(result):
    return dataclasses.replace(result) if dataclasses.is_dataclass(result) else result


def failure(call, *arguments, **more):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (which one it is, is what is compared)
        call(*arguments, **more)
    error = caught.value
    names = ("status", "code", "message", "param")
    return type(error), *(getattr(error, name, None) for name in names)


def test_it_has_every_method_of_the_client():
    def methods(cls):
        return {
            name: str(inspect.signature(member))
            for name, member in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_")
        }

    streams = {"vqa_stream", "classify_stream", "embed_stream"}
    found = methods(GrpcClient)
    assert found.keys() - streams == methods(Client).keys()
    assert found.items() >= methods(Client).items()


def test_the_tasks(both, png):
    result = same(both, "vqa", png(), "is there a red circle", top_k=2)
    assert len(result.answers) == 2
    assert result.timings.forward_ms > 0
    assert result.request_id
    same(both, "classify", png())
    same(both, "classify", Image.open(io.BytesIO(png())), labels=["a circle", "a cat"])
    same(both, "classify", text="a cat", text_pair="a dog", head="entailment")
    same(both, "embed", text="a cat", model="tiny")
    same(both, "rerank", image=png(), texts=["a circle", "a cat"], top_n=1)
    same(both, "rerank", "a circle", [png(), png((1, 200, 3))])
    (model,) = same(both, "list_models")
    assert model.name == "tiny"
    assert both[1].healthy()
    assert both[1].ready()


def test_many_are_answered_in_order_and_fail_alone(both, png):
    pairs = [(png((n, 30, 30)), "is there a cat") for n in range(0, 200, 10)]
    pairs[3] = (b"broken", "a")
    found = same(both, "vqa_many", pairs)
    assert isinstance(found[3], ItemError)
    assert found[3].param == "inputs.3.image"
    assert [result.answers[0].score for result in found[:3]] == [
        both[1].vqa(*pair).answers[0].score for pair in pairs[:3]
    ]
    same(both, "classify_many", texts=["a cat", ("a cat", "a dog")])
    same(both, "embed_many", texts=["a cat", "a dog"])
    assert both[1].embed_many([]) == []


def test_collections(both, png):
    client = both[1]
    metadata = {"cat": {"n": 1, "tags": ["a", None], "x": 0.5}, "circle": {"n": 2}}
    added = client.add("by-grpc", {"circle": png()}, texts={"cat": "a cat", "bad": ""}, metadata=metadata)
    assert (added.upserted, list(added.errors)) == (2, ["bad"])
    assert same(both, "get_collection", "by-grpc").count == 2
    same(both, "list_collections")
    found = same(both, "retrieve", "by-grpc", text="a cat", filter={"n": {"lt": 2}}, rerank="auto")
    assert [hit.id for hit in found.hits] == ["cat"]
    assert found.hits[0].metadata == metadata["cat"]
    same(both, "retrieve_many", "by-grpc", texts=["a cat", "a dog"], top_k=1)
    assert same(both, "get_item", "by-grpc", "circle").metadata == {"n": 2}
    assert [item.id for item in client.list_items("by-grpc", page_size=1)] == ["cat", "circle"]
    client.delete_item("by-grpc", "cat")
    assert same(both, "get_collection", "by-grpc").count == 1
    client.delete_collection("by-grpc")
    with pytest.raises(NotFound):
        client.get_collection("by-grpc")


def test_errors_are_those_of_http(both, png):
    cases = [
        (UnsupportedImage, "vqa", (b"nothing", "a"), {}),
        (Unprocessable, "vqa", (png(), "a"), {"top_k": 0}),
        (NotFound, "retrieve", ("none",), {"text": "a"}),
        (NotFound, "embed", (), {"text": "a", "model": "none"}),
        (TooLarge, "embed", (), {"text": "cat " * 100}),
        (FileNotFoundError, "vqa", ("/nowhere.png", "a"), {}),
        (ValueError, "embed", (), {}),
        (ValueError, "embed", (), {"text": "a", "priority": "urgent"}),
    ]
    for kind, method, arguments, more in cases:
        over_http, over_grpc = (failure(getattr(client, method), *arguments, **more) for client in both)
        assert over_grpc == over_http
        assert over_grpc[0] is kind
    with pytest.raises(NotFound) as caught:
        both[1].get_collection("none", request_id="r-1")
    assert caught.value.request_id == "r-1"


def test_what_a_message_cannot_hold_is_refused_before_it_is_sent(both, png):
    client = both[1]
    with pytest.raises(ValueError, match="2\\^53"):
        client.add("exact", texts={"a": "a"}, metadata={"a": {"n": 2**60}})
    with pytest.raises(ValueError, match="over gRPC"):
        client.classify(images=["https://example.com/a.png", png()], text="a")
    assert client.get_collection("exact").count == 0
    client.delete_collection("exact")


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
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("Thread-listen")]


def test_a_stream_outlives_its_server(start):
    """What was not answered when the server ended is sent to the next one on that port."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
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


def server_url(server):
    return f"grpc://{server.grpc}"


def test_overload_is_tried_again_after_the_time_it_names(start):
    server = start("--max-queue-ms", "1")
    with GrpcClient(server_url(server), retry=QUICK) as client, server.engine_paused():
        threads = [threading.Thread(target=lambda: swallow(client)) for _ in range(20)]
        for thread in threads:
            thread.start()
        end_s = time.monotonic() + PATIENCE_S
        error = None
        while error is None and time.monotonic() < end_s:
            try:
                client.embed(text="a cat", timeout=1.0)
            except Overloaded as caught:
                error = caught
            except LATE:
                continue
        assert error is not None
        assert (error.status, error.code) == (429, "overloaded")
        assert error.retry_after_s > 0
        for thread in threads:
            thread.join()
    assert server.end() == 0


def swallow(client):
    try:
        client.embed(text="a cat", timeout=1.0)
    except (*LATE, Overloaded):
        return


def test_timeouts_keys_and_nobody_there(start, server, tmp_path):
    with GrpcClient(server_url(server)) as client, server.engine_paused(), pytest.raises(LATE):
        client.embed(text="a cat", timeout=0.3)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{closed.getsockname()[1]}"
        with GrpcClient(url, retry=QUICK, timeout=5) as client:
            with pytest.raises(ConnectFailed):
                client.embed(text="a")
            assert client.ready() is False
            assert client.healthy() is False
    keys = tmp_path / "keys"
    keys.write_text("s3cret\n")
    guarded = start("--api-key-file", str(keys), "--max-body-mb", "0.1")
    with GrpcClient(server_url(guarded), api_key="s3cret") as client:
        assert client.embed(text="a").vector
        assert "s3cret" not in repr(client)
        with pytest.raises(TooLarge):
            client.embed(bytes(200_000))
    with GrpcClient(server_url(guarded), api_key="other", retry=QUICK) as client:
        with pytest.raises(Unauthorized) as caught:
            client.list_models()
        assert caught.value.status == 401
        assert client.ready()
    assert guarded.end() == 0


@pytest.mark.parametrize(
    "url", ["localhost", "ftp://a:1", "grpc://a", "grpc://a:b", "grpc://a:1/path", "u@a:1"]
)
def test_urls_that_are_none(url):
    with pytest.raises(ValueError, match="grpc://HOST:PORT"):
        GrpcClient(url)


def test_the_environment_names_the_server(server, monkeypatch):
    monkeypatch.setenv("VLMOE_GRPC_URL", server_url(server))
    with GrpcClient() as client:
        assert client.url == server_url(server)
        assert client.ready()


def test_with_tls_the_url_says_so():
    with GrpcClient("grpcs://127.0.0.1:1") as client:
        assert client.url == "grpcs://127.0.0.1:1"
    with GrpcClient("127.0.0.1:1", credentials=grpc.ssl_channel_credentials()) as client:
        assert client.url == "grpcs://127.0.0.1:1"
