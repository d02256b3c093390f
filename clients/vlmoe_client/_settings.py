"""What a client was given, checked and complete; the environment is read here and nowhere else."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

import httpx

from ._retry import Retry

DEFAULT_URL = "http://127.0.0.1:8000"
PRIORITIES = ("interactive", "normal", "batch")


@dataclass(frozen=True, slots=True)
class Settings:
    """A client's defaults.

    Attributes:
        base_url: Of the server, without a slash at its end.
        api_key: Sent as a bearer token; empty sends none.
        timeout: Seconds for a whole call, None for ever.
        connect_timeout: Seconds for each attempt to connect.
        retry: When a call is tried again.
        priority: Of calls that do not say their own.
    """

    base_url: str
    api_key: str = field(repr=False)
    timeout: float | None
    connect_timeout: float
    retry: Retry
    priority: str | None

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        check_timeout(self.connect_timeout)
        check_priority(self.priority)
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ValueError("the API key must be printable ASCII without line breaks")

    @classmethod
    def resolve(
        cls,
        url: str | None,
        api_key: str | None,
        *,
        timeout: float | None,
        connect_timeout: float,
        retry: Retry,
        priority: str | None,
    ) -> Settings:
        """Complete what was given from the environment."""
        return cls(_base_url(url), api_key_of(api_key), timeout, connect_timeout, retry, priority)


def _base_url(given: str | None) -> str:
    """The server's URL: given, from VLMOE_URL, or this machine's default port."""
    text = given or os.environ.get("VLMOE_URL") or DEFAULT_URL
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"the server's URL {text!r} is not valid: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(
            f"the server's URL must begin with http:// or https:// and name a host, got {text!r}"
        )
    return str(url.copy_with(query=None, fragment=None)).rstrip("/")


def api_key_of(given: str | None) -> str:
    """The key: given, from VLMOE_API_KEY, or none."""
    return given if given is not None else os.environ.get("VLMOE_API_KEY", "").strip()


def check_timeout(timeout: float | None) -> None:
    """Refuse what could never be met."""
    if timeout is not None and not 0 < timeout < math.inf:
        raise ValueError(f"a timeout must be more than 0 seconds and finite, or None, got {timeout}")


def check_priority(priority: str | None) -> None:
    """Refuse a class that the server does not know."""
    if priority is not None and priority not in PRIORITIES:
        raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, got {priority!r}")


def check_request_id(request_id: str) -> None:
    """Refuse what would break out of a header."""
    if not (request_id.isascii() and request_id.isprintable()):
        raise ValueError(f"request_id must be printable ASCII, got {request_id!r}")
