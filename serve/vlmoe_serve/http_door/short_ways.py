"""Requests that need no ASGI: refused by their heads, or answered as soon as their bodies have come.

    head -> Turnstile -> refused: answered, and the body is thrown away as it comes
                      -> let in -> Express takes it: the body is gathered, then answered
                                -> else: the app, as for every other request

What takes its time, or ends early, is given to the app with what has come of it: the clocks and counts of slow bodies,
and of callers who leave in the middle of one, are there.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from starlette.types import Scope

from vlmoe_serve.http_door.connection import Connection, ConnectionLimits
from vlmoe_serve.http_door.express import Express, Passenger
from vlmoe_serve.http_door.turnstile import Turnstile
from vlmoe_serve.http_door.wire import answer_bytes

# A body that is there with its head, or a few turns of the loop later, is waited for; most are.
_GATHER_S = 1.0


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways there are; None: nobody is refused, or answered, on a short one."""

    turnstile: Turnstile | None = None
    express: Express | None = None


@dataclass(slots=True, eq=False)
class _Gathering:
    """A request on the short way whose body is coming."""

    passenger: Passenger
    pieces: list[bytes] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class _Ride:
    """A request that is being answered, as uvicorn's connection knows them: those behind it wait for its end."""

    def __init__(self) -> None:
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True
        self.message_event = self

    def set(self) -> None:
        """The caller has gone; the connection's `Departure` tells whoever answers."""


class ShortWays(Connection):
    """A connection whose requests may take them."""

    ways: ClassVar[Ways] = Ways()

    @classmethod
    def leading(cls, limits: ConnectionLimits, ways: Ways) -> type["ShortWays"]:
        """The class of connections with these limits and ways."""
        return type("LimitedShortWays", (cls,), {"limits": limits, "ways": ways})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller has connected."""
        self._skipping = False
        self._gathering: _Gathering | None = None
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._hand_over()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server ends: nothing new."""
        self._hand_over()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Some bytes of requests."""
        super().data_received(data)
        gathering = self._gathering
        if gathering is not None and gathering.timer is None:
            gathering.timer = self.loop.call_later(_GATHER_S, self._hand_over)

    def on_head(self) -> None:
        """The head is whole, and small enough."""
        refusal = passenger = None
        if self._may_be_short():
            scope = cast(Scope, self.scope)
            turnstile, express = self.ways.turnstile, self.ways.express
            if turnstile is not None:
                refusal = turnstile.refused(self.parser.get_method(), self.url, scope)
            if express is not None and refusal is None:
                passenger = express.board(self.url, scope)
        if refusal is not None:
            self._skipping = True
            self._joined.send(self._error_bytes(refusal.error, refusal.request_id))
        elif passenger is not None:
            self._gathering = _Gathering(passenger)
        else:
            super().on_head()

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        if self._gathering is not None:
            self._gathering.pieces.append(body)
        elif not self._skipping:
            super().on_body(body)

    def on_whole(self) -> None:
        """The body is whole."""
        if self._gathering is not None:
            pieces, passenger = self._gathering.pieces, self._gathering.passenger
            self._end_gathering()
            self.cycle = ride = cast(Any, _Ride())
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            task = self.loop.create_task(self._answer(ride, passenger, body))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif self._skipping:
            self._skipping = False
            # it has been answered: as after any other answer, another request may follow for a while
            self.on_response_complete()
        else:
            super().on_whole()

    async def _answer(self, ride: _Ride, passenger: Passenger, body: bytes) -> None:
        try:
            answer = await _of(self.ways.express).answer(passenger, body, self._departure)
            if self.flow.write_paused:
                await self.flow.drain()
            ride.response_complete = True
            if answer is not None and not ride.disconnected:
                close = not ride.keep_alive
                common = self.server_state.default_headers
                self._joined.send(answer_bytes(answer, common, close=close))
                if close:
                    self.transport.close()
                self.on_response_complete()
        except BaseException:
            # nobody would ever be answered on it
            self.transport.close()
            raise

    def _may_be_short(self) -> bool:
        # who does not take the answers off the socket waits for their next one as everybody does
        if self.is_answering or self.expect_100_continue or self.flow.write_paused:
            return False
        return self.parser.should_keep_alive() and not self.parser.should_upgrade()

    def _hand_over(self) -> None:
        """To the app, from here on."""
        if self._gathering is not None:
            passenger, pieces = self._gathering.passenger, self._gathering.pieces
            self._end_gathering()
            _of(self.ways.express).leave(passenger)
            super().on_head()
            for piece in pieces:
                super().on_body(piece)

    def _end_gathering(self) -> None:
        if self._gathering is not None and self._gathering.timer is not None:
            self._gathering.timer.cancel()
        self._gathering = None


def _of(express: Express | None) -> Express:
    assert express is not None, "who is on the way has boarded"
    return express
