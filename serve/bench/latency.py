"""What the server adds to the model: /vqa over HTTP beside encode + forward in this process, interleaved.

    .venv/bin/python serve/bench/latency.py [--model PATH] [--seconds 20] [--threads 1]

Prints medians at concurrency 1, then requests per second at concurrency 32 beside the bare rate of full batches.
"""

import argparse
import asyncio
import base64
import io
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
from PIL import Image

from vlmoe_model.images import open_image
from vlmoe_model.inputs import Job
from vlmoe_model.runner import Runner

QUESTION = "how many bananas are there?"
CLIENTS = 32


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


async def saturate(url: str, pictures: list[bytes], seconds: float) -> float:
    """Answers per second with CLIENTS callers in a closed loop."""
    answered, stop = 0, time.perf_counter() + seconds
    async with httpx.AsyncClient(
        base_url=url, timeout=30, limits=httpx.Limits(max_connections=CLIENTS)
    ) as client:

        async def caller(offset: int) -> None:
            nonlocal answered
            while time.perf_counter() < stop:
                offset += 1
                response = await client.post("/vqa", json=body(pictures[offset % len(pictures)]))
                response.raise_for_status()
                answered += 1

        await asyncio.gather(*(caller(7 * i) for i in range(CLIENTS)))
    return answered / seconds


def main() -> None:
    """Start a server, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    vlmoe = str(Path(sys.executable).with_name("vlmoe"))
    command = [
        vlmoe,
        "serve",
        "--port",
        "0",
        "--grpc-port",
        "0",
        "--threads",
        str(args.threads),
        "--cache-mb",
        "0",
    ]
    if args.model != "demo":
        command += ["--model", args.model]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = wait_until_ready(server)
        runner = Runner.load(args.model, threads=args.threads)
        pictures = [picture(seed) for seed in range(64)]
        over_http, in_process, headers = [], [], []
        with httpx.Client(base_url=url, timeout=30) as client:
            for index in range(20 + int(args.seconds * 10)):
                png = pictures[index % len(pictures)]
                started = time.perf_counter()
                response = client.post("/vqa", json=body(png))
                middle = time.perf_counter()
                bare(runner, [png])
                ended = time.perf_counter()
                response.raise_for_status()
                if index >= 20:
                    over_http.append(middle - started)
                    in_process.append(ended - middle)
                    headers.append(
                        [float(response.headers[f"x-{part}-ms"]) for part in ("encode", "queue", "forward")]
                    )
        print(
            f"one caller: /vqa {median_ms(over_http):.2f} ms, encode + forward here {median_ms(in_process):.2f} ms"
        )
        parts = [statistics.median(column) for column in zip(*headers, strict=True)]
        print("  of it, by the headers: encode {:.2f}, queue {:.2f}, forward {:.2f} ms".format(*parts))
        rates, bare_rates = [], []
        for _ in range(3):
            rates.append(asyncio.run(saturate(url, pictures, args.seconds / 3)))
            started = time.perf_counter()
            for _ in range(4):
                bare(runner, pictures[:CLIENTS])
            bare_rates.append(4 * CLIENTS / (time.perf_counter() - started))
        rate, bare_rate = statistics.median(rates), statistics.median(bare_rates)
        print(
            f"{CLIENTS} callers: {rate:.0f} answers/s; batches of {CLIENTS} here, encode included: {bare_rate:.0f}/s"
        )
    finally:
        server.terminate()
        server.wait(30)


def wait_until_ready(server: "subprocess.Popen[str]") -> str:
    """The server's URL, once it has said that it is ready."""
    assert server.stdout is not None
    for line in server.stdout:
        found = re.search(r"ready on (http://\S+)", line)
        if found:
            return found.group(1)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
