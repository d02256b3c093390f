"""How a call travels, blocking and under asyncio side by side: only the waiting differs.

call.content() -> attempt: exchange -> call.result(reply), or wait and try again -> typed result
"""

from __future__ import annotations

import asyncio
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

import httpx

from ._call import Call, CallOptions, Reply
from ._course import Course
from ._errors import NetworkError, VlmoeError
from ._retry import Retry
from ._settings import Settings
from ._version import __version__

H = TypeVar("H", httpx.Client, httpx.AsyncClient)
T = TypeVar("T")


class _Transport(Generic[H]):
    """Construction, the same for both."""

    _open_http: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = 60.0,
        connect_timeout: float = 5.0,
        retry: Retry | None = None,
        priority: str | None = None,
        verify: bool | ssl.SSLContext = True,
        max_connections: int = 100,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            url: Of the server. Default: the environment's VLMOE_URL, else http://127.0.0.1:8000.
            api_key: Sent as a bearer token. Default: the environment's VLMOE_API_KEY, else none.
            timeout: Seconds for a whole call, its retries included; None waits for ever.
            connect_timeout: Seconds for one attempt to connect.
            retry: How often and how patiently a call is tried again. Default: `Retry()`.
            priority: "interactive", "normal" or "batch", for calls that do not say their own.
            verify: Whether and how certificates are checked; a context can also hold the client's own.
            max_connections: Most connections held at once; calls beyond them wait.
        """
        self._settings = Settings.resolve(
            url,
            api_key,
            timeout=timeout,
            connect_timeout=connect_timeout,
            retry=retry or Retry(),
            priority=priority,
        )
        headers = {"user-agent": f"vlmoe-client/{__version__}", "accept": "application/json"}
        if self._settings.api_key:
            headers["authorization"] = f"Bearer {self._settings.api_key}"
        limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
        if self.url.startswith("http:"):
            # never used, as redirects are not followed; trusts nobody, and spares the loading of certificates
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._http: H = self._open_http(headers=headers, verify=verify, limits=limits)

    @property
    def url(self) -> str:
        """The server's URL."""
        return self._settings.base_url

    def __repr__(self) -> str:
        shown = httpx.URL(self.url)
        if shown.password:
            shown = shown.copy_with(password="***")
        return f"{type(self).__name__}({str(shown)!r}, timeout={self._settings.timeout})"


class Blocking(ABC):
    """Sends calls and waits for them, whatever they travel by."""

    _settings: Settings

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _content(self, call: Call[Any]) -> Any:
        """What is sent, in the form that `_exchange` takes; reads the pictures."""

    @abstractmethod
    def _exchange(self, call: Call[Any], content: Any, course: Course) -> Reply:
        """One attempt."""

    def _send(self, call: Call[T], options: CallOptions) -> T:
        course = Course(self._settings, call, options)
        content = self._content(call)
        while True:
            try:
                course.start()
                return call.result(self._exchange(call, content, course))
            except VlmoeError as error:
                wait_s = course.wait_s(error)
                if wait_s is None:
                    raise
            time.sleep(wait_s)

    def _send_each(self, calls: Iterator[Call[T]], options: CallOptions) -> Iterator[T]:
        for call in calls:
            yield self._send(call, options)

    def _send_all(self, calls: Iterator[Call[list[T]]], options: CallOptions) -> list[T]:
        return [result for results in self._send_each(calls, options) for result in results]

    def _check(self, call: Call[bool], options: CallOptions) -> bool:
        course = Course(self._settings, call, options)
        try:
            course.start()
            return call.result(self._exchange(call, self._content(call), course))
        except NetworkError:
            return False


class BlockingTransport(_Transport[httpx.Client], Blocking):
    """Over HTTP."""

    _open_http = httpx.Client

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _content(self, call: Call[Any]) -> bytes:
        return call.content()

    def _exchange(self, call: Call[Any], content: bytes, course: Course) -> Reply:
        with (
            course.translated(),
            self._http.stream(
                call.method, course.url, content=content, headers=course.headers(), timeout=course.limits()
            ) as response,
        ):
            chunks = []
            for chunk in response.iter_bytes():
                course.check()
                chunks.append(chunk)
            return course.reply(response, chunks)


class AsyncTransport(_Transport[httpx.AsyncClient]):
    """Sends calls under asyncio; pictures are read in a thread, so the loop never stands still."""

    _open_http = httpx.AsyncClient

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _send(self, call: Call[T], options: CallOptions) -> T:
        course = Course(self._settings, call, options)
        content = await asyncio.to_thread(call.content)
        while True:
            try:
                course.start()
                return call.result(await self._exchange(call, content, course))
            except VlmoeError as error:
                wait_s = course.wait_s(error)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)

    async def _send_each(self, calls: Iterator[Call[T]], options: CallOptions) -> AsyncIterator[T]:
        while (call := await asyncio.to_thread(next, calls, None)) is not None:
            yield await self._send(call, options)

    async def _send_all(self, calls: Iterator[Call[list[T]]], options: CallOptions) -> list[T]:
        return [result async for results in self._send_each(calls, options) for result in results]

    async def _check(self, call: Call[bool], options: CallOptions) -> bool:
        course = Course(self._settings, call, options)
        try:
            course.start()
            return call.result(await self._exchange(call, b"", course))
        except NetworkError:
            return False

    async def _exchange(self, call: Call[Any], content: bytes, course: Course) -> Reply:
        with course.translated():
            async with self._http.stream(
                call.method, course.url, content=content, headers=course.headers(), timeout=course.limits()
            ) as response:
                chunks = []
                async for chunk in response.aiter_bytes():
                    course.check()
                    chunks.append(chunk)
                return course.reply(response, chunks)
