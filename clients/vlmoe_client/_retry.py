"""When to try a call again, and how long to wait before: pure, the time and the dice are arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ._errors import ConnectFailed, ConnectionLost, Overloaded, Unavailable, VlmoeError

# a 503 of one request alone: the engine failed on it twice already, and would again
HOPELESS_CODES = frozenset({"request_failed"})


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently a call is tried again.

    Tried again are 429, 503, refused connections, and connections that broke under a call that is safe to
    repeat. The call's `timeout` bounds it all.

    Attributes:
        attempts: Tries in all; 1 never tries again.
        base_s: Upper bound of the first random wait; it doubles with every try.
        cap_s: Upper bound of any random wait.
        max_wait_s: A `Retry-After` beyond this is not waited for.
    """

    attempts: int = 4
    base_s: float = 0.25
    cap_s: float = 8.0
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")
        if min(self.base_s, self.cap_s, self.max_wait_s) < 0:
            raise ValueError(f"waits must not be negative, got {self}")

    def wait_s(
        self,
        error: VlmoeError,
        *,
        attempt: int,
        remaining_s: float | None,
        repeatable: bool,
        uniform: Callable[[float, float], float],
    ) -> float | None:
        """Seconds to wait before the next try, or None to give up.

        Args:
            error: What the last try ended with.
            attempt: Tries so far, from 1.
            remaining_s: What is left of the call's timeout, if it has one.
            repeatable: The call may be done twice.
            uniform: `random.uniform`.
        """
        if attempt >= self.attempts or not _passing(error, repeatable):
            return None
        # full jitter: callers that failed together must not come back together
        wait = uniform(0.0, min(self.cap_s, self.base_s * 2 ** min(attempt - 1, 30)))
        asked = error.retry_after_s if isinstance(error, (Overloaded, Unavailable)) else None
        if asked is not None:
            if asked > self.max_wait_s:
                return None
            wait += asked
        if remaining_s is not None and wait >= remaining_s:
            return None
        return wait


def _passing(error: VlmoeError, repeatable: bool) -> bool:
    if isinstance(error, ConnectionLost):
        return repeatable
    if isinstance(error, (Overloaded, Unavailable)):
        return error.code not in HOPELESS_CODES
    return isinstance(error, ConnectFailed)
