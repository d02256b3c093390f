"""Who has been let in and stands in no queue yet: bodies being read, pictures being decoded.

    admit -> enter -> Seat -> (read, decode) -> leave -> the batcher's queue

A burst of requests is decided upon before its first body has been decoded. Without this the queue would look empty to
all of them, and those for whom there is no room would be decoded only to be refused.

Whose body takes long to come is not expected any more: callers who send a byte now and then would keep all others out.
"""

import itertools
import math
import time
from types import TracebackType

from vlmoe_serve.batching.lateness import Lateness
from vlmoe_serve.batching.ticket import PRIORITIES, Priority

_SMOOTHING = 0.05
# Most bodies are there with their head; one of many megabytes takes this long on a line of some hundred Mbit/s.
_READING_S = 1.0


class Seat:
    """One input's place. It is given up by `leave`, or when whoever holds it is gone."""

    def __init__(self, lobby: "Lobby", number: int, promised_ms: float) -> None:
        self._lobby = lobby
        self._number = number
        self._promised_ms = promised_ms
        self._since_s = time.monotonic()

    def leave(self) -> None:
        """Give it up; again changes nothing."""
        self._lobby._seats.pop(self._number, None)

    def answered(self) -> None:
        """The answer is there: what was promised is compared with the time it took."""
        self._lobby.lateness.observe(self._promised_ms, 1000 * (time.monotonic() - self._since_s))

    def missed(self) -> None:
        """There was no answer in time."""
        self._lobby.lateness.observe(self._promised_ms, math.inf)

    def __enter__(self) -> "Seat":
        """The body is there, and is being decoded."""
        self._lobby._expect(self._number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def __del__(self) -> None:
        # a door that failed to read a body has nothing more to do with the call
        self.leave()


class Lobby:
    """The inputs on their way to a queue, and what they are expected to add to it."""

    def __init__(self) -> None:
        self.mean_ms = 0.0
        self.lateness = Lateness()
        # rank of the class, deadline, and until when it is expected to come to the queue soon
        self._seats: dict[int, tuple[int, float, float]] = {}
        self._numbers = itertools.count()
        self._num_seen = 0

    def __len__(self) -> int:
        return len(self._seats)

    def enter(self, priority: Priority, deadline_s: float | None, promised_ms: float = 0.0) -> Seat:
        """Take a seat, and be answered within `promised_ms` if all goes as predicted."""
        number = next(self._numbers)
        due_s = math.inf if deadline_s is None else deadline_s
        self._seats[number] = (PRIORITIES.index(priority), due_s, time.monotonic() + _READING_S)
        return Seat(self, number, promised_ms)

    def ahead_ms(self, priority: Priority, deadline_s: float | None) -> float:
        """Engine time of those whom a newcomer of this class and deadline will queue behind."""
        newcomer = PRIORITIES.index(priority), math.inf if deadline_s is None else deadline_s
        now_s = time.monotonic()
        # a copy, made in one step: the collector may give up a forgotten seat in any thread, at any moment
        return self.mean_ms * sum(
            (rank, due_s) <= newcomer and now_s < until_s
            for rank, due_s, until_s in list(self._seats.values())
        )

    def _expect(self, number: int) -> None:
        seat = self._seats.get(number)
        if seat is not None:
            self._seats[number] = (seat[0], seat[1], math.inf)

    def observe(self, share_ms: float) -> None:
        """An input has been prepared and will take this much of the engine's time."""
        self._num_seen += 1
        # a plain mean at first, so that the first one does not count for more than the others
        self.mean_ms += max(_SMOOTHING, 1 / self._num_seen) * (share_ms - self.mean_ms)
