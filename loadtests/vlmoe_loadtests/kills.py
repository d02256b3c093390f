"""Kill the engine again and again under load, and check every answer.

    .venv/bin/python -m vlmoe_loadtests.kills [--requests 100000] [--every-s 10] [--json FILE] [-- SERVER OPTIONS]

Each distinct request is asked alone first, before anything is killed; afterwards every answer has to be that one, byte
for byte, on the connection and with the id of its request, or one of the errors that are documented. Exits 1 where one
is not: wrong, lost, foreign or twice.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from vlmoe_loadtests.endings import exit_on_sigterm
from vlmoe_loadtests.main import split_arguments
from vlmoe_loadtests.mixes import Ask, asks
from vlmoe_loadtests.own_server import OwnServer, own_server
from vlmoe_loadtests.wire import Answer, Pool

# docs/operations.md: what a caller may be told when nothing is wrong with the request
DOCUMENTED = {429: {"overloaded"}, 503: {"engine_unavailable", "starting", "request_failed"}}
_MIXES = ("small-vqa", "text")
# longer than the server keeps anybody waiting for an engine that does not come back
_TIMEOUT_S = 600.0
_POLL_S = 0.1
_MOST_PATIENCE_S = 5.0


@dataclass(slots=True)
class Tally:
    """What became of all requests.

    right: the expected answer. errors: documented ones, by status and code. wrong: anything else that was answered.
    lost: no answer at all. foreign: an answer with another request's id. twice: answers to nothing that was asked.
    """

    right: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    lost: int = 0
    foreign: int = 0
    twice: int = 0
    kills: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    # of what went wrong, the first few
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing was wrong, lost, foreign or twice."""
        return not (self.wrong or self.lost or self.foreign or self.twice)

    def add(self, answer: Answer, expected: bytes, request_id: str) -> None:
        """Judge one answer."""
        if answer.headers.get("x-request-id") != request_id:
            self.foreign += 1
            self._note(f"{request_id} was answered as {answer.headers.get('x-request-id')}")
        elif answer.status == 200 and answer.body == expected:
            self.right += 1
        elif (code := error_code(answer)) in DOCUMENTED.get(answer.status, ()):
            name = f"{answer.status} {code}"
            self.errors[name] = self.errors.get(name, 0) + 1
        else:
            self.wrong += 1
            self._note(f"{request_id}: {answer.status} {answer.body[:200]!r} instead of {expected[:200]!r}")

    def lose(self, request_id: str, error: Exception) -> None:
        """One was not answered."""
        self.lost += 1
        self._note(f"{request_id}: {type(error).__name__} {error}")

    def _note(self, what: str) -> None:
        if len(self.examples) < 10:
            self.examples.append(what)


def error_code(answer: Answer) -> str | None:
    """The code of an error in the documented form; None for any other body."""
    try:
        code = json.loads(answer.body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, str) else None


class Trial:
    """Asks, kills and judges."""

    def __init__(self, server: OwnServer, wanted: Sequence[Ask], num_clients: int) -> None:
        address = urlsplit(server.url)
        assert address.hostname is not None
        assert address.port is not None
        self.tally = Tally()
        self._server = server
        self._host = address.hostname
        self._wanted = wanted
        self._pool = Pool(address.hostname, address.port)
        self._num_clients = num_clients
        self._numbers: list[int] = []
        self._progress = 1

    async def run(self, num_requests: int, every_s: float) -> Tally:
        """Learn what is right, then ask so many times while the engine is killed every so many seconds."""
        expected = [await self._alone(ask) for ask in self._wanted]
        self._numbers = list(range(1, num_requests + 1))
        self._progress = max(1, num_requests // 20)
        killer = asyncio.create_task(self._kill(every_s))
        start_s = time.monotonic()
        await asyncio.gather(*(self._client(expected) for _ in range(self._num_clients)))
        self.tally.seconds = time.monotonic() - start_s
        killer.cancel()
        # what a server sends too much comes after what it owed
        await asyncio.sleep(1.0)
        self.tally.twice = self._pool.num_unasked
        self._pool.close()
        return self.tally

    async def _is_ready(self) -> bool:
        head = f"GET /readyz HTTP/1.1\r\nhost: {self._host}\r\n\r\n"
        try:
            answer = await self._pool.ask(head.encode(), _TIMEOUT_S)
        except OSError:
            return False
        return answer.status == 200

    async def _alone(self, ask: Ask) -> bytes:
        answer = await self._pool.ask(ask.wire(self._host, {}), _TIMEOUT_S)
        if answer.status != 200:
            raise RuntimeError(f"{ask.path} was answered with {answer.status}: {answer.body[:200]!r}")
        return answer.body

    async def _client(self, expected: Sequence[bytes]) -> None:
        while self._numbers:
            number = self._numbers.pop()
            if number % self._progress == 0:
                print(f"{number} left, {self.tally.kills} kills", file=sys.stderr, flush=True)
            which, request_id = number % len(expected), f"kill-{number}"
            wire = self._wanted[which].wire(self._host, {"x-request-id": request_id})
            start_s = time.monotonic()
            try:
                answer = await self._pool.ask(wire, _TIMEOUT_S)
            except OSError as error:
                self.tally.lose(request_id, error)
                continue
            self.tally.slowest_s = max(self.tally.slowest_s, time.monotonic() - start_s)
            self.tally.add(answer, expected[which], request_id)
            # a caller that comes back at once would only count refusals
            await asyncio.sleep(min(_MOST_PATIENCE_S, float(answer.headers.get("retry-after", 0))))

    async def _kill(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            # one that is not up yet has nothing of anybody's to lose
            while not await self._is_ready():
                await asyncio.sleep(_POLL_S)
            for pid in self._server.engine_pids():
                os.kill(pid, signal.SIGKILL)
            self.tally.kills += 1


def main(argv: Sequence[str] | None = None) -> int:
    """Try, print, judge."""
    exit_on_sigterm()
    ours, server_options = split_arguments(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(ours)
    wanted = [ask for mix in _MIXES for seed in range(args.variety) for ask in asks(mix, seed)]
    with own_server(["--cache-mb", "0", *server_options]) as server:
        tally = asyncio.run(Trial(server, wanted, args.clients).run(args.requests, args.every_s))
    print(json.dumps(asdict(tally), indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(asdict(tally), indent=1) + "\n")
    return 0 if tally.clean else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vlmoe_loadtests.kills", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--every-s", type=float, default=10.0, help="between kills")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument(
        "--variety", type=int, default=4, help=f"times 24 distinct requests of each of {', '.join(_MIXES)}"
    )
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
