"""A server whose experts have a capacity: every answer says so, and its embeddings are kept apart from others."""

import grpc
import pytest

from vlmoe_client import Client, GrpcClient
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2_grpc

MODE = "capacity=0.25;overflow=drop"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def limited(start, data_dir):
    return start("--capacity", "0.25", "--overflow", "drop", "--cache-mb", "8", "--data-dir", str(data_dir))


def bodies(image):
    return {
        "/vqa": {"image": image, "question": "is there a red circle"},
        "/classify": {"image": image},
        "/embed": {"text": "a sleeping cat"},
        "/rerank": {"query": "a cat", "images": [image]},
        "/explain/routing": {"task": "classify", "image": image},
        "/v1/embeddings": {"input": "a cat"},
    }


def test_every_answer_says_how_it_was_routed(limited, server, image):
    for route, body in bodies(image).items():
        assert limited.client.post(route, json=body).headers["x-routing-mode"] == MODE
        several = limited.client.post(route, json={"inputs": [body, body]})
        if route != "/v1/embeddings":
            assert several.headers["x-routing-mode"] == MODE
        assert "x-routing-mode" not in server.client.post(route, json=body).headers
    assert limited.metric(f'vlmoe_routing_mode_jobs_total{{mode="{MODE}",model="tiny"}}') >= 6


def test_over_grpc_and_in_the_clients_too(limited, server, png):
    for where, expected in ((limited, MODE), (server, None)):
        with grpc.insecure_channel(where.grpc) as channel:
            stub = vlmoe_pb2_grpc.VLMoEStub(channel)
            _, call = stub.Embed.with_call(pb.EmbedRequest(text="a cat"))
            assert dict(call.trailing_metadata()).get("x-routing-mode") == expected
        with Client(where.url) as http, GrpcClient(f"grpc://{where.grpc}") as over_grpc:
            assert http.classify(png()).timings.routing_mode == expected
            assert over_grpc.classify(png()).timings.routing_mode == expected
            streamed = dict(over_grpc.classify_stream([png(), png()]))
            assert {one.timings.routing_mode for one in streamed.values()} == {expected}


def test_tokens_without_an_expert_are_shown(limited, image):
    found = limited.client.post("/explain/routing", json={"task": "classify", "image": image}).json()
    tokens = found["layers"][0]["tokens"]
    # 17 tokens, 4 experts: a quarter of an even share is two slots
    taken = [expert for token in tokens for expert in token["experts"]]
    assert len(tokens) == 17
    assert max(map(taken.count, taken)) == 2
    assert all(len(token["gates"]) == len(token["experts"]) for token in tokens)


def test_its_embeddings_are_not_kept_and_lie_in_a_space_of_their_own(limited, server, start, data_dir, image):
    own = server.client.post("/embed", json={"image": image}).json()
    found = limited.client.post("/embed", json={"image": image})
    assert found.json()["space_id"] != own["space_id"]
    # alone its first token keeps its slot; among others not all do
    inputs = [{"text": text} for text in ("a cat", "a red circle", "two scissors", "is there") * 16]
    many, exact = (one.client.post("/embed", json={"inputs": inputs}).json() for one in (limited, server))
    vectors = [[each["embedding"] for each in body["results"]] for body in (many, exact)]
    assert vectors[0] != vectors[1]
    for _ in range(2):
        again = limited.client.post("/embed", json={"image": image})
        assert int(again.headers["x-batch-tokens"]) > 0
    assert limited.metric('vlmoe_cache_entries{cache="embeddings"}') == 0
    # a collection that it filled is not for a server without a capacity, nor the other way round
    limited.client.put("/collections/gallery", json={})
    upserted = limited.client.post(
        "/collections/gallery/items", json={"items": [{"id": "a", "image": image}]}
    )
    assert upserted.json()["upserted"] == 1
    other = start("--data-dir", str(data_dir))
    refused = other.client.post("/retrieve", json={"collection": "gallery", "text": "a cat"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "space_conflict")
    assert (
        limited.client.post("/retrieve", json={"collection": "gallery", "text": "a cat"}).status_code == 200
    )
    assert other.end() == 0


def test_two_ranks_have_a_capacity_too(start, image):
    two = start("--ranks", "2", "--capacity", "0.25", "--overflow", "reroute")
    inputs = [{"image": image}] * 8
    answers = [two.client.post("/classify", json={"inputs": inputs}) for _ in range(2)]
    assert answers[0].headers["x-routing-mode"] == "capacity=0.25;overflow=reroute"
    assert answers[0].json() == answers[1].json()
    assert all("labels" in one for one in answers[0].json()["results"])
    assert two.end() == 0
