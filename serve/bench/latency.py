"""What the server adds to the model: /vqa over HTTP beside encode + forward in this process, interleaved.

    .venv/bin/python serve/bench/latency.py [--model PATH or PRESET] [--seconds 20] [--threads 1] [--device cpu]

Prints medians at concurrency 1, then answers per second at each of --callers (32) beside the bare rate of full batches
of one process. A preset gets random weights. The callers cost little, and they share the machine; on a GPU the two
networks share the card, and never run at a time.
"""

import argparse
import asyncio
import base64
import io
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

from PIL import Image
from random_checkpoint import random_checkpoint

from vlmoe_loadtests.generator import Target, closed_loop
from vlmoe_loadtests.mixes import Ask
from vlmoe_model.checkpoint.directory import DEMO
from vlmoe_model.images import open_image
from vlmoe_model.inputs import Job
from vlmoe_model.presets import PRESETS
from vlmoe_model.runner import Runner

QUESTION = "how many bananas are there?"
ROUNDS = 6


def picture(seed: int) -> bytes:
    """A PNG of 160 x 160 pixels that no cache has seen."""
    noise = random.Random(seed).randbytes(160 * 160 * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (160, 160), noise).resize((20, 20)).resize((160, 160)).save(buffer, "PNG")
    return buffer.getvalue()


def body(png: bytes) -> dict[str, str]:
    """The JSON of one question."""
    return {"image": base64.b64encode(png).decode(), "question": QUESTION}


def bare(runner: Runner, pictures: list[bytes]) -> None:
    """Encode and forward without a server."""
    processor = runner.directory.processor()
    runner.run([Job("vqa", processor.example("vqa", image=open_image(p), text=QUESTION)) for p in pictures])


def median_ms(seconds: list[float]) -> float:
    """Median, in milliseconds."""
    return statistics.median(seconds) * 1000


def one_caller(http: HTTPConnection, runner: Runner, pictures: list[bytes], num: int) -> None:
    """A question over HTTP, then the same work here, in turns."""
    over_http, in_process, parts = [], [], []
    for index in range(20 + num):
        png = pictures[index % len(pictures)]
        question = json.dumps(body(png))
        started = time.perf_counter()
        http.request("POST", "/vqa", question, {"content-type": "application/json"})
        answer = http.getresponse()
        answer.read()
        middle = time.perf_counter()
        bare(runner, [png])
        ended = time.perf_counter()
        assert answer.status == 200, answer.status
        if index >= 20:
            over_http.append(middle - started)
            in_process.append(ended - middle)
            parts.append([float(answer.headers[f"x-{part}-ms"]) for part in ("encode", "queue", "forward")])
    print(
        f"one caller: /vqa {median_ms(over_http):.2f} ms, encode + forward here {median_ms(in_process):.2f} ms"
    )
    medians = [statistics.median(column) for column in zip(*parts, strict=True)]
    print("  of it, by the headers: encode {:.2f}, queue {:.2f}, forward {:.2f} ms".format(*medians))


def many_callers(target: Target, runner: Runner, pictures: list[bytes], callers: int, seconds: float) -> None:
    """Callers in a closed loop, then batches of as many here, in turns."""
    asks = [Ask("vqa", "/vqa", json.dumps(body(png)).encode()) for png in pictures]
    rates, bare_rates, parts, tokens = [], [], [], []
    for _ in range(ROUNDS):
        records = asyncio.run(closed_loop(target, asks, callers, seconds / ROUNDS))
        assert all(record.status == 200 for record in records)
        rates.append(len(records) / max(record.done_s for record in records))
        parts += [(record.encode_ms, record.queue_ms, record.forward_ms) for record in records]
        tokens += [record.batch_tokens for record in records]
        started = time.perf_counter()
        for _ in range(4):
            bare(runner, pictures[:callers])
        bare_rates.append(4 * callers / (time.perf_counter() - started))
    ratios = [rate / alone for rate, alone in zip(rates, bare_rates, strict=True)]
    print(
        f"{callers} callers: {statistics.median(rates):.0f} answers/s; batches of {callers} here, encode included: "
        f"{statistics.median(bare_rates):.0f}/s; ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    medians = [statistics.median(column) for column in zip(*parts, strict=True)]
    shares = "encode {:.2f}, queue {:.2f}, forward {:.2f} ms".format(*medians)
    print(
        f"  by the headers, in the middle: {shares}; {statistics.median(tokens):.0f} tokens a batch",
        flush=True,
    )


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of callers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--callers", type=int, nargs="+", default=[32])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        is_preset = args.model in PRESETS and args.model != DEMO
        model = str(random_checkpoint(args.model, Path(folder))) if is_preset else args.model
        measure(model, args)


def measure(model: str, args: argparse.Namespace) -> None:
    """Start a server, measure, print."""
    options = {"--port": 0, "--grpc-port": 0, "--threads": args.threads, "--cache-mb": 0}
    options |= {"--device": args.device, "--dtype": args.dtype}
    words = [str(word) for option in options.items() for word in option]
    if model != DEMO:
        words += ["--model", model]
    command = [sys.executable, "-m", "vlmoe_client", "serve", *words]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        host, port = wait_until_ready(server)
        runner = Runner.load(model, device=args.device, dtype=args.dtype, threads=args.threads)
        pictures = [picture(seed) for seed in range(max(64, *args.callers))]
        one_caller(HTTPConnection(host, port, timeout=30), runner, pictures, round(args.seconds * 10))
        for callers in args.callers:
            many_callers(Target(host=host, port=port), runner, pictures, callers, args.seconds)
    finally:
        server.terminate()
        server.wait(30)


def wait_until_ready(server: "subprocess.Popen[str]") -> tuple[str, int]:
    """Where the server listens, once it has said that it is ready."""
    assert server.stdout is not None
    for line in server.stdout:
        found = re.search(r"ready on http://([^:]+):(\d+).* after (.+) s$", line)
        if found:
            print(f"the server was ready after {found[3]} s")
            return found[1], int(found[2])
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
