"""The server on a GPU beside the one on the CPU: the same answers on every route, and what becomes of a lost engine."""

import base64
import os
import re
import signal

import grpc
import numpy as np
import pytest
import torch

from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2_grpc

from ..waiting import wait_until

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]

TEXTS = ["a sleeping cat", "a red circle", "two pairs of scissors"]


@pytest.fixture(scope="module")
def card(start):
    return start("--device", "cuda")


@pytest.fixture(scope="module")
def host(start):
    return start("--device", "cpu")


@pytest.fixture(scope="module")
def in_bf16(start):
    # the fixture names fp32 first; the last one counts
    return start("--device", "cuda", "--dtype", "auto")


@pytest.fixture
def asks(image):
    """Every task, in every form that it takes."""
    return [
        ("/vqa", {"image": image, "question": "is there a red circle", "top_k": 4}),
        ("/classify", {"image": image}),
        ("/classify", {"text": "a cat", "text_pair": "a circle"}),
        ("/classify", {"image": image, "labels": TEXTS}),
        ("/embed", {"image": image}),
        ("/embed", {"inputs": [{"text": text} for text in TEXTS]}),
        ("/rerank", {"image": image, "texts": TEXTS}),
        ("/v1/embeddings", {"model": "tiny", "input": TEXTS}),
        ("/explain/routing", {"task": "embed", "text": "a cat"}),
    ]


def runs_on(server):
    """Device and dtype, by its metrics."""
    line = next(
        line
        for line in server.client.get("/metrics").text.splitlines()
        if line.startswith("vlmoe_model_info{")
    )
    return tuple(re.search(f'{name}="([^"]*)"', line)[1] for name in ("device", "dtype"))


def assert_alike(found, expected, tolerance):
    """The same JSON, numbers up to the tolerance."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_alike(found[key], expected[key], tolerance)
    elif isinstance(expected, list) and expected and isinstance(expected[0], float):
        assert found == pytest.approx(expected, abs=tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other, tolerance)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=tolerance)
    else:
        assert found == expected


def test_answers_are_those_of_the_cpu(card, host, asks):
    assert runs_on(card) == ("cuda", "fp32")
    for route, body in asks:
        found, expected = (server.client.post(route, json=body) for server in (card, host))
        assert (found.status_code, expected.status_code) == (200, 200), (route, found.text)
        assert_alike(found.json(), expected.json(), 1e-4)


def test_answers_over_grpc_are_those_of_the_cpu(card, host, png):
    def ask(server):
        with grpc.insecure_channel(server.grpc) as channel:
            stub = vlmoe_pb2_grpc.VLMoEStub(channel)
            answer = stub.Vqa(pb.VqaRequest(image=png(), question="is there a red circle"))
            vector = stub.Embed(pb.EmbedRequest(text="a cat")).embedding
            return {one.answer: one.score for one in answer.answers}, list(vector)

    (scores, vector), (their_scores, their_vector) = ask(card), ask(host)
    assert scores == pytest.approx(their_scores, abs=1e-4)
    assert vector == pytest.approx(their_vector, abs=1e-4)


def test_bf16_answers_alike(in_bf16, host, asks):
    assert runs_on(in_bf16) == ("cuda", "bf16")
    for route, body in asks[4:6]:
        found, expected = (server.client.post(route, json=body).json() for server in (in_bf16, host))
        for one, other in zip(
            found.get("results", [found]), expected.get("results", [expected]), strict=True
        ):
            # a rounding may send a token to another expert: close, not equal
            assert np.dot(one["embedding"], other["embedding"]) > 0.98


def test_a_request_answers_alike_whatever_it_is_batched_with(card, image, png):
    alone = card.client.post("/embed", json={"image": image}).json()["embedding"]
    others = [{"image": base64.b64encode(png((20 * i, 10, 200))).decode()} for i in range(12)]
    others[5] = {"image": image}
    batch = card.client.post("/embed", json={"inputs": [*others, {"text": "a cat"}]}).json()["results"]
    assert batch[5]["embedding"] == pytest.approx(alone, abs=1e-6)


def test_a_killed_engine_comes_back(card):
    os.kill(card.engine_pid, signal.SIGKILL)
    # nobody is told: the request waits for the next life
    assert card.client.post("/embed", json={"text": "a cat"}).status_code == 200
    wait_until(lambda: card.client.get("/readyz").status_code == 200)
    assert card.metric('vlmoe_engine_restarts_total{model="tiny"}') == 1


def test_it_ends_and_leaves_no_process_on_the_card(start):
    server = start("--device", "cuda")
    pid = server.engine_pid
    assert server.client.post("/embed", json={"text": "a cat"}).status_code == 200
    assert server.end() == 0
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
