"""Requests made to hurt: each is an error of the caller's, in our shape, and the server is as it was."""

import json
import socket
from pathlib import Path
from urllib.parse import quote

import pytest

from ..waiting import PATIENCE_S, wait_until


def form(*parts, end=True):
    """A body of parts, each given as its header lines and its content."""
    body = b"".join(b"--X\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
    return body + (b"--X--\r\n" if end else b"")


def field(name, content=b"a"):
    return b'Content-Disposition: form-data; name="' + name + b'"', content


def file(name, content=b"a", filename=b"a.png"):
    return b'Content-Disposition: form-data; name="' + name + b'"; filename="' + filename + b'"', content


def refused(answer, *statuses):
    assert answer.status_code in statuses, answer.text[:300]
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "param"}
    assert len(error["message"]) < 500
    return error


@pytest.fixture(autouse=True)
def _as_it_was(server):
    before = server.client.post("/embed", json={"text": "a cat"}).json()
    yield
    assert server.client.post("/embed", json={"text": "a cat"}).json() == before
    assert not server.tracebacks


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b"[" * 1_000_000, (400, 413)),
        (b'{"text":' * 100_000, (413,)),
        (b'{"text":' * 20_000, (400,)),
        (b'{"text": "a", "text": "b"}', (400,)),
        (b'{"text": NaN}', (400,)),
        (b'{"text": 1e999}', (422,)),
        (b'{"text": "\\ud800"}', (400,)),
        (b'{"text": "\xed\xa0\x80"}', (400,)),
        (b"[" + b"0," * 2_000_000 + b"0]", (413,)),
        (b'{"inputs": ' + b"[" + b"{}," * 300 + b"{}]}", (413,)),
        (b'{"text": "' + b"a" * 20_000_000 + b'"}', (413,)),
        (b'{"' + b"a" * 1_000_000 + b'": 1}', (422,)),
        (b'{"text": "a", "model": "' + b"m" * 1_000_000 + b'"}', (404,)),
        (b'{"image": "' + b"!" * 1_000_000 + b'"}', (400,)),
        (b'{"image": "data:' + b"a" * 1_000_000 + b'"}', (400,)),
        (b'{"image": "http://127.0.0.1/"}', (400,)),
        (b'{"image": "../../etc/passwd"}', (400,)),
        (b'{"text": ""}', (422,)),
        (b"null", (422,)),
        (b"", (400,)),
        (b"\x00\x01\x02", (400,)),
    ],
)
def test_bodies(client, body, statuses):
    refused(client.post("/embed", content=body, headers={"content-type": "application/json"}), *statuses)


@pytest.mark.parametrize("text", ["\0", "a\0b", "\U0010ffff", "\u202e", "\ufeff", "\u0301" * 2000])
def test_odd_texts_are_texts_or_too_long(client, text):
    assert client.post("/embed", json={"text": text}).status_code in (200, 413)


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (form(*[field(b"a%d" % i) for i in range(5000)]), (400, 422)),
        (form(*[file(b"image") for _ in range(100)]), (400, 422)),
        (form(field(b"a" * 1_000_000)), (400, 413, 422)),
        (form(file(b"image", filename=b"../" * 100_000)), (400, 413, 415)),
        (form((b"X-Header: " + b"a" * 1_000_000 + b"\r\n" + field(b"text")[0], b"a")), (400, 413)),
        (form(*[(b"a: b\r\n" * 10_000 + field(b"text")[0], b"a")]), (200, 400, 413)),
        (form((b"no disposition", b"a")), (400,)),
        (form(field(b"text"), end=False), (400, 422)),
        (b"--X\r\n" * 100_000, (400,)),
        (b"-" * 10_000_000, (400,)),
        (b"\r\n" * 5_000_000, (400, 422)),
        (b"", (400, 422)),
        (form(field(b"filter", b"[" * 100_000)), (400,)),
        (form(field(b"text", b"\xff\xfe")), (400, 422)),
    ],
)
def test_forms(client, body, statuses):
    answer = client.post("/embed", content=body, headers={"content-type": "multipart/form-data; boundary=X"})
    if answer.status_code != 200:
        refused(answer, *statuses)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "a" * 10_000,
        'multipart/form-data; boundary="\\',
        "multipart/form-data; charset=nonsense; boundary=X",
    ],
)
def test_forms_whose_boundary_is_none(client, kind):
    refused(client.post("/embed", content=form(field(b"nothing")), headers={"content-type": kind}), 400, 422)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "image/png", "", "a" * 5000]
)
def test_other_types_are_taken_for_json(client, kind):
    body = json.dumps({"text": "a cat"}).encode()
    assert client.post("/embed", content=body, headers={"content-type": kind}).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../x",
        "..%2fx",
        "/etc/passwd",
        "a/../../b",
        "a\0b",
        "\u202e",
        "con" * 100,
        ".hidden",
        "-a",
        "a b",
    ],
)
def test_names_that_are_paths(client, name):
    answer = client.put(f"/collections/{quote(name, safe='')}", json={})
    refused(answer, 404, 405, 422)
    assert client.get("/collections").json() == {"collections": []}


@pytest.mark.parametrize("item", ["..", "../x", "a/../b", "a//b", "", "/", "a\0b", "\n", "x" * 300, "\u2028"])
def test_ids_that_are_paths(client, item):
    client.put("/collections/ids", json={})
    try:
        answer = client.post("/collections/ids/items", json={"items": [{"id": item, "text": "a"}]})
        assert (answer.status_code, answer.json()["upserted"]) == (200, 0)
        assert answer.json()["errors"][0]["error"]["code"] == "invalid_field"
    finally:
        client.delete("/collections/ids")


def test_files_outside_the_page_are_not_served(server):
    port = int(server.url.rsplit(":", 1)[1])
    for path in (
        "/page/../options.py",
        "/page/..%2foptions.py",
        "/page/%2e%2e/options.py",
        "//etc/passwd",
        "/page//",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 404 "), path


def test_hundreds_of_connections_that_say_nothing_keep_nobody_out(server, client):
    port = int(server.url.rsplit(":", 1)[1])
    held = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) for _ in range(300)]
    try:
        assert client.post("/embed", json={"text": "a"}).status_code == 200
        # a slow machine has not taken all of them yet, and has sent some away already
        refused = 'vlmoe_connections_refused_total{why="idle"}'
        wait_until(lambda: server.metric("vlmoe_connections") + server.metric(refused) >= 300)
    finally:
        for connection in held:
            connection.close()
    files = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    assert files < 600


def test_a_body_of_everything_costs_no_memory(server, client):
    def resident_mb():
        lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    bodies = [
        b"[" + b"[]," * 10_000_000 + b"0]",
        b'{"text": "' + b"a" * 30_000_000 + b'"}',
        b"[" * 30_000_000,
    ]
    for body in bodies:
        client.post("/embed", content=body)
    before_mb = resident_mb()
    for _ in range(12):
        for body in bodies:
            assert client.post("/embed", content=body).status_code in (400, 413)
    assert resident_mb() - before_mb < 100
