"""How much one key may ask: requests at a time, and requests a second. Pure; time is an argument.

The rate is a bucket of tokens: a key that was silent may send a second's worth at once.
"""

from dataclasses import dataclass, field

from vlmoe_serve.errors import Overloaded

_SMOOTHING = 0.2


@dataclass(slots=True)
class _Use:
    """tokens: requests that may start now, as of `updated_s`. mean_s: how long its requests take."""

    tokens: float
    updated_s: float
    inside: int = 0
    mean_s: float = field(default=0.1)


class KeyLimits:
    """Counts the requests of each key.

    Args:
        max_concurrent: of one key at a time; 0 sets no limit.
        max_rate: requests a second of one key; 0 sets no limit.
    """

    def __init__(self, max_concurrent: int = 0, max_rate: float = 0.0) -> None:
        self._max_concurrent = max_concurrent
        self._max_rate = max_rate
        self._burst = max(1.0, max_rate)
        self._uses: dict[str, _Use] = {}

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return self._max_concurrent > 0 or self._max_rate > 0

    def enter(self, key: str, now_s: float) -> None:
        """A request begins.

        Raises:
            Overloaded: this key has had its share; says when it has a share again.
        """
        use = self._uses.setdefault(key, _Use(self._burst, now_s))
        if 0 < self._max_concurrent <= use.inside:
            # of `inside` requests that end within mean_s, the first does after about this
            raise Overloaded(
                f"this key has {use.inside} requests in flight, the limit is {self._max_concurrent}",
                code="key_concurrency",
                retry_after_s=use.mean_s / use.inside,
            )
        if self._max_rate > 0:
            gained = (now_s - use.updated_s) * self._max_rate
            use.tokens, use.updated_s = min(self._burst, use.tokens + max(0.0, gained)), now_s
            if use.tokens < 1:
                raise Overloaded(
                    f"this key has sent more than {self._max_rate:g} requests a second",
                    code="key_rate",
                    retry_after_s=(1 - use.tokens) / self._max_rate,
                )
            use.tokens -= 1
        use.inside += 1

    def leave(self, key: str, took_s: float) -> None:
        """A request that entered has ended."""
        use = self._uses[key]
        use.inside -= 1
        use.mean_s += _SMOOTHING * (took_s - use.mean_s)
