"""Which URLs and addresses are asked at all."""

import asyncio
import socket

import pytest

import vlmoe_serve.encoding.url_images
from vlmoe_serve.encoding.url_images import UrlImages, is_public, is_url
from vlmoe_serve.errors import BadRequest, UrlNotAllowed

from .fetching import PICTURE, fetching, ok, redirect


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
