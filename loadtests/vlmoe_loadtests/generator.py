"""Sends requests and notes what becomes of them: at given times (open loop), or one after the other (closed loop).

An open loop is what users are: they do not wait for each other. Latency counts from when a request was due.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from vlmoe_loadtests.mixes import Ask
from vlmoe_loadtests.records import Record
from vlmoe_loadtests.wire import Answer, Pool

OnAnswer = Callable[[int, Answer], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to send, and what with. timeout_s: when a caller gives up. headers: of every request."""

    host: str
    port: int
    timeout_s: float = 30.0
    headers: dict[str, str] = field(default_factory=dict)


async def open_loop(
    target: Target,
    asks: Sequence[Ask],
    due: Iterable[float],
    on_answer: OnAnswer = lambda which, answer: None,
) -> list[Record]:
    """Send a request at each of these times, whether or not others have been answered.

    on_answer: told which of the asks was answered, and how.
    """
    sender = _Sender(target, asks, on_answer)
    loop = asyncio.get_running_loop()
    tasks = []
    for number, due_s in enumerate(due):
        wait_s = sender.start_s + due_s - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        tasks.append(loop.create_task(sender.send(number, due_s)))
    records = list(await asyncio.gather(*tasks))
    sender.pool.close()
    return records


async def closed_loop(target: Target, asks: Sequence[Ask], num_clients: int, seconds: float) -> list[Record]:
    """So many clients, each of which sends its next request when it has the answer to the last."""
    sender = _Sender(target, asks)
    numbers = itertools.count()

    async def client() -> list[Record]:
        records = []
        while (due_s := time.perf_counter() - sender.start_s) < seconds:
            records.append(await sender.send(next(numbers), due_s))
        return records

    found = await asyncio.gather(*(client() for _ in range(num_clients)))
    sender.pool.close()
    return sorted(itertools.chain.from_iterable(found), key=lambda record: record.due_s)


class _Sender:
    def __init__(
        self, target: Target, asks: Sequence[Ask], on_answer: OnAnswer = lambda which, answer: None
    ) -> None:
        self._on_answer = on_answer
        self.pool = Pool(target.host, target.port)
        self._timeout_s = target.timeout_s
        self._asks = asks
        self._wires = [ask.wire(target.host, target.headers) for ask in asks]
        self.start_s = time.perf_counter()

    async def send(self, number: int, due_s: float) -> Record:
        which = number % len(self._asks)
        ask = self._asks[which]
        sent_s = time.perf_counter() - self.start_s
        status, error, headers = 0, "", {}
        try:
            answer = await self.pool.ask(self._wires[which], self._timeout_s)
            status, headers = answer.status, answer.headers
            self._on_answer(which, answer)
        except TimeoutError:
            error = "timeout"
        except OSError:
            error = "connection"
        return Record(
            kind=ask.kind,
            num_inputs=ask.num_inputs,
            due_s=due_s,
            sent_s=sent_s,
            done_s=time.perf_counter() - self.start_s,
            status=status,
            error=error,
            encode_ms=float(headers.get("x-encode-ms", 0)),
            queue_ms=float(headers.get("x-queue-ms", 0)),
            forward_ms=float(headers.get("x-forward-ms", 0)),
            batch_tokens=int(headers.get("x-batch-tokens", 0)),
            mode=headers.get("x-routing-mode", ""),
        )
