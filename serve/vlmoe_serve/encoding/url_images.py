"""Pictures by URL, from hosts on an allow-list and nowhere else.

    url -> host listed? -> resolve once -> every address public? -> connect to that address -> redirect: from the start

A server that fetches what callers name can be sent to its neighbours: to a metadata service, to a database, to
itself. So without an allow-list nothing is fetched, and with one:

- A name is resolved once, and the connection goes to the address that was checked. Otherwise a second answer of the
  name's server could point elsewhere.
- Addresses that are not public are refused, unless the allow-list names the address itself.
- A redirect is a new URL and is checked as one. Ports are those of the scheme unless the list names another.
- The whole fetch has a time, a number of bytes and a number of redirects. No proxy, cookie or credential is used.
"""

import asyncio
import ipaddress
import ssl
import time
import typing
from collections.abc import Callable, Iterable
from urllib.parse import urljoin, urlsplit

import httpcore

from vlmoe_serve.errors import BadRequest, PayloadTooLarge, ServeError, UrlNotAllowed
from vlmoe_serve.schemas import Strict
from vlmoe_serve.together import together
from vlmoe_serve.validation import shown

R = typing.TypeVar("R", bound=Strict)

_PORTS = {"http": 80, "https": 443}
_MAX_REDIRECTS = 3
_MAX_AT_ONCE = 16
_MAX_URL = 2048
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_url(source: str) -> bool:
    """Whether an image field holds a link that could be fetched."""
    return source[:8].lower().startswith(("http://", "https://"))


class UrlImages:
    """Fetches pictures. Use it from one event loop.

    Args:
        hosts: HOST or HOST:PORT; a host is a name or an address ([...] for IPv6). Empty: nothing is fetched.
        max_bytes: of one picture.
        timeout_s: of one fetch, redirects included.
        trust: certificates to trust; None trusts the system's.
        on_fetched: told the seconds of every fetch, and "ok" or the code of its error.
    """

    def __init__(
        self,
        hosts: Iterable[str] = (),
        *,
        max_bytes: int = 32_000_000,
        timeout_s: float = 10.0,
        trust: ssl.SSLContext | None = None,
        on_fetched: Callable[[float, str], None] = lambda seconds, outcome: None,
    ) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._trust = trust
        self._on_fetched = on_fetched
        self._turns = asyncio.Semaphore(_MAX_AT_ONCE)

    async def filled(self, request: R) -> R:
        """The request with the pictures themselves where its `image` or `images` had a picture's URL.

        Raises:
            UrlNotAllowed, BadRequest, PayloadTooLarge: see `fetch`.
        """
        # not by attribute: pydantic takes its time to say that there is no such field
        fields = request.__dict__
        one, several = fields.get("image"), fields.get("images")
        if isinstance(one, str) and is_url(one):
            return request.model_copy(update={"image": await self.fetch(one)})
        if several and any(isinstance(image, str) and is_url(image) for image in several):
            found = await together([self._file(image, f"images.{i}") for i, image in enumerate(several)])
            return request.model_copy(update={"images": found})
        return request

    async def _file(self, image: str | bytes, param: str) -> str | bytes:
        return await self.fetch(image, param) if isinstance(image, str) and is_url(image) else image

    async def fetch(self, url: str, param: str = "image") -> bytes:
        """The bytes at a URL.

        Raises:
            UrlNotAllowed: the host, its address, or one on the way is not allowed.
            BadRequest: it could not be fetched. PayloadTooLarge: it is too large.
        """
        if not self._hosts:
            raise UrlNotAllowed(
                f"images by URL are not allowed on this server, got {shown(url)}", param=param
            )
        start_s, outcome = time.monotonic(), "ok"
        try:
            return await self._fetched(url, param)
        except ServeError as error:
            outcome = error.code
            raise
        finally:
            self._on_fetched(time.monotonic() - start_s, outcome)

    async def _fetched(self, url: str, param: str) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                return await self._followed(url)
        except TimeoutError:
            raise _failed(f"did not arrive within {self._timeout_s:g} s", url, param) from None
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            ssl.SSLError,
        ) as error:
            raise _failed(f"could not be fetched ({type(error).__name__})", url, param) from error
        except (UrlNotAllowed, BadRequest, PayloadTooLarge) as error:
            error.param = param
            raise

    async def _followed(self, url: str) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            host, port = self._checked(url)
            address = await self._resolved(host, port)
            async with httpcore.AsyncConnectionPool(
                network_backend=_Pinned(address, port), ssl_context=self._trust, max_connections=1
            ) as pool:
                # identity: a compressed answer could grow without bounds
                headers = [("accept-encoding", "identity"), ("user-agent", "vlmoe"), ("accept", "image/*")]
                async with pool.stream("GET", url, headers=headers) as answer:
                    if answer.status not in _REDIRECTS:
                        return await self._body(answer, url)
                    url = urljoin(url, _header(answer, b"location"))
        raise _failed(f"has more than {_MAX_REDIRECTS} redirects", url)

    async def _body(self, answer: httpcore.Response, url: str) -> bytes:
        if answer.status != 200:
            raise _failed(f"answered with status {answer.status}", url)
        if _header(answer, b"content-encoding") not in ("", "identity"):
            raise _failed("answered with a compressed body", url)
        body = bytearray()
        async for part in answer.aiter_stream():
            body += part
            if len(body) > self._max_bytes:
                raise PayloadTooLarge(
                    f"the image at the URL is larger than the limit of {self._max_bytes} bytes",
                    code="image_too_large",
                )
        return bytes(body)

    def _checked(self, url: str) -> tuple[str, int]:
        """Host and port of a URL that the list allows."""
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise _failed("is not a URL", url) from None
        # what parsers disagree about is refused: blanks, control characters, a user name, anything not ASCII
        if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise UrlNotAllowed(
                f"the URL holds characters that URLs do not have, or too many, got {shown(url)}"
            )
        if scheme not in _PORTS or "@" in parts.netloc:
            raise UrlNotAllowed(f"only http(s)://HOST/... is allowed, got {shown(url)}")
        host = host.rstrip(".")
        written = f"[{host}]" if ":" in host else host
        named_port = port if port is not None else _PORTS[scheme]
        plain = written in self._hosts and named_port == _PORTS[scheme]
        if not plain and f"{written}:{named_port}" not in self._hosts:
            raise UrlNotAllowed(f"the host of {shown(url)} is not on this server's allow-list")
        return host, named_port

    async def _resolved(self, host: str, port: int) -> str:
        literal = _address(host)
        if literal is not None:
            # it was found on the list as it is
            return host
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=1)
        except OSError:
            raise _failed("names a host that cannot be found", host) from None
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            if not is_public(address):
                raise UrlNotAllowed(
                    f"host {shown(host)} has an address that is not public; list the address to allow it"
                )
        return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, whatever way it is written or wrapped."""
    parsed = _address(address)
    if parsed is None:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if inner is None and parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to one address whatever host is asked for; TLS still checks the host's name."""

    def __init__(self, address: str, port: int) -> None:
        self._address, self._port = address, port
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: typing.Iterable[typing.Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return await self._backend.connect_tcp(
            self._address, self._port, timeout, local_address, socket_options
        )

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: typing.Iterable[typing.Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise OSError("no sockets of this machine are fetched from")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _header(answer: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in answer.headers if key.lower() == name), "")


def _failed(what: str, url: str, param: str | None = None) -> BadRequest:
    return BadRequest(f"the image {shown(url)} {what}", param=param, code="url_not_fetched")
