import concurrent.futures
import contextlib
import logging
import os
import signal
import socket

import httpx
import pytest

from vlmoe_serve.main import run
from vlmoe_serve.retrieval.store import CollectionStore

from ..waiting import PATIENCE_S, is_gone, wait_until


@pytest.fixture(autouse=True)
def _logs_as_before():
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, root.level = before[0], before[1]


def status_of(url, path):
    return httpx.get(f"{url}{path}", timeout=PATIENCE_S).status_code


def test_a_drain_loses_nothing_leaves_no_orphans_and_collections_stay(start, tmp_path):
    data = ["--data-dir", str(tmp_path / "data")]
    server = start(*data, "--drain-s", "120")
    server.client.put("/collections/kept", json={})
    items = [{"id": f"i{n}", "text": "cat " * (n + 1), "metadata": {"n": n}} for n in range(5)]
    server.client.post("/collections/kept/items", json={"items": items})
    query = {"collection": "kept", "text": "cat cat cat", "top_k": 2}
    before = server.client.post("/retrieve", json=query).json()
    engine = server.engine_pid

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        with server.engine_paused():
            answers = [
                pool.submit(httpx.post, f"{server.url}/embed", json={"text": "a cat"}, timeout=PATIENCE_S)
                for _ in range(8)
            ]
            wait_until(lambda: server.metric("vlmoe_requests_in_flight") >= 9)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: status_of(server.url, "/readyz") == 503)
            assert status_of(server.url, "/healthz") == 200
            refused = httpx.post(f"{server.url}/embed", json={"text": "late"}, timeout=PATIENCE_S)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert int(refused.headers["retry-after"]) >= 1
        assert [answer.result().status_code for answer in answers] == [200] * 8
    assert server.process.wait(timeout=PATIENCE_S) == 0
    wait_until(lambda: is_gone(engine))
    assert not server.tracebacks

    again = start(*data)
    assert again.client.get("/collections").json()["collections"][0]["count"] == 5
    assert again.client.post("/retrieve", json=query).json() == before
    # a crash of the whole server takes the engine along, and what was acknowledged stays
    last = {"items": [{"id": "last", "text": "scissors"}]}
    assert again.client.post("/collections/kept/items", json=last).json()["upserted"] == 1
    engine = again.engine_pid
    again.process.kill()
    again.process.wait()
    wait_until(lambda: is_gone(engine))
    store = CollectionStore(tmp_path / "data")
    assert store.metadata(store.collections()[0].key, "last") == {}
    store.close()


def test_a_drain_that_takes_too_long_ends_all_the_same(start):
    server = start("--drain-s", "0.3")
    engine = server.engine_pid
    os.kill(engine, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, f"{server.url}/embed", json={"text": "a"}, timeout=PATIENCE_S)
        wait_until(lambda: server.metric("vlmoe_requests_in_flight") >= 2)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=PATIENCE_S) == 0
        refused = waiting.result()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    wait_until(lambda: is_gone(engine))


def test_who_does_not_send_what_was_announced_keeps_no_server_from_its_end(start):
    server = start("--drain-s", "0.3")
    host, port = server.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as held:
        for path, kind in (
            ("/vqa", "multipart/form-data; boundary=X"),
            ("/collections/a/items", "text/json"),
        ):
            connection = held.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: 100\r\n\r\n"
            connection.sendall(head.encode())
        wait_until(lambda: server.metric("vlmoe_requests_in_flight") >= 3)
        assert server.end() == 0
    assert not server.tracebacks
    assert "ERROR" not in server.lately


def test_a_load_that_takes_longer_than_the_drain_is_given_up(start, checkpoint, tmp_path):
    (tmp_path / "admins").write_text("admin-key\n")
    admins = ("--admin-key-file", str(tmp_path / "admins"))
    server = start("--drain-s", "0.3", "--model-root", str(checkpoint.parent), *admins)
    engine = server.engine_pid
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        loading = pool.submit(
            httpx.post,
            f"{server.url}/v1/models/other/load",
            json={"path": checkpoint.name},
            headers={"x-api-key": "admin-key"},
            timeout=PATIENCE_S,
        )
        wait_until(lambda: len(server.children()) == 2)
        (loader,) = set(server.children()) - {engine}
        os.kill(loader, signal.SIGSTOP)
        assert server.end() == 0
        refused = loading.result()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    wait_until(lambda: is_gone(engine) and is_gone(loader))
    assert not server.tracebacks
    assert "ERROR" not in server.lately


def test_the_second_signal_ends_at_once(start):
    server = start("--drain-s", "600")
    engine = server.engine_pid
    with server.engine_paused(), concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, f"{server.url}/embed", json={"text": "a"}, timeout=PATIENCE_S)
        wait_until(lambda: server.metric("vlmoe_requests_in_flight") >= 2)
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: status_of(server.url, "/readyz") == 503)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=PATIENCE_S) == 128 + signal.SIGINT
        with pytest.raises(httpx.TransportError):
            waiting.result()
        wait_until(lambda: is_gone(engine))


def test_several_models_are_chosen_by_name_and_never_mix_their_spaces(
    start, checkpoint, make_checkpoint, capsys
):
    other = make_checkpoint(1)
    server = start("--model", f"one={checkpoint}", f"two={other}")
    client = server.client
    ids = {model["id"]: model["space_id"] for model in client.get("/v1/models").json()["data"]}
    assert list(ids) == ["one", "two"]
    assert ids["one"] != ids["two"]
    answers = {name: client.post("/embed", json={"text": "a cat", "model": name}).json() for name in ids}
    assert answers["one"]["embedding"] != answers["two"]["embedding"]
    assert client.post("/embed", json={"text": "a cat"}).json() == answers["one"]

    assert client.put("/collections/g", json={"model": "two"}).json()["space_id"] == ids["two"]
    conflicts = [
        client.put("/collections/g", json={"model": "one"}),
        client.post("/collections/g/items", json={"items": [{"id": "a", "text": "a"}], "model": "one"}),
        client.post("/retrieve", json={"collection": "g", "text": "a", "model": "one"}),
    ]
    assert [(one.status_code, one.json()["error"]["code"]) for one in conflicts] == [
        (409, "space_conflict")
    ] * 3
    # without a name, the model of the collection's space answers
    client.post("/collections/g/items", json={"items": [{"id": "a", "text": "a cat"}]})
    found = client.post("/retrieve", json={"collection": "g", "text": "a cat"}).json()
    assert (found["model"], found["hits"][0]["score"]) == ("two", pytest.approx(1.0, abs=1e-5))

    # the same directory with a port that is taken: one line, before anything is loaded
    port = server.url.rsplit(":", 1)[1]
    assert run(["--model", str(other), "--port", port]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"127.0.0.1:{port}" in lines[0]


def test_weights_that_do_not_fit_are_1_and_one_line(make_checkpoint, capsys, tmp_path):
    path = make_checkpoint(2)
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(config.replace('"ffn_dim": 64', '"ffn_dim": 32'))
    assert run(["--model", str(path), "--port", "0", "--data-dir", str(tmp_path)]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlmoe serve: ")]
    assert len(lines) == 1
    assert "model.safetensors" in lines[0]


def test_a_data_directory_that_cannot_be_used_is_1_and_one_line(checkpoint, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert run(["--model", str(checkpoint), "--port", "0", "--data-dir", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_limits_for_keys_need_keys(capsys):
    assert run(["--max-key-rate", "1", "--port", "0"]) == 2
    assert "--api-key-file" in capsys.readouterr().err


def test_loading_models_needs_admins(checkpoint, capsys, tmp_path):
    assert run(["--model", str(checkpoint), "--model-root", str(tmp_path), "--port", "0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "--admin-key-file" in lines[0]


def test_tls_files_that_are_none_are_2_and_one_line(capsys, tmp_path):
    assert run(["--tls-cert", str(tmp_path / "no.pem"), "--tls-key", str(tmp_path / "no.key")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "no.pem" in lines[0]
