"""What a brownout gains and what it costs, apart from everything else: three servers that differ in nothing but it.

    .venv/bin/python -m vlmoe_loadtests.brownout [--mode "--capacity 0.25"] [--rounds 5] [-- SERVER OPTIONS]

"never" routes as the checkpoint does, "overloaded" does so until it browns out, "always" is in the mode from the start
on. All stand beside each other and are asked in turns, the same requests at the same times, at multiples of what
"never" answers to --clients in a closed loop; whoever is not asked idles. The objective is sent along as a deadline.
Ratios are to "never" in the same round.

`same`: the share of answers whose best one is what "never" says to that request alone.
"""

import argparse
import asyncio
import contextlib
import json
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from vlmoe_loadtests.arrivals import poisson
from vlmoe_loadtests.endings import exit_on_sigterm
from vlmoe_loadtests.generator import Target, closed_loop, open_loop
from vlmoe_loadtests.main import split_arguments
from vlmoe_loadtests.mixes import MIXES, Ask, asks
from vlmoe_loadtests.own_server import own_server
from vlmoe_loadtests.records import Record
from vlmoe_loadtests.summary import aligned, summarize
from vlmoe_loadtests.wire import Answer, Pool

SERVERS = ("never", "overloaded", "always")
_WARM_UP_SHARE = 0.2
_TIMEOUT_S = 30.0
_LOOK_S = 1.0
_BROWNED_OUT = re.compile(rb"^vlmoe_brownout\{.*\} 1", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Phase:
    """One server at one load in one round.

    good: answers a second within the objective. browned: share of the answers that were made in the mode. tokens,
    forward_ms: of an answer's batch at the median. same: see the module.
    """

    server: str
    load: float
    round: int
    good: float
    p50_ms: float
    p99_ms: float
    browned: float
    tokens: float
    forward_ms: float
    same: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything up to now. capacity: answers a second; 0 where it has not been measured."""

    capacity: float
    phases: tuple[Phase, ...]

    @classmethod
    def read(cls, path: Path | None, rate: float) -> "Measured":
        """What was written before; nothing where nothing was."""
        if path is None or not path.exists():
            return cls(rate, ())
        found = json.loads(path.read_text())
        return cls(found["capacity"], tuple(Phase(**fields) for fields in found["phases"]))

    def write(self, path: Path | None) -> None:
        """Keep it for the next time."""
        if path is not None:
            path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def best_of(body: bytes) -> str:
    """The best answer, label or whatever a task calls it."""
    fields = json.loads(body)
    for name, key in (("answers", "answer"), ("labels", "label")):
        if name in fields:
            return str(fields[name][0][key])
    raise ValueError(f"an answer without answers or labels: {body[:200]!r}")


def measured(
    server: str, load: float, number: int, records: Sequence[Record], seconds: float, objective_ms: float
) -> Phase:
    """The figures of a phase but for `same`, from the requests that were due after its first fifth."""
    skip_s = _WARM_UP_SHARE * seconds
    found = summarize(records, seconds, objective_ms, skip_s=skip_s)
    ok = [record for record in records if record.due_s >= skip_s and record.outcome == "ok"]
    return Phase(
        server=server,
        load=load,
        round=number,
        good=found.goodput,
        p50_ms=found.percentiles_ms[50],
        p99_ms=found.percentiles_ms[99],
        browned=statistics.fmean(bool(record.mode) for record in ok) if ok else 0.0,
        tokens=statistics.median(record.batch_tokens for record in ok) if ok else 0.0,
        forward_ms=found.phases_ms["forward"],
        same=1.0,
    )


class Trial:
    """Asks the servers in turns."""

    def __init__(self, targets: dict[str, Target], wanted: Sequence[Ask], args: argparse.Namespace) -> None:
        self._targets = targets
        self._wanted = wanted
        self._args = args
        self._best: list[str] = []
        self._lookers = {name: Pool(target.host, target.port) for name, target in targets.items()}

    async def run(self, known: Measured, keep: Callable[[Measured], None]) -> Measured:
        """Some more rounds. keep: told everything after each phase."""
        args = self._args
        self._best = await self._alone()
        for name in reversed(SERVERS):
            records = await closed_loop(self._targets[name], self._wanted, args.clients, args.seconds / 2)
        here = sum(record.outcome == "ok" for record in records) / (args.seconds / 2)
        capacity = known.capacity or here
        print(f"{here:.1f} answers a second to {args.clients} callers", file=sys.stderr, flush=True)
        looking = asyncio.create_task(self._look())
        phases = list(known.phases)
        first = 1 + max((phase.round for phase in phases), default=-1)
        for number in range(first, first + args.rounds):
            for place, load in enumerate(args.multiple):
                due = list(poisson(load * capacity, args.seconds, 100 * number + place))
                # nobody is always the first
                for turn in range(len(SERVERS)):
                    name = SERVERS[(turn + number) % len(SERVERS)]
                    phases.append(await self._phase(name, load, number, due))
                    print(phases[-1], file=sys.stderr, flush=True)
                    keep(Measured(capacity, tuple(phases)))
        looking.cancel()
        for pool in self._lookers.values():
            pool.close()
        return Measured(capacity, tuple(phases))

    async def _phase(self, name: str, load: float, number: int, due: Sequence[float]) -> Phase:
        same: list[bool] = []

        def compare(which: int, answer: Answer) -> None:
            if answer.status == 200:
                same.append(best_of(answer.body) == self._best[which])

        args, target = self._args, self._targets[name]
        hurried = replace(target, headers={"x-request-timeout-ms": f"{args.objective_ms:.0f}"})
        await self._calm(name)
        records = await open_loop(hurried, self._wanted, due, compare)
        # what is still queued belongs to this phase
        await asyncio.sleep(1.0)
        phase = measured(name, load, number, records, args.seconds, args.objective_ms)
        return replace(phase, same=statistics.fmean(same) if same else 1.0)

    async def _calm(self, name: str) -> None:
        while _BROWNED_OUT.search(await self._metrics(name)):
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        """A server notices calm when it is asked, or looked at: nobody else does it while it idles."""
        while True:
            for name in self._targets:
                await self._metrics(name)
            await asyncio.sleep(_LOOK_S)

    async def _alone(self) -> list[str]:
        target = self._targets["never"]
        pool = Pool(target.host, target.port)
        found = []
        for ask in self._wanted:
            found.append(best_of((await pool.ask(ask.wire(target.host, {}), _TIMEOUT_S)).body))
        pool.close()
        return found

    async def _metrics(self, name: str) -> bytes:
        target = self._targets[name]
        head = f"GET /metrics HTTP/1.1\r\nhost: {target.host}\r\n\r\n"
        return (await self._lookers[name].ask(head.encode(), _TIMEOUT_S)).body


def table(phases: Sequence[Phase]) -> str:
    """A line a load and server: medians over the rounds, with the least and the most where it matters."""
    heads = [
        *("load", "server", "good/s", "ratio", "p50 ms", "p99 ms", "browned", "tokens"),
        "forward ms",
        "same",
    ]
    lines = [heads]
    for load in sorted({phase.load for phase in phases}):
        never = {phase.round: phase.good for phase in phases if (phase.load, phase.server) == (load, "never")}
        for name in SERVERS:
            rows = [phase for phase in phases if (phase.load, phase.server) == (load, name)]
            ratios = [row.good / never[row.round] for row in rows if never[row.round]]
            lines.append(
                [
                    f"{load:g} x",
                    name,
                    _spread([row.good for row in rows], "{:.1f}"),
                    "" if name == "never" else _spread(ratios, "{:.2f}"),
                    *(
                        f"{statistics.median(getattr(row, key) for row in rows):.0f}"
                        for key in ("p50_ms", "p99_ms")
                    ),
                    f"{100 * statistics.median(row.browned for row in rows):.0f} %",
                    *(
                        f"{statistics.median(getattr(row, key) for row in rows):.0f}"
                        for key in ("tokens", "forward_ms")
                    ),
                    f"{100 * statistics.median(row.same for row in rows):.1f} %",
                ]
            )
    return aligned(lines)


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    middle, least, most = (form.format(f(values)) for f in _SPREAD)
    return f"{middle} ({least} .. {most})"


_SPREAD: tuple[Callable[[Sequence[float]], float], ...] = (statistics.median, min, max)


@contextlib.contextmanager
def servers(common: Sequence[str], mode: Sequence[str]) -> Iterator[dict[str, Target]]:
    """The three, each on a port of its own."""
    arguments = {"never": [], "overloaded": [*mode, "--brownout", "on"], "always": [*mode]}
    with contextlib.ExitStack() as stack:
        targets = {}
        for name in SERVERS:
            address = urlsplit(stack.enter_context(own_server([*common, *arguments[name]])).url)
            assert address.hostname is not None
            targets[name] = Target(host=address.hostname, port=address.port or 80, timeout_s=_TIMEOUT_S)
        yield targets


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    exit_on_sigterm()
    ours, server_options = split_arguments(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(ours)
    wanted = asks(args.mix, args.seed)
    with servers(["--cache-mb", "0", *server_options], shlex.split(args.mode)) as targets:
        known = Measured.read(args.json, args.rate)
        found = asyncio.run(Trial(targets, wanted, args).run(known, lambda now: now.write(args.json)))
    print(f"{found.capacity:.1f} answers a second are 1 x")
    print(table(found.phases))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vlmoe_loadtests.brownout", description=__doc__)
    parser.add_argument("--mode", default="--capacity 0.25", help="the options that describe the mode")
    parser.add_argument("--multiple", type=float, nargs="+", default=[0.8, 1.5, 3.0], help="of the capacity")
    parser.add_argument("--rate", type=float, default=0.0, help="the capacity, if it is not to be measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="of each phase; its first fifth is warm-up"
    )
    parser.add_argument("--clients", type=int, default=32, help="of the closed loop that measures capacity")
    parser.add_argument("--mix", choices=sorted(MIXES), default="small-vqa")
    parser.add_argument(
        "--objective-ms", type=float, default=1000.0, help="an answer is good within this time"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--json", type=Path, help="keeps what was measured, so that rounds can be added later"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
