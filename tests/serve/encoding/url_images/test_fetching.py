"""What is fetched, how far, and how long."""

import asyncio
import contextlib
import socket

import pytest

from vlmoe_serve.encoding.url_images import UrlImages
from vlmoe_serve.errors import BadRequest, PayloadTooLarge, UrlNotAllowed
from vlmoe_serve.schemas import EmbedRequest, RerankRequest, VqaRequest

from .fetching import PICTURE, fetching, ok, redirect, serving


def test_a_picture_comes_from_a_listed_host_and_nothing_is_told_to_it():
    picture, heads = fetching({"/a.png?x=1": ok()}, "/a.png?x=1")
    assert picture == PICTURE
    (head,) = heads
    names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line}
    assert names == {b"host", b"accept", b"accept-encoding", b"user-agent"}


def test_without_a_list_nothing_is_fetched():
    with pytest.raises(UrlNotAllowed, match="not allowed on this server"):
        asyncio.run(UrlImages().fetch("https://example.org/a.png"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(status):
    picture, heads = fetching({"/a.png": redirect("/b.png", status), "/b.png": ok()})
    assert (picture, len(heads)) == (PICTURE, 2)


def test_redirects_come_to_an_end():
    with pytest.raises(BadRequest, match="more than 3 redirects"):
        fetching({"/a.png": redirect("/a.png")})


def test_a_picture_that_is_too_large_is_not_read_to_its_end():
    sent = []

    async def endless(writer):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                writer.write(b"2710\r\n" + b"a" * 10_000 + b"\r\n")
                sent.append(1)
                await writer.drain()

    with pytest.raises(PayloadTooLarge) as caught:
        fetching({"/a.png": endless}, max_bytes=50_000)
    assert caught.value.code == "image_too_large"
    assert len(sent) < 10_000


def test_a_fetch_has_a_time_however_it_trickles():
    async def trickle(writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.01)

    with pytest.raises(BadRequest, match=r"did not arrive within 0\.2 s"):
        fetching({"/a.png": trickle}, timeout_s=0.2)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n",
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        ok(PICTURE, b"content-encoding: gzip"),
        b"",
    ],
)
def test_answers_that_are_no_picture(answer):
    with pytest.raises(BadRequest) as caught:
        fetching({"/a.png": answer})
    assert caught.value.code == "url_not_fetched"


def test_a_host_that_does_not_answer_or_is_not_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BadRequest, match="ConnectError"):
        asyncio.run(UrlImages([f"127.0.0.1:{port}"]).fetch(f"http://127.0.0.1:{port}/"))
    with pytest.raises(BadRequest, match="cannot be found"):
        asyncio.run(UrlImages(["nowhere.invalid"]).fetch("http://nowhere.invalid/"))


def test_a_request_is_filled_and_every_fetch_is_told():
    told = []

    async def run():
        async with serving({"/a.png": ok(b"a"), "/b.png": ok(b"b")}) as (port, _):
            url = f"http://127.0.0.1:{port}"
            images = UrlImages(
                [f"127.0.0.1:{port}"], on_fetched=lambda seconds, outcome: told.append(outcome)
            )
            one = VqaRequest(image=f"{url}/a.png", question="?")
            assert (await images.filled(one)).image == b"a"
            several = RerankRequest(query="?", images=[f"{url}/b.png", "aGk=", f"{url}/a.png"])
            assert (await images.filled(several)).images == [b"b", "aGk=", b"a"]
            wrong = RerankRequest(query="?", images=["aGk=", "http://other.example/"])
            with pytest.raises(UrlNotAllowed) as caught:
                await images.filled(wrong)
            assert caught.value.param == "images.1"
            for untouched in (
                EmbedRequest(text="http://a"),
                EmbedRequest(image="ftp://a"),
                EmbedRequest(image=b"http://"),
            ):
                assert await images.filled(untouched) is untouched

    asyncio.run(run())
    assert sorted(told) == ["ok", "ok", "ok", "url_not_allowed"]
