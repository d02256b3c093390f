"""What is answered in time when more comes than can be: beside another checkout of this repository, in turns.

    .venv/bin/python serve/bench/overload.py [--beside CHECKOUT] [--turns 3] [--multiples 0.7 1 1.5 3]

Each turn measures what 32 callers get, then offers multiples of that at Poisson times, each request with a deadline of
250 ms. Printed: answers in time a second, as a share of what the callers had got, and what became of all requests.
"""

import argparse
import asyncio
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vlmoe_loadtests.generator import Target, closed_loop, open_loop
from vlmoe_loadtests.mixes import asks
from vlmoe_loadtests.records import Record

HERE = Path(__file__).resolve().parents[2]
FOLDERS = ("kernels", "model", "train", "serve", "clients", "loadtests")
CLIENTS = 32
OBJECTIVE_MS = 250
CAPACITY_S, OFFER_S, SKIPPED_S = 3.0, 4.0, 1.0


def start(checkout: Path, data: str, options: Sequence[str] = ()) -> tuple["subprocess.Popen[str]", Target]:
    """A server of this checkout, once it is ready."""
    command = [sys.executable, "-m", "vlmoe_client", "serve", "--port", "0", "--grpc-port", "0"]
    command += ["--threads", "1", "--cache-mb", "0", "--data-dir", data, *options]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(str(checkout / folder) for folder in FOLDERS)}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"http://([^:]+):(\d+)", line):
            return server, Target(host=found[1], port=int(found[2]), timeout_s=60.0)
    raise SystemExit(f"the server of {checkout} did not start")


def arrivals(rate: float, seed: int) -> list[float]:
    """Poisson times over OFFER_S seconds."""
    dice, times = random.Random(seed), [0.0]
    while times[-1] < OFFER_S:
        times.append(times[-1] + dice.expovariate(rate))
    return times[1:-1]


def outcome(record: Record) -> str:
    """What became of a request."""
    if record.status != 200:
        return str(record.status or record.error)
    return "in time" if 1000 * (record.done_s - record.due_s) <= OBJECTIVE_MS else "late"


def turn(target: Target, multiples: Sequence[float], seed: int) -> dict[float, tuple[float, Counter[str]]]:
    """For every multiple: answers in time over the rate of the callers, and all outcomes."""
    wanted = list(asks("small-vqa", 0))
    rate = len(asyncio.run(closed_loop(target, wanted, CLIENTS, CAPACITY_S))) / CAPACITY_S
    hurried = Target(
        host=target.host,
        port=target.port,
        timeout_s=5.0,
        headers={"x-request-timeout-ms": str(OBJECTIVE_MS)},
    )
    found = {}
    for multiple in multiples:
        records = asyncio.run(open_loop(hurried, wanted, arrivals(rate * multiple, seed)))
        outcomes = Counter(outcome(record) for record in records if record.due_s > SKIPPED_S)
        found[multiple] = outcomes["in time"] / (OFFER_S - SKIPPED_S) / rate, outcomes
    return found


def main() -> None:
    """Start the servers, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--multiples", type=float, nargs="+", default=[0.7, 1.0, 1.5, 3.0])
    args = parser.parse_args()
    checkouts = [HERE] if args.beside is None else [args.beside.resolve(), HERE]
    with tempfile.TemporaryDirectory() as data:
        servers = [start(checkout, f"{data}/{i}") for i, checkout in enumerate(checkouts)]
        try:
            turns: list[list[dict[float, tuple[float, Counter[str]]]]] = [[] for _ in servers]
            for seed in range(args.turns):
                for i, (_, target) in enumerate(servers):
                    turns[i].append(turn(target, args.multiples, seed))
        finally:
            for server, _ in servers:
                server.terminate()
            for server, _ in servers:
                server.wait(60)
    for checkout, found in zip(checkouts, turns, strict=True):
        for multiple in args.multiples:
            share = statistics.median(one[multiple][0] for one in found)
            outcomes = sum((one[multiple][1] for one in found), Counter[str]())
            print(f"{checkout.name} {multiple} x: {share:.2f} in time; {dict(outcomes)}")


if __name__ == "__main__":
    main()
