"""Every task through a server that computes with vLLM, beside one that computes with our engine."""

import base64
import os
import signal
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import grpc
import pytest

from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2, vlmoe_pb2_grpc

from ..processes import command, descendants

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM has an environment of its own: make test-vllm"
    ),
]
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
START_S = 400.0


def picture(name: str) -> str:
    return base64.b64encode((EXAMPLES / name).read_bytes()).decode()


def wait_until_gone(pids: list[int], patience_s: float = 30.0) -> None:
    end_s = time.monotonic() + patience_s
    left = pids
    while left and time.monotonic() < end_s:
        left = [pid for pid in left if command(pid)]
        time.sleep(0.1)
    assert not left, [command(pid) for pid in left]


@pytest.fixture(scope="module")
def both(start: Callable[..., object]) -> tuple[object, object]:
    return (
        start("--model", "demo", "--engine", "vllm", start_s=START_S),
        start("--model", "demo", start_s=START_S),
    )


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/vqa", {"image": picture("scene.png"), "question": "how many bananas are there?", "top_k": 60}),
        (
            "/vqa",
            {
                "inputs": [
                    {"image": picture("shape.png"), "question": q} for q in ("what color?", "is it red?")
                ]
            },
        ),
        ("/classify", {"image": picture("sneaker.png"), "head": "fashion", "top_k": 10}),
        ("/classify", {"image": picture("gallery/pizza.png"), "labels": ["pizza", "guitar", "a cat"]}),
        ("/embed", {"image": picture("gallery/pizza.png")}),
        ("/embed", {"text": "a slice of pizza"}),
        ("/rerank", {"image": picture("gallery/pizza.png"), "texts": ["a guitar", "a pizza"]}),
    ],
)
def test_a_task_has_the_same_answer(route, body, both):
    vllm, ours = (server.client.post(route, json=body).json() for server in both)
    assert same(vllm, ours), (vllm, ours)


def same(one: object, other: object) -> bool:
    """Equal, and numbers nearly so."""
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, abs=2e-5)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_collections_are_searched_alike(both):
    answers = []
    for server in both:
        server.client.put("/collections/gallery", json={})
        items = [{"id": path.stem, "image": picture(f"gallery/{path.name}")} for path in gallery()]
        added = server.client.post("/collections/gallery/items", json={"items": items}).json()
        assert added["upserted"] == len(items)
        asked = {"collection": "gallery", "text": "a slice of pizza", "top_k": 5}
        answers.append(server.client.post("/retrieve", json=asked).json())
    assert same(*answers), answers


def gallery() -> list[Path]:
    return sorted((EXAMPLES / "gallery").glob("*.png"))[:6]


def test_grpc_has_the_same_answer(both):
    image = (EXAMPLES / "scene.png").read_bytes()
    request = vlmoe_pb2.VqaRequest(image=image, question="where is the cat?")
    answers = []
    for server in both:
        with grpc.insecure_channel(server.grpc) as channel:
            answers.append(vlmoe_pb2_grpc.VLMoEStub(channel).Vqa(request).answers[0])
    assert answers[0].answer == answers[1].answer
    assert answers[0].score == pytest.approx(answers[1].score, abs=2e-5)


def test_what_its_routers_choose_is_not_told(both):
    body = {"task": "embed", "text": "a cat"}
    answer = both[0].client.post("/explain/routing", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "model")


def test_a_killed_engine_takes_vllms_processes_along_and_comes_back(both):
    vllm, _ = both
    before = descendants(vllm.process.pid)
    assert len(before) >= 3
    os.kill(vllm.engine_pid, signal.SIGKILL)
    wait_until_gone(before)
    end_s = time.monotonic() + START_S
    while vllm.client.get("/readyz").status_code != 200 and time.monotonic() < end_s:
        time.sleep(0.5)
    assert vllm.client.post("/embed", json={"text": "a cat"}).status_code == 200


def test_it_ends_with_all_its_processes(both):
    vllm, _ = both
    before = descendants(vllm.process.pid)
    assert vllm.end() == 0
    wait_until_gone(before)
