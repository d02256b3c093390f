"""A deadline that passes, a caller that leaves, an engine that is killed."""

import concurrent.futures
import os
import signal
import socket

import pytest

from ....waiting import wait_until
from .reading import QUESTION, error


def test_a_deadline_is_kept_while_the_engine_stands_still(server, client):
    with server.engine_paused():
        answer = client.post("/embed", json={"text": "a"}, headers={"x-request-timeout-ms": "150"})
        both = client.post(
            "/embed", json={"inputs": [{"text": "a"}, {}]}, headers={"x-request-timeout-ms": "150"}
        )
    assert error(answer) == (504, "deadline_exceeded", None)
    assert [one["error"]["code"] for one in both.json()["results"]] == ["deadline_exceeded", "invalid_field"]
    assert client.post("/embed", json={"text": "a"}).status_code == 200


def test_a_caller_that_hangs_up_is_forgotten(server, client):
    line = 'vlmoe_disconnects_total{route="/embed"}'
    before = server.metric(line)
    body = b'{"text": "a"}'
    with server.engine_paused():
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as connection:
            connection.sendall(
                b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
            )
            # the one that asks for the number is in flight itself
            wait_until(lambda: server.metric("vlmoe_requests_in_flight") == 2)
        wait_until(lambda: server.metric(line) == before + 1)
    assert client.post("/embed", json={"text": "a"}).status_code == 200


def test_killing_the_engine_costs_nobody_an_answer(server, client, image):
    counter = 'vlmoe_engine_restarts_total{model="tiny"}'
    restarts = server.metric(counter)
    expected = client.post("/vqa", json={"image": image, "question": QUESTION}).json()["answers"][0]
    # again, where a crowded machine takes longer over a new engine than callers are kept waiting
    for kills in (1, 2, 3):
        answers = answers_around_a_kill(server, client, image)
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert server.metric(counter) == restarts + kills
        if not any("the engine has been down for 30 s" in answer.text for answer in answers):
            break
    assert [answer.status_code for answer in answers] == [200] * 64
    for answer in answers:
        best = answer.json()["answers"][0]
        assert best == {"answer": expected["answer"], "score": pytest.approx(expected["score"], abs=1e-5)}


def answers_around_a_kill(server, client, image):
    engine = server.engine_pid
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        # it stands still, so that it is killed with work in it, however fast it is
        os.kill(engine, signal.SIGSTOP)
        answers = [
            pool.submit(client.post, "/vqa", json={"image": image, "question": QUESTION}) for _ in range(64)
        ]
        # the one that asks for the number is in flight itself
        wait_until(lambda: server.metric("vlmoe_requests_in_flight") == 1 + 8)
        os.kill(engine, signal.SIGKILL)
    return [answer.result() for answer in answers]
