"""More comes than can be answered: who is let in is answered, who is not is told so before it costs anything."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ..waiting import PATIENCE_S, wait_until

CALLERS = 64


@pytest.fixture(scope="module")
def short(start):
    """A server whose queue takes 1 ms of work."""
    server = start("--max-queue-ms", "1")
    # it learns what an input costs from the first ones
    for _ in range(20):
        server.client.post("/embed", json={"text": "a sleeping cat"}).raise_for_status()
    return server


def encoded(server) -> float:
    return server.metric("vlmoe_encode_seconds_count")


@contextlib.contextmanager
def crowd(server, body):
    """CALLERS ask at once while nothing is computed; inside, all have come and the refused have been answered."""
    limits = httpx.Limits(max_connections=CALLERS)
    answers: list[httpx.Response] = []
    with (
        httpx.Client(base_url=server.url, timeout=PATIENCE_S, limits=limits) as client,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        with server.engine_paused():
            for _ in range(CALLERS):
                pool.submit(lambda: answers.append(client.post("/vqa", json=body)))
            # one in flight is the one that asks for the number
            wait_until(lambda: len(answers) + server.metric("vlmoe_requests_in_flight") - 1 == CALLERS)
            assert {answer.status_code for answer in answers} == {429}
            yield answers
        pool.shutdown()
    assert len(answers) == CALLERS
    assert {answer.status_code for answer in answers} == {200, 429}


@pytest.fixture
def body(image):
    return {"image": image, "question": "is there a red circle"}


def test_what_is_refused_is_never_decoded_and_what_is_let_in_is_answered(short, body) -> None:
    before = encoded(short)
    with crowd(short, body) as answers:
        # garbage is refused without a look at it
        assert short.client.post("/vqa", content=b"{").status_code == 429
    assert encoded(short) - before == sum(answer.status_code == 200 for answer in answers)
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["error"]["code"] == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1


def test_after_the_time_of_retry_after_a_retry_is_accepted(short, body) -> None:
    with crowd(short, body) as answers:
        refusal = answers[0]
    time.sleep(int(refusal.headers["retry-after"]))
    assert short.client.post("/vqa", json=body).status_code == 200


def test_whoever_cannot_be_answered_in_time_is_refused_at_once(short, body) -> None:
    with crowd(short, body):
        headers = {"x-request-timeout-ms": "100", "x-priority": "batch"}
        assert short.client.post("/vqa", json=body, headers=headers).status_code == 429


def test_a_call_of_many_inputs_that_was_let_in_is_answered_whole(short, body) -> None:
    answer = short.client.post("/vqa", json={"inputs": [body] * 60})
    assert answer.status_code == 200
    assert [list(one) for one in answer.json()["results"]] == [["model", "answers", "usage"]] * 60


def test_a_body_that_cannot_be_read_leaves_nothing_in_the_lobby(short) -> None:
    for _ in range(200):
        assert short.client.post("/vqa", content=b"{").status_code == 400
    assert short.client.post("/embed", json={"text": "a sleeping cat"}).status_code == 200
