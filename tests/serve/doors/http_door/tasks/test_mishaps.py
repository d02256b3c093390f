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
    restarts, engine = server.metric(counter), server.engine_pid
    expected = client.post("/vqa", json={"image": image, "question": QUESTION}).json()["answers"][0]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        # it stands still, so that it is killed with work in it, however fast it is
        os.kill(engine, signal.SIGSTOP)
        answers = [
            pool.submit(client.post, "/vqa", json={"image": image, "question": QUESTION}) for _ in range(64)
        ]
        # the one that asks for the number is in flight itself
        wait_until(lambda: server.metric("vlmoe_requests_in_flight") == 1 + 8)
        os.kill(engine, signal.SIGKILL)
    assert [answer.result().status_code for answer in answers] == [200] * 64
    for answer in answers:
        best = answer.result().json()["answers"][0]
        assert best == {"answer": expected["answer"], "score": pytest.approx(expected["score"], abs=1e-5)}
    assert server.metric(counter) == restarts + 1
    assert client.get("/readyz").status_code == 200
