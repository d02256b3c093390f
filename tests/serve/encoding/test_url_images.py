import asyncio
import contextlib
import socket

import pytest

import vlmoe_serve.encoding.url_images
from vlmoe_serve.encoding.url_images import UrlImages, is_public, is_url
from vlmoe_serve.errors import BadRequest, PayloadTooLarge, UrlNotAllowed
from vlmoe_serve.schemas import EmbedRequest, RerankRequest, VqaRequest

PICTURE = b"the bytes of a picture"


def ok(body=PICTURE, *headers):
    lines = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def redirect(place, status=302):
    return f"HTTP/1.1 {status} Found\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def serving(answers):
    """A web server; `answers` maps a path to the bytes of an answer. Yields (port, heads of requests)."""
    heads = []
    handlers = set()

    async def one(reader, writer):
        handlers.add(asyncio.current_task())
        try:
            await answer_one(reader, writer)
        finally:
            writer.close()

    async def answer_one(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        answer = answers[head.split()[1].decode()]
        if callable(answer):
            await answer(writer)
        else:
            writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        # a transport lets go of its socket in the loop's next turn
        await asyncio.sleep(0)


def fetching(answers, path="/a.png", *, host="127.0.0.1", listed=None, **options):
    """What one fetch gives, and the heads that the web server saw."""

    async def run():
        async with serving(answers) as (port, heads):
            hosts = [f"{host}:{port}"] if listed is None else [one.format(port=port) for one in listed]
            images = UrlImages(hosts, **options)
            return await images.fetch(f"http://{host}:{port}{path}"), heads

    return asyncio.run(run())


def test_a_picture_comes_from_a_listed_host_and_nothing_is_told_to_it():
    picture, heads = fetching({"/a.png?x=1": ok()}, "/a.png?x=1")
    assert picture == PICTURE
    (head,) = heads
    names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line}
    assert names == {b"host", b"accept", b"accept-encoding", b"user-agent"}


def test_without_a_list_nothing_is_fetched():
    with pytest.raises(UrlNotAllowed, match="not allowed on this server"):
        asyncio.run(UrlImages().fetch("https://example.org/a.png"))


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/a.png",
        "http://127.0.0.1:81/a.png",
        "http://127.0.0.1.other.example/a.png",
        "http://other.example:80/a.png",
        "https://127.0.0.1/a.png",
        "http://user@127.0.0.1/a.png",
        "http://127.0.0.1@other.example/a.png",
        "http://127.0.0.1\\@other.example/a.png",
        "http://127.0.0.1 /a.png",
        "http://127.0.0.1/a\r\nhost: b",
        "http://\uff11\uff12\uff17.0.0.1/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://0x7f.1/a.png",
        "http://2130706433/a.png",
        "http:///a.png",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://127.0.0.1/" + "a" * 3000,
    ],
)
def test_what_is_not_on_the_list_is_not_asked(url):
    images = UrlImages(["127.0.0.1:80", "127.0.0.1:9"])
    with pytest.raises((UrlNotAllowed, BadRequest)) as caught:
        asyncio.run(images.fetch(url))
    assert caught.value.code == "url_not_allowed"
    assert caught.value.param == "image"


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:99999/", "http://127.0.0.1:x/"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(BadRequest):
        asyncio.run(UrlImages(["127.0.0.1"]).fetch(url))


def test_a_listed_name_with_a_private_address_is_refused():
    with pytest.raises(UrlNotAllowed, match="not public"):
        fetching({"/a.png": ok()}, host="localhost")


def test_a_name_is_resolved_once_and_the_checked_address_is_asked(monkeypatch):
    asked = []

    async def rebinding(self, host, port, **options):
        asked.append(host)
        # the second answer would lead elsewhere
        address = "127.0.0.1" if len(asked) == 1 else "10.255.255.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", rebinding)
    monkeypatch.setattr(vlmoe_serve.encoding.url_images, "is_public", lambda address: True)
    picture, heads = fetching({"/a.png": ok()}, host="pictures.example")
    assert picture == PICTURE
    assert asked == ["pictures.example"]
    assert b"host: pictures.example:" in heads[0].lower()


def test_one_private_address_among_several_is_enough(monkeypatch):
    async def mixed(self, host, port, **options):
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("93.184.216.34", "192.168.0.1")
        ]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", mixed)
    with pytest.raises(UrlNotAllowed, match="not public"):
        asyncio.run(UrlImages(["pictures.example"]).fetch("http://pictures.example/a.png"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(status):
    picture, heads = fetching({"/a.png": redirect("/b.png", status), "/b.png": ok()})
    assert (picture, len(heads)) == (PICTURE, 2)


@pytest.mark.parametrize(
    "place",
    [
        "http://169.254.169.254/latest/meta-data",
        "//other.example/a.png",
        "https://127.0.0.1/a.png",
        "http://localhost/",
        "file:///etc/passwd",
        "http://[fd00::1]/",
    ],
)
def test_a_redirect_is_checked_like_a_url(place):
    with pytest.raises(UrlNotAllowed):
        fetching({"/a.png": redirect(place)})


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


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("2002:0a00:0001::", False),
        ("64:ff9b::7f00:1", False),
        ("ff02::1", False),
        ("fe80::1%eth0", False),
        ("nonsense", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("http://a", True),
        ("HTTPS://a", True),
        ("ftp://a", False),
        ("aHR0", False),
    ],
)
def test_what_is_a_url(source, expected):
    assert is_url(source) is expected


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
