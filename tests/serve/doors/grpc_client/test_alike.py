"""The client over gRPC does what the client over HTTP does."""

import inspect
import io

import pytest
from PIL import Image

from vlmoe_client import (
    Client,
    GrpcClient,
    ItemError,
    NotFound,
    TooLarge,
    Unprocessable,
    UnsupportedImage,
)

from .comparing import failure, same


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
