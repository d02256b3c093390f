import json

import pytest

from ...waiting import wait_until


def test_every_answer_has_an_id_of_its_own(client):
    ids = {client.get(path).headers["x-request-id"] for path in ("/healthz", "/healthz", "/nothing", "/vqa")}
    assert len(ids) == 4


@pytest.mark.parametrize("given", ["a", "6f1c-42:x/y", "x" * 128])
def test_a_callers_id_is_echoed(client, given):
    assert client.get("/healthz", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "caf\u00e9".encode("latin-1")])
def test_an_id_that_would_break_a_line_is_replaced(client, given):
    made = client.get("/healthz", headers={"x-request-id": given}).headers["x-request-id"]
    assert made != given
    assert made.isalnum()


def test_the_log_has_a_line_a_request_and_nothing_of_what_users_sent(server, client):
    client.post("/embed", json={"text": "a very secret question"}, headers={"x-request-id": "find-me"})
    client.get("/collections/secret-name", headers={"x-request-id": "find-me-too"})
    # a line is written after its answer, and read here by another thread
    wait_until(lambda: server.log.count("find-me") >= 2)
    lines = [line for line in server.log.splitlines() if "find-me" in line]
    assert len(lines) == 2
    assert "POST /embed 200" in lines[0]
    assert "GET /collections/{name} 404" in lines[1]
    assert "secret" not in server.log


def test_the_log_as_json_has_the_request_and_nothing_of_what_users_sent(start):
    server = start("--log-format", "json")
    server.client.post("/embed", json={"text": "my secret text"}, headers={"x-request-id": "id-1"})
    server.client.put("/collections/secret-name", json={})
    assert server.end() == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    (found,) = [line for line in lines if line.get("request_id") == "id-1"]
    assert found["ms"] > 0
    assert (found["method"], found["route"], found["status"]) == ("POST", "/embed", 200)
    assert "secret" not in server.log
