"""The command line of the generator.

Without --rate it first measures what the server can do, with --clients in a closed loop, and then sends multiples of
that, open loop. Without --url it starts a server of its own, with the options that follow `--`.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from vlmoe_loadtests.arrivals import ARRIVALS, recorded
from vlmoe_loadtests.endings import exit_on_sigterm
from vlmoe_loadtests.generator import Target, closed_loop, open_loop
from vlmoe_loadtests.mixes import MIXES, asks
from vlmoe_loadtests.own_server import own_server
from vlmoe_loadtests.plot import latency_svg
from vlmoe_loadtests.records import Record, write_csv
from vlmoe_loadtests.summary import Summary, summarize, table

_WARM_UP_SHARE = 0.15


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 2 for bad usage."""
    ours, server = split_arguments(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(ours)
    exit_on_sigterm()
    with contextlib.ExitStack() as stack:
        url = args.url or stack.enter_context(own_server(server)).url
        address = urlsplit(url)
        if address.scheme != "http" or address.hostname is None:
            print(f"only http:// is spoken here, got {url}", file=sys.stderr)
            return 2
        headers = {"x-api-key": args.api_key} if args.api_key else {}
        if args.deadline:
            headers["x-request-timeout-ms"] = f"{args.objective_ms:.0f}"
        target = Target(
            host=address.hostname, port=address.port or 80, timeout_s=args.timeout_s, headers=headers
        )
        runs = asyncio.run(_measure(target, args))
    rows = [(name, summary) for name, summary, _ in runs]
    print(table(rows))
    for name, summary in rows:
        phases = ", ".join(f"{phase} {ms:.2f}" for phase, ms in summary.phases_ms.items())
        print(
            f"{name}: of an answer at the median, ms: {phases}; the generator was late by {summary.late_ms:.1f} ms"
        )
    if args.out is not None:
        _save(args.out, runs, args.objective_ms)
    return 0


async def _measure(target: Target, args: argparse.Namespace) -> list[tuple[str, Summary, list[Record]]]:
    runs = []
    wanted = asks(args.mix, args.seed)
    skip_s = _WARM_UP_SHARE * args.seconds

    def note(name: str, records: list[Record], seconds: float) -> None:
        runs.append((name, summarize(records, seconds, args.objective_ms, skip_s=skip_s), records))

    rates = [(f"{rate:g}/s", rate) for rate in args.rate]
    if args.arrivals_file is not None:
        due = recorded(args.arrivals_file)
        note(args.arrivals_file.name, await open_loop(target, wanted, due), max(due[-1], 1e-3))
        return runs
    if not rates:
        # at capacity nobody is refused: callers in a closed loop wait as long as it takes
        patient = Target(host=target.host, port=target.port, headers=_without_deadline(target.headers))
        note(
            f"{args.clients} clients",
            await closed_loop(patient, wanted, args.clients, args.seconds),
            args.seconds,
        )
        measured = runs[0][1]
        capacity = measured.outcomes.get("ok", 0) / measured.seconds
        rates = [(f"{multiple:g} x", multiple * capacity) for multiple in args.multiple]
    for number, (name, rate) in enumerate(rates):
        due = list(ARRIVALS[args.arrivals](rate, args.seconds, args.seed + number))
        note(name, await open_loop(target, wanted, due), args.seconds)
        # what is still queued belongs to this run, not to the next
        await asyncio.sleep(1.0)
    return runs


def _without_deadline(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "x-request-timeout-ms"}


def _save(folder: Path, runs: Sequence[tuple[str, Summary, list[Record]]], objective_ms: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, records in runs:
        stem = "".join(letter if letter.isalnum() or letter == "." else "-" for letter in name)
        write_csv(folder / f"{stem}.csv", records)
        (folder / f"{stem}.svg").write_text(latency_svg(records, name, objective_ms))


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Ours, and those of a server, which follow `--`."""
    if "--" not in argv:
        return list(argv), []
    cut = list(argv).index("--")
    return list(argv[:cut]), list(argv[cut + 1 :])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vlmoe_loadtests", description=__doc__)
    parser.add_argument("--url", help="a running server; without it one is started")
    parser.add_argument(
        "--rate", type=float, action="append", default=[], help="requests a second; many times"
    )
    parser.add_argument(
        "--multiple", type=float, nargs="+", default=[0.7, 1.5, 3.0], help="of the measured capacity"
    )
    parser.add_argument("--clients", type=int, default=32, help="of the closed loop that measures capacity")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run; the first part is warm-up")
    parser.add_argument("--arrivals", choices=sorted(ARRIVALS), default="poisson")
    parser.add_argument("--arrivals-file", type=Path, help="recorded arrivals, one a line, in seconds")
    parser.add_argument("--mix", choices=sorted(MIXES), default="mixed")
    parser.add_argument(
        "--objective-ms", type=float, default=250.0, help="an answer is good within this time"
    )
    parser.add_argument("--deadline", action="store_true", help="tell the server the objective")
    parser.add_argument("--timeout-s", type=float, default=10.0, help="when a caller gives up")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder for one CSV and one SVG a run")
    return parser
