"""A small server that answers as documented and misbehaves when told to, and clients of both kinds for it."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from vlmoe_client import AsyncClient, Client, Retry

from . import wrongs
from .small_server import Server, listening


@pytest.fixture
def wrong() -> ModuleType:
    """The ways to misbehave, for `server.next`."""
    return wrongs


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("VLMOE_URL", raising=False)
    monkeypatch.delenv("VLMOE_API_KEY", raising=False)
    with listening() as listener:
        yield listener


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def digest_of() -> Callable[[bytes], str]:
    return lambda data: hashlib.sha256(data).hexdigest()[:12]


QUICK = Retry(attempts=3, base_s=0.001)
# Far more than any call needs; a machine that others use too may stall for seconds.
PATIENCE_S = 120.0


@pytest.fixture(params=[Client, AsyncClient], ids=["blocking", "asyncio"])
def do(request: pytest.FixtureRequest, server: Server) -> Callable[..., Any]:
    """Calls one method of a fresh client: every test that takes this runs with both."""

    def blocking(method: str, *args: Any, client: dict[str, Any], **fields: Any) -> Any:
        with Client(server.url, **client) as opened:
            result = getattr(opened, method)(*args, **fields)
            return list(result) if method == "list_items" else result

    async def under_asyncio(method: str, *args: Any, client: dict[str, Any], **fields: Any) -> Any:
        async with AsyncClient(server.url, **client) as opened:
            if method == "list_items":
                return [item async for item in opened.list_items(*args, **fields)]
            return await getattr(opened, method)(*args, **fields)

    def run(method: str, *args: Any, client: dict[str, Any] | None = None, **fields: Any) -> Any:
        settings = {"retry": QUICK, "timeout": PATIENCE_S, **(client or {})}
        if request.param is Client:
            return blocking(method, *args, client=settings, **fields)
        return asyncio.run(under_asyncio(method, *args, client=settings, **fields))

    return run
