"""URLs, keys, timeouts and retries of the client over gRPC."""

import socket
import threading
import time

import grpc
import pytest

from vlmoe_client import (
    CallTimeout,
    ConnectFailed,
    DeadlineExceeded,
    GrpcClient,
    Overloaded,
    Retry,
    TooLarge,
    Unauthorized,
)

from ...waiting import PATIENCE_S
from .comparing import server_url

# whichever of the two notices first
LATE = (CallTimeout, DeadlineExceeded)
QUICK = Retry(attempts=2, base_s=0.01)


def test_overload_is_tried_again_after_the_time_it_names(start):
    server = start("--max-queue-ms", "1")
    with GrpcClient(server_url(server), retry=QUICK) as client, server.engine_paused():
        threads = [threading.Thread(target=lambda: swallow(client)) for _ in range(20)]
        for thread in threads:
            thread.start()
        end_s = time.monotonic() + PATIENCE_S
        error = None
        while error is None and time.monotonic() < end_s:
            try:
                client.embed(text="a cat", timeout=1.0)
            except Overloaded as caught:
                error = caught
            except LATE:
                continue
        assert error is not None
        assert (error.status, error.code) == (429, "overloaded")
        assert error.retry_after_s > 0
        for thread in threads:
            thread.join()
    assert server.end() == 0


def swallow(client):
    try:
        client.embed(text="a cat", timeout=1.0)
    except (*LATE, Overloaded):
        return


def test_timeouts_keys_and_nobody_there(start, server, tmp_path):
    with GrpcClient(server_url(server)) as client, server.engine_paused(), pytest.raises(LATE):
        client.embed(text="a cat", timeout=0.3)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{closed.getsockname()[1]}"
        with GrpcClient(url, retry=QUICK, timeout=PATIENCE_S) as client:
            with pytest.raises(ConnectFailed):
                client.embed(text="a")
            assert client.ready() is False
            assert client.healthy() is False
    keys = tmp_path / "keys"
    keys.write_text("s3cret\n")
    guarded = start("--api-key-file", str(keys), "--max-body-mb", "0.1")
    with GrpcClient(server_url(guarded), api_key="s3cret") as client:
        assert client.embed(text="a").vector
        assert "s3cret" not in repr(client)
        with pytest.raises(TooLarge):
            client.embed(bytes(200_000))
    with GrpcClient(server_url(guarded), api_key="other", retry=QUICK) as client:
        with pytest.raises(Unauthorized) as caught:
            client.list_models()
        assert caught.value.status == 401
        assert client.ready()
    assert guarded.end() == 0


@pytest.mark.parametrize(
    "url", ["localhost", "ftp://a:1", "grpc://a", "grpc://a:b", "grpc://a:1/path", "u@a:1"]
)
def test_urls_that_are_none(url):
    with pytest.raises(ValueError, match="grpc://HOST:PORT"):
        GrpcClient(url)


def test_the_environment_names_the_server(server, monkeypatch):
    monkeypatch.setenv("VLMOE_GRPC_URL", server_url(server))
    with GrpcClient() as client:
        assert client.url == server_url(server)
        assert client.ready()


def test_with_tls_the_url_says_so():
    with GrpcClient("grpcs://127.0.0.1:1") as client:
        assert client.url == "grpcs://127.0.0.1:1"
    with GrpcClient("127.0.0.1:1", credentials=grpc.ssl_channel_credentials()) as client:
        assert client.url == "grpcs://127.0.0.1:1"
