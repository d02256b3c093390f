"""What keeping freed memory gains: two processes with the same model, one of which hands memory back; batches in turns.

    .venv/bin/python serve/bench/heap.py [--model demo | --preset vlmoe_small_32e] [--threads 2] [--images 1 8 32 64]

Prints the median time of a batch in each, their ratio, and their memory.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from ranks import pictures, pss_mb, random_checkpoint

from vlmoe_kernels.heap import keep_freed_memory
from vlmoe_model.checkpoint.directory import resolve
from vlmoe_model.presets import PRESETS
from vlmoe_model.runner import Runner

WAYS = ("handed back", "kept")


def serve(path: Path, threads: int, way: str) -> None:
    """One of the two: a number of images on standard input, milliseconds on standard output."""
    if way == "kept":
        keep_freed_memory()
    runner = Runner.load(path, device="cpu", threads=threads)
    for line in sys.stdin:
        jobs = pictures(path, int(line))
        start_s = time.perf_counter()
        runner.run(jobs)
        print(1000 * (time.perf_counter() - start_s), flush=True)


def measure(path: Path, args: argparse.Namespace) -> None:
    """Ask both in turns."""
    with ExitStack() as stack:
        processes = {}
        for way in WAYS:
            command = [
                sys.executable,
                __file__,
                "--serve",
                way,
                "--model",
                str(path),
                "--threads",
                str(args.threads),
            ]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes[way] = stack.enter_context(process)
        for num in args.images:
            ms: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(args.repeats + 2):
                for way, process in processes.items():
                    assert process.stdin is not None
                    assert process.stdout is not None
                    print(num, file=process.stdin, flush=True)
                    ms[way].append(float(process.stdout.readline()))
            # the first two of a size warm up
            back, kept = (statistics.median(ms[way][2:]) for way in WAYS)
            print(f"{num} images: {back:.1f} ms, kept {kept:.1f} ms, ratio {back / kept:.2f}", flush=True)
        print("PSS MB:", *(f"{way} {pss_mb(process.pid):.0f}" for way, process in processes.items()))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--preset", choices=sorted(PRESETS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(resolve(args.model), args.threads, args.serve)
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = random_checkpoint(args.preset, Path(scratch, "model")) if args.preset else resolve(args.model)
        measure(path, args)


if __name__ == "__main__":
    main()
