"""What the server costs in processor time, which a busy machine disturbs less than the clock: answers and refusals.

    PYTHONPATH=loadtests .venv/bin/python serve/bench/front.py [--seconds 8] [--mix small-vqa]

Prints milliseconds of processor time an answered input, in the front and in the engine, beside encode + forward in this
process in batches of 32; then a refusal, while the engine is stopped and the queue is full.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from vlmoe_loadtests.generator import Target, closed_loop, open_loop
from vlmoe_loadtests.mixes import Ask, asks
from vlmoe_model.images import open_image
from vlmoe_model.inputs import Job
from vlmoe_model.runner import Runner

CLIENTS = 32


def cpu_s(pid: int) -> float:
    """Processor time of a process, all threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def engine_of(pid: int) -> int:
    """The engine process of a server."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return next(int(child) for task in tasks for child in (task / "children").read_text().split())


async def measure(server: int, target: Target, wanted: list[Ask], seconds: float) -> None:
    """Print what answers and refusals cost."""
    engine = engine_of(server)
    await closed_loop(target, wanted, CLIENTS, 3.0)
    front_s, engine_s = cpu_s(server), cpu_s(engine)
    records = await closed_loop(target, wanted, CLIENTS, seconds)
    num = sum(record.num_inputs for record in records if record.status == 200)
    print(
        f"{CLIENTS} callers: front {1000 * (cpu_s(server) - front_s) / num:.2f}, "
        f"engine {1000 * (cpu_s(engine) - engine_s) / num:.2f} ms an input"
    )
    os.kill(engine, signal.SIGSTOP)
    try:
        # more than the queue takes at any prediction: what comes after is refused
        waiting = asyncio.ensure_future(open_loop(target, wanted, [0.001 * i for i in range(400)]))
        await asyncio.sleep(5.0)
        front_s = cpu_s(server)
        records = await closed_loop(target, wanted, 8, seconds)
        outcomes = Counter(record.outcome for record in records)
        print(
            f"refused: front {1000 * (cpu_s(server) - front_s) / len(records):.2f} ms a request, {dict(outcomes)}"
        )
    finally:
        os.kill(engine, signal.SIGCONT)
    await waiting


def bare_ms(wanted: list[Ask]) -> tuple[float, float]:
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
    """Start a server, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--mix", choices=("small-vqa", "vqa"), default="small-vqa")
    args = parser.parse_args()
    wanted = list(asks(args.mix, 0))
    print("bare: encode {:.2f}, forward {:.2f} ms an input".format(*bare_ms(wanted)))
    vlmoe = str(Path(sys.executable).with_name("vlmoe"))
    with tempfile.TemporaryDirectory() as data:
        command = [vlmoe, "serve", "--port", "0", "--grpc-port", "0", "--threads", "1", "--cache-mb", "0"]
        command += ["--data-dir", data, "--max-queue-ms", "400"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            ready = next(
                found for line in server.stdout if (found := re.search(r"http://([^:]+):(\d+)", line))
            )
            target = Target(host=ready[1], port=int(ready[2]), timeout_s=120.0)
            asyncio.run(measure(server.pid, target, wanted, args.seconds))
        finally:
            server.terminate()
            server.wait(30)


if __name__ == "__main__":
    main()
