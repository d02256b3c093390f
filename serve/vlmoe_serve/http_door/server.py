"""The socket and the uvicorn server behind the HTTP door."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from vlmoe_serve.http_door.connection import Connection, ConnectionLimits
from vlmoe_serve.http_door.short_ways import ShortWays, Ways

_BACKLOG = 2048
# longer than the idle time of usual client pools, so that it is rarely us who close under a request being sent
_KEEP_ALIVE_S = 75
_LAST_ANSWERS_S = 1


class ListenError(OSError):
    """The address cannot be listened on; one line that names it."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a taken port is known before anything is loaded.

    Raises:
        ListenError: with the reason.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {host}:{port}: {_reason(error)}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen on {host}:{port}: {_reason(error)}") from error
    return listener


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """Where the socket listens, as a browser wants it."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


class HttpServer(uvicorn.Server):
    """uvicorn, ended by an event instead of by signals: those are the lifecycle's.

    Args:
        app: what answers.
        tls: None speaks plain HTTP.
        limits: of connections.
        ways: around the app.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tls: ssl.SSLContext | None = None,
        limits: ConnectionLimits | None = None,
        ways: Ways | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=ShortWays.leading(limits or ConnectionLimits(), ways or Ways()),
                ws="none",
                lifespan="off",
                log_config=None,
                # callers that speak no HTTP are counted; a line each would let them fill the log
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_LAST_ANSWERS_S,
            )
        )
        self.config.load()
        self.config.ssl = tls
        self._ended = asyncio.Event()

    @property
    def num_connections(self) -> int:
        """Connections that are open."""
        return len(self.server_state.connections)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def main_loop(self) -> None:
        """Refresh the date header once a second until the end."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._ended.wait()

    def hang_up(self) -> None:
        """End the connections on which a request is not answered yet, as if their callers had left."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection) and connection.is_answering:
                connection.transport.abort()

    def end(self) -> None:
        """Close the connections and return from `serve`."""
        self.should_exit = True
        self._ended.set()


def _reason(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error)
