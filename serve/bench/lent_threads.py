"""One picture over two ranks: with the idle rank's thread outside of mixtures, and without; batches in turns.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python serve/bench/lent_threads.py [--preset vlmoe_small_32e] [--repeats 40]

Rank 0 is this process. Prints quartiles of milliseconds beside one rank of one thread and of two, and medians of the
quotients of neighbours.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from ranks import pictures, random_checkpoint

from vlmoe_model.presets import PRESETS
from vlmoe_model.runner import Runner
from vlmoe_serve.engine import ranks
from vlmoe_serve.engine.base import EngineOptions

WAYS = ("1 rank x 1", "1 rank x 2", "2 ranks, own", "2 ranks, lent")


@torch.inference_mode()
def measure(path: Path, repeats: int) -> None:
    """Every way in turn."""
    torch.set_num_threads(1)
    all_cores = os.sched_getaffinity(0)
    lent = ranks.load(EngineOptions(path, "cpu", "bf16", threads=1, ranks=2))
    own_cores = os.sched_getaffinity(0)
    one = Runner.load(path, dtype="bf16", threads=1)
    jobs = pictures(path, 1)
    ms: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            # as many as its own is none lent
            lent.threads = 1 if way.endswith("lent") else 0
            os.sched_setaffinity(0, all_cores if way.startswith("1") else own_cores)
            torch.set_num_threads(2 if way == "1 rank x 2" else 1)
            # the first one after another way finds other things in the caches
            for _ in range(2):
                start_s = time.perf_counter()
                (one if way.startswith("1") else lent).run(jobs)
            ms[way].append(1000 * (time.perf_counter() - start_s))
    for way, times in ms.items():
        print(f"{way}: {', '.join(f'{each:.1f}' for each in statistics.quantiles(times[3:], n=4))} ms")
    for slower, faster in (("2 ranks, own", "2 ranks, lent"), ("1 rank x 2", "2 ranks, lent")):
        ratios = [a / b for a, b in zip(ms[slower][3:], ms[faster][3:], strict=True)]
        print(f"{slower} over {faster}: {statistics.median(ratios):.3f}", flush=True)
    # the other rank ends with this process
    os._exit(0)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="vlmoe_small_32e")
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(random_checkpoint(args.preset, Path(scratch, "model")), args.repeats)


if __name__ == "__main__":
    main()
