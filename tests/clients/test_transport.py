"""Retries, timeouts and connections on real sockets, blocking and under asyncio."""

from __future__ import annotations

import asyncio
import socket
import time
from email.utils import formatdate

import pytest

from vlmoe_client import (
    AsyncClient,
    CallTimeout,
    Client,
    ConnectFailed,
    ConnectionLost,
    NetworkError,
    Overloaded,
    Retry,
    ServerError,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)


@pytest.fixture
def closed_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[
            1
        ]  # bound but not listening: connections are refused, and nobody else gets it


@pytest.mark.parametrize("status", [429, 503])
def test_overload_is_tried_again(do, server, wrong, png, status):
    server.next(wrong.refuse(status), wrong.refuse(status))
    assert do("vqa", png, "?").answers
    assert len(server.seen) == 3
    assert len({seen.raw for seen in server.seen}) == 1
    assert len({seen.headers["x-request-id"] for seen in server.seen}) == 1


def test_attempts_are_bounded(do, server, wrong, png):
    server.next(*[wrong.refuse(429, "overloaded", retry_after="0")] * 5)
    with pytest.raises(Overloaded) as caught:
        do("vqa", png, "?")
    assert len(server.seen) == 3
    assert caught.value.retry_after_s == 0.0
    assert caught.value.code == "overloaded"


@pytest.mark.parametrize("status", [400, 401, 413, 422, 500, 504])
def test_other_refusals_are_not_tried_again(do, server, wrong, status):
    server.next(wrong.refuse(status))
    with pytest.raises(Exception, match=f"refused with {status}"):
        do("embed", text="a")
    assert len(server.seen) == 1


def test_retry_after_is_waited_for(do, server, wrong):
    server.next(wrong.refuse(429, retry_after="1"))
    begin = time.monotonic()
    do("embed", text="a")
    # the one lower bound that is the contract; nothing is said about the upper one
    assert time.monotonic() - begin >= 1.0


def test_a_retry_after_beyond_the_timeout_ends_the_call_at_once(do, server, wrong):
    server.next(wrong.refuse(503, retry_after="30"))
    with pytest.raises(Unavailable) as caught:
        do("embed", text="a", timeout=25.0)
    assert caught.value.retry_after_s == 30.0
    assert len(server.seen) == 1


def test_a_retry_after_in_the_past_as_a_date(do, server, wrong):
    server.next(wrong.refuse(503, retry_after=formatdate(time.time() - 60, usegmt=True)))
    assert do("embed", text="a").vector
    assert len(server.seen) == 2


def test_a_dropped_connection_is_tried_again(do, server, wrong, png):
    server.next(wrong.drop)
    assert do("vqa", png, "?").answers
    assert len(server.seen) == 2


def test_half_an_answer_is_a_lost_connection(do, server, wrong):
    server.next(*[wrong.cut] * 3)
    with pytest.raises(ConnectionLost):
        do("embed", text="a")
    assert len(server.seen) == 3


def test_a_delete_is_not_repeated_after_a_lost_connection(do, server, wrong):
    server.collections["c"] = {}
    server.next(wrong.drop)
    with pytest.raises(ConnectionLost):
        do("delete_collection", "c")
    assert len(server.seen) == 1


def test_nobody_listens(closed_port):
    with (
        Client(f"http://127.0.0.1:{closed_port}", retry=Retry(attempts=2, base_s=0.001)) as client,
        pytest.raises(ConnectFailed, match=str(closed_port)) as caught,
    ):
        client.list_models(request_id="r-9")
    assert caught.value.request_id == "r-9"


def test_health_of_nobody(closed_port):
    with Client(f"http://127.0.0.1:{closed_port}") as client:
        assert client.ready() is False
        assert client.healthy() is False


def test_health(do, server, wrong):
    assert do("healthy") is True
    assert do("ready") is True
    server.next(wrong.refuse(503, "not_ready"))
    assert do("ready") is False
    assert [seen.path for seen in server.seen] == ["/healthz", "/readyz", "/readyz"]
    server.next(wrong.refuse(401, "unauthorized"))
    with pytest.raises(Unauthorized):
        do("ready")


def test_health_of_nobody_under_asyncio(closed_port):
    async def ask() -> bool:
        async with AsyncClient(f"http://127.0.0.1:{closed_port}") as client:
            return await client.ready()

    assert asyncio.run(ask()) is False


def test_an_answer_that_drips_ends_at_the_timeout(do, server, wrong):
    server.next(wrong.drip)
    with pytest.raises(CallTimeout, match=r"within 0\.5 s"):
        do("embed", text="a", timeout=0.5)
    # none where even the sending took so long, and none that was sent again
    assert len(server.seen) <= 1


def test_a_server_that_says_nothing_ends_at_the_timeout(server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout=0.2) as client, pytest.raises(CallTimeout) as caught:
            client.embed(text="a")
    assert isinstance(caught.value, NetworkError)


def test_a_proxy_that_answers_for_a_dead_server(do, server, wrong):
    server.next(wrong.raw(502, b"<html>\n<h1>Bad Gateway</h1>", content_type="text/html"))
    with pytest.raises(ServerError) as caught:
        do("embed", text="a")
    assert (caught.value.status, caught.value.code, caught.value.message) == (502, "http_error", "<html>")
    assert type(caught.value) is ServerError


def test_something_else_answers(do, server, wrong):
    server.next(wrong.raw(200, b"<html>hello"))
    with pytest.raises(UnexpectedAnswer, match="not JSON; it starts with '<html>hello'"):
        do("embed", text="a")
    server.next(wrong.raw(200, b'{"hello": 1}'))
    with pytest.raises(
        UnexpectedAnswer, match="POST /embed answered otherwise than documented: KeyError 'embedding'"
    ):
        do("embed", text="a")
    server.next(wrong.raw(200, b"[]"))
    with pytest.raises(UnexpectedAnswer):
        do("embed", text="a")
    server.next(wrong.raw(307, b"", location="https://elsewhere.example/embed"))
    with pytest.raises(UnexpectedAnswer, match=r"redirects \(307\) to https://elsewhere"):
        do("embed", text="a")


def test_a_short_list_of_results_is_noticed(do, server, wrong):
    server.next(wrong.raw(200, b'{"results": []}'))
    with pytest.raises(UnexpectedAnswer, match="0 results for 2 inputs"):
        do("embed_many", texts=["a", "b"])


def test_connections_are_kept(server):
    with Client(server.url) as client:
        for _ in range(5):
            client.embed(text="a")
    assert len({seen.connection for seen in server.seen}) == 1


def test_concurrent_calls_of_one_async_client(server):
    async def ask() -> list[str]:
        async with AsyncClient(server.url, max_connections=4) as client:
            results = await asyncio.gather(*(client.vqa(b"image", str(n)) for n in range(12)))
            return [result.answers[1].answer for result in results]

    assert asyncio.run(ask()) == [str(n) for n in range(12)]
    assert len({seen.connection for seen in server.seen}) <= 4


def test_the_key_is_sent_and_not_shown(server):
    with Client(server.url, api_key="s3cret") as client:
        client.list_models()
        assert "s3cret" not in repr(client)
        assert server.url in repr(client)
    assert server.seen[0].headers["authorization"] == "Bearer s3cret"
    assert server.seen[0].headers["user-agent"].startswith("vlmoe-client/")


def test_url_and_key_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("VLMOE_URL", server.url + "/")
    monkeypatch.setenv("VLMOE_API_KEY", "from-env")
    with Client() as client:
        assert client.url == server.url
        client.list_models()
    assert server.seen[0].headers["authorization"] == "Bearer from-env"


def test_a_path_in_the_url_is_kept(server):
    with Client(server.url + "/behind/a/proxy/") as client, pytest.raises(Exception, match="no route"):
        client.list_models()
    assert server.seen[0].path == "/behind/a/proxy/v1/models"


def test_a_password_in_the_url_is_not_shown():
    with Client("http://me:hidden@127.0.0.1:1") as client:
        assert "hidden" not in repr(client)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"timeout": 0.0}, "timeout must be more than 0"),
        ({"timeout": float("inf")}, "finite"),
        ({"priority": "urgent"}, "interactive, normal, batch, got 'urgent'"),
        ({"request_id": "a\nb"}, "printable ASCII"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(do, server, options, reason):
    with pytest.raises(ValueError, match=reason):
        do("embed", text="a", **options)
    assert server.seen == []


@pytest.mark.parametrize("timeout", [None, 7200.0])
def test_no_deadline_is_sent_without_a_timeout_or_beyond_what_servers_take(do, server, timeout):
    do("embed", text="a", timeout=timeout)
    assert "x-request-timeout-ms" not in server.seen[0].headers
