"""Many inputs over one stream: taken as there is room for them, answered as each is done.

    inputs -> window -> stream -> (position, result)

The inputs are taken in the caller's thread, and only while fewer than `window` are under way. When the connection
breaks, those that have no answer yet are sent again over the next one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from ._answers import read_error
from ._call import Call, CallOptions, Reply
from ._course import Course
from ._errors import ConnectionLost, VlmoeError
from ._grpc_errors import to_error
from ._grpc_messages import MessageReply, Rpc, answered, timing_headers, wired
from ._grpc_transport import GrpcTransport
from ._results import ItemError
from .proto.fields import message_of

R = TypeVar("R")
_END = object()
# all is answered: the server has only to say that it heard so
_GOODBYE_S = 1.0


class Streaming(Generic[R]):
    """One stream of one task, through all its connections."""

    def __init__(
        self,
        transport: GrpcTransport,
        rpc: str,
        inputs: Iterator[Mapping[str, Any]],
        read: Callable[[Mapping[str, Any], Reply], R],
        options: CallOptions,
        window: int,
    ) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self._transport = transport
        self._rpc = rpc
        self._takes = Rpc.named(f"{rpc}Stream").takes
        self._inputs = enumerate(inputs)
        self._read = read
        self._window = window
        call: Call[Any] = Call("STREAM", f"/{rpc.lower()}", lambda reply: None, rpc=rpc)
        # unlike a call, a stream may go on for as long as there are inputs
        self._course = Course(transport._settings, call, CallOptions(**{"timeout": None, **options}))
        self._unanswered: dict[int, Message] = {}
        self._more = True

    def run(self) -> Iterator[tuple[int, R | ItemError]]:
        """Each input's position and what became of it, in the order they are done."""
        while True:
            try:
                self._course.start()
                yield from self._connection()
                return
            except VlmoeError as error:
                wait_s = self._course.wait_s(error)
                if wait_s is None:
                    raise
            time.sleep(wait_s)

    def _connection(self) -> Iterator[tuple[int, R | ItemError]]:
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for again in self._unanswered.values():
            requests.put(again)
        stream = self._transport._open(self._rpc, iter(requests.get, _END), self._course)
        reader = threading.Thread(target=_listen, args=(stream, events), daemon=True)
        reader.start()
        try:
            while self._fill(requests) or self._unanswered:
                # with room for more, only what is there already is taken
                waits = len(self._unanswered) >= self._window or not self._more
                while waits or not events.empty():
                    yield self._answer(events.get())
                    waits = False
            requests.put(_END)
            reader.join(_GOODBYE_S)
        finally:
            requests.put(_END)
            stream.cancel()
            reader.join()

    def _fill(self, requests: queue.SimpleQueue[Any]) -> bool:
        """Send one more input if there is room; whether there may be others."""
        if self._more and len(self._unanswered) < self._window:
            place, fields = next(self._inputs, (-1, {}))
            self._more = place >= 0
            if self._more:
                message = message_of(self._takes, {"id": str(place), "request": wired(fields)})
                self._unanswered[place] = message
                requests.put(message)
        return self._more

    def _answer(self, event: Any) -> tuple[int, R | ItemError]:
        if isinstance(event, grpc.RpcError):
            raise to_error(event, self._course)
        if event is _END:
            raise self._course.error(ConnectionLost, "the server ended the stream before all was answered")
        place = int(event.id)
        del self._unanswered[place]
        self._course.progressed()
        result = answered(event)
        if "error" in result:
            return place, read_error(result["error"])
        reply = MessageReply(
            status=200,
            headers=timing_headers(event),
            content=b"",
            request_id=self._course.identity()["x-request-id"],
            fields=result,
        )
        return place, self._read(result, reply)


def _listen(stream: Any, events: queue.SimpleQueue[Any]) -> None:
    try:
        for answer in stream:
            events.put(answer)
        events.put(_END)
    except grpc.RpcError as error:
        events.put(error)
