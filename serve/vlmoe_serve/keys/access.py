"""Who may ask, and how much: the same for both doors.

shown key -> ApiKeys -> the key's name -> KeyLimits -> the request
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from vlmoe_serve.errors import Overloaded, Unauthorized
from vlmoe_serve.keys.api_keys import ApiKeys
from vlmoe_serve.keys.key_limits import KeyLimits
from vlmoe_serve.metrics import Metrics


class Access:
    """Keys and their limits."""

    def __init__(self, keys: ApiKeys, limits: KeyLimits, metrics: Metrics) -> None:
        self._keys = keys
        self._limits = limits
        self._metrics = metrics

    def __bool__(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._keys)

    @property
    def has_shares(self) -> bool:
        """Whether callers have shares of their own, which `one` counts."""
        return bool(self._keys) and bool(self._limits)

    def lets_in(self, shown: bytes | None) -> bool:
        """Whether `check` would pass, without counting who it would not."""
        return not self._keys or self._keys.name_of(shown) is not None

    def check(self, shown: bytes | None) -> str | None:
        """The name of the key that was shown, None where none is asked for.

        Raises:
            Unauthorized: no key, or not one of ours.
        """
        if not self._keys:
            return None
        name = self._keys.name_of(shown)
        if name is None:
            self._metrics.on_refused("", "unauthorized")
            raise Unauthorized("a valid key is needed: `Authorization: Bearer KEY` or `x-api-key: KEY`")
        return name

    @contextlib.contextmanager
    def one(self, name: str | None) -> Iterator[None]:
        """One request of this key, for as long as the block runs.

        Raises:
            Overloaded: the key has had its share.
        """
        if name is None or not self._limits:
            yield
            return
        start_s = time.monotonic()
        try:
            self._limits.enter(name, start_s)
        except Overloaded as error:
            self._metrics.on_refused(name, error.code)
            raise
        try:
            yield
        finally:
            self._limits.leave(name, time.monotonic() - start_s)


def shown_key(header: Callable[[str], str | None]) -> bytes | None:
    """The key in a call's headers; `header` gives the value of one."""
    key = header("x-api-key")
    if key is None:
        scheme, _, key = (header("authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
    # header values arrive as latin-1; the file is UTF-8
    return key.strip().encode("latin-1")
