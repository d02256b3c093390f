import gzip
import socket

import httpx
import pytest

from vlmoe_serve.http_door.server import _KEEP_ALIVE_S

from ...waiting import PATIENCE_S

LIMIT = 32_000_000


def connect(server):
    return socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=PATIENCE_S)


def read_answer(connection):
    answer = b""
    while b"}}" not in answer:
        part = connection.recv(65536)
        if not part:
            break
        answer += part
    return answer


def test_a_large_upload_is_refused_before_it_is_read(server):
    with connect(server) as connection:
        connection.sendall(b"POST /vqa HTTP/1.1\r\nhost: x\r\ncontent-length: 50000000\r\n\r\n")
        answer = read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"body_too_large"' in answer
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("chunked", [False, True])
def test_fifty_megabytes_get_413_and_leave_the_server_as_it_was(server, client, chunked):
    size = 50_000_000
    part = b" " * 1_000_000
    content = (part for _ in range(size // len(part))) if chunked else part * (size // len(part))
    answer = httpx.post(f"{server.url}/vqa", content=content, timeout=PATIENCE_S)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert client.post("/embed", json={"text": "a"}).status_code == 200


def test_a_body_just_within_the_limit_is_read(client):
    body = b'{"text": "a"}'
    answer = client.post("/embed", content=body + b" " * (LIMIT - len(body)))
    assert answer.status_code == 200
    over = client.post("/embed", content=body + b" " * (LIMIT - len(body) + 1))
    assert over.status_code == 413


@pytest.mark.parametrize("length", ["-1", "abc", "9" * 30, "1e3"])
def test_lengths_that_are_none(server, client, length):
    with connect(server) as connection:
        connection.sendall(f"POST /vqa HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode())
        answer = read_answer(connection)
    assert answer.split()[1] in (b"400", b"413")
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "nonsense"])
def test_a_packed_body_is_refused_before_it_is_read(client, encoding):
    body = gzip.compress(b'{"text": "a"}')
    answer = client.post("/embed", content=body, headers={"content-encoding": encoding})
    assert answer.status_code == 415
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_encoding", "content-encoding")
    assert answer.headers["accept-encoding"] == "identity"
    plain = client.post("/embed", json={"text": "a"}, headers={"content-encoding": "Identity"})
    assert plain.status_code == 200
    assert client.post("/v2/models/tiny.embed/infer", headers={"content-encoding": encoding}).json() == {
        "error": error["message"]
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/collections/a"), ("POST", "/collections/a/items"), ("POST", "/v1/embeddings")],
)
def test_routes_that_take_no_form_say_so(client, method, path):
    answer = client.request(method, path, files={"image": b"a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_json")
    assert answer.json()["error"]["message"] == "this route takes JSON, got a form"


def test_the_connection_ends_after_a_refused_body(server):
    with connect(server) as connection:
        connection.sendall(b"POST /vqa HTTP/1.1\r\nhost: x\r\ncontent-length: 50000000\r\n\r\n")
        read_answer(connection)
        # one that were kept would be for longer than this
        connection.settimeout(_KEEP_ALIVE_S - 15)
        while connection.recv(65536):
            pass
