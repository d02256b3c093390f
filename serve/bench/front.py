"""What the server costs in processor time, which a busy machine disturbs less than the clock: answers and refusals.

    PYTHONPATH=loadtests .venv/bin/python serve/bench/front.py [--beside CHECKOUT] [--turns 5] [--mix small-vqa]

Prints milliseconds of processor time an answered input, of the event loop, of decoding threads and of the engine,
medians over turns with another checkout of this repository; before that encode + forward in this process in batches of
32, and after it a refusal, while the engine is stopped and the queue is full.
"""

import argparse
import asyncio
import base64
import json
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from overload import HERE, start

from vlmoe_loadtests.generator import Target, closed_loop, open_loop
from vlmoe_loadtests.mixes import Ask, asks
from vlmoe_model.images import open_image
from vlmoe_model.inputs import Job
from vlmoe_model.runner import Runner

CLIENTS = 32
PARTS = ("loop", "decoding", "engine")


def thread_s(pid: int, thread: int) -> float:
    """Processor time of one thread, in seconds."""
    return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9


def threads_of(pid: int) -> list[int]:
    """All of them."""
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]


def engine_of(pid: int) -> int:
    """The engine process of a server."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return next(int(child) for task in tasks for child in (task / "children").read_text().split())


def parts_s(server: int) -> dict[str, float]:
    """What each part has taken until now."""
    engine = engine_of(server)
    return {
        "loop": thread_s(server, server),
        "decoding": sum(thread_s(server, one) for one in threads_of(server) if one != server),
        "engine": sum(thread_s(engine, one) for one in threads_of(engine)),
    }


def answers(server: int, target: Target, wanted: list[Ask], seconds: float) -> dict[str, float]:
    """Milliseconds an input, by part, and inputs a second."""
    before, start_s = parts_s(server), time.perf_counter()
    records = asyncio.run(closed_loop(target, wanted, CLIENTS, seconds))
    took_s, after = time.perf_counter() - start_s, parts_s(server)
    num = sum(record.num_inputs for record in records if record.status == 200)
    return {part: 1000 * (after[part] - before[part]) / num for part in PARTS} | {"rate": num / took_s}


async def refusals(server: int, target: Target, wanted: list[Ask], seconds: float) -> None:
    """Print what they cost."""
    engine = engine_of(server)
    os.kill(engine, signal.SIGSTOP)
    try:
        # more than the queue takes at any prediction: what comes after is refused
        waiting = asyncio.ensure_future(open_loop(target, wanted, [0.001 * i for i in range(400)]))
        await asyncio.sleep(5.0)
        before_s = thread_s(server, server)
        records = await closed_loop(target, wanted, 8, seconds)
        ms = 1000 * (thread_s(server, server) - before_s) / len(records)
        print(f"refused: loop {ms:.3f} ms a request, {dict(Counter(record.outcome for record in records))}")
    finally:
        os.kill(engine, signal.SIGCONT)
    await waiting


def bare_ms(wanted: Sequence[Ask]) -> tuple[float, float]:
    """Encode and forward of a question, in this process: medians over batches."""
    runner = Runner.load("demo", threads=1)
    processor = runner.directory.processor()
    encode, forward = [], []
    for repeat in range(8):
        start_s = time.process_time()
        jobs = []
        for number in range(CLIENTS):
            body = json.loads(wanted[(repeat * CLIENTS + number) % len(wanted)].body)
            picture = open_image(base64.b64decode(body["image"]))
            jobs.append(Job("vqa", processor.example("vqa", image=picture, text=body["question"])))
        middle_s = time.process_time()
        runner.run(jobs)
        encode.append(middle_s - start_s)
        forward.append(time.process_time() - middle_s)
    return 1000 * statistics.median(encode) / CLIENTS, 1000 * statistics.median(forward) / CLIENTS


def main() -> None:
    """Start the servers, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--mix", choices=("small-vqa", "vqa"), default="small-vqa")
    args = parser.parse_args()
    wanted = list(asks(args.mix, 0))
    print("bare: encode {:.2f}, forward {:.2f} ms an input".format(*bare_ms(wanted)))
    checkouts = [HERE] if args.beside is None else [args.beside.resolve(), HERE]
    with tempfile.TemporaryDirectory() as data:
        options = ("--max-queue-ms", "400")
        servers = [start(checkout, f"{data}/{i}", options) for i, checkout in enumerate(checkouts)]
        try:
            for server, target in servers:
                answers(server.pid, target, wanted, args.seconds)
            found = [
                [answers(server.pid, target, wanted, args.seconds) for server, target in servers]
                for _ in range(args.turns)
            ]
            for number, checkout in enumerate(checkouts):
                middle = {key: statistics.median(turn[number][key] for turn in found) for key in found[0][0]}
                shown = ", ".join(f"{part} {middle[part]:.2f}" for part in PARTS)
                print(
                    f"{checkout.name}, {CLIENTS} callers: {shown} ms an input; {middle['rate']:.0f} a second"
                )
            server, target = servers[-1]
            asyncio.run(refusals(server.pid, target, wanted, args.seconds))
        finally:
            for server, _ in servers:
                server.terminate()
            for server, _ in servers:
                server.wait(60)


if __name__ == "__main__":
    main()
