"""What recording costs: engines with and without a trace, batches in turns.

    .venv/bin/python serve/bench/tracing.py [--model demo | --preset vlmoe_small_32e] [--ranks 1 2] [--images 8 32]

Prints the median time of a batch of each, and the median over batches of the quotient of neighbours (above 1: recording
costs). The trace goes to a temporary directory.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from ranks import pictures, random_checkpoint

from vlmoe_model.checkpoint.directory import resolve
from vlmoe_model.presets import PRESETS
from vlmoe_serve.engine import ENGINES
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.supervisor import Supervisor


async def measure(path: Path, ranks: int, trace_dir: Path, args: argparse.Namespace) -> None:
    """Two engines of that many ranks, of one thread each."""
    engines = [
        Supervisor(
            ENGINES["torch"], EngineOptions(path, "cpu", args.dtype, threads=1, ranks=ranks, trace_dir=to)
        )
        for to in (None, trace_dir)
    ]
    for engine in engines:
        await engine.start()
    try:
        for num in args.images:
            jobs = pictures(path, num)
            ms: list[list[float]] = [[], []]
            for turn in range(args.repeats + 2):
                # who comes first takes turns too
                for which in (turn % 2, 1 - turn % 2):
                    start_s = time.perf_counter()
                    await engines[which].run(jobs)
                    ms[which].append(1000 * (time.perf_counter() - start_s))
            plain, traced = (times[2:] for times in ms)
            quotients = [one / other for one, other in zip(traced, plain, strict=True)]
            print(
                f"{ranks} ranks, {num} images: {statistics.median(plain):.1f} ms, "
                f"recording {statistics.median(traced):.1f} ms, quotient {statistics.median(quotients):.3f}",
                flush=True,
            )
    finally:
        for engine in engines:
            await engine.stop()


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--preset", choices=sorted(PRESETS))
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = random_checkpoint(args.preset, Path(scratch, "model")) if args.preset else resolve(args.model)
        for ranks in args.ranks:
            asyncio.run(measure(path, ranks, Path(scratch, f"trace-{ranks}"), args))


if __name__ == "__main__":
    main()
