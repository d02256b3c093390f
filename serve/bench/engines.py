"""The two engines side by side in one run: `--engine torch` and `--engine vllm`, batch by batch in turns.

    .venv-vllm/bin/python serve/bench/engines.py [--model PATH or PRESET] [--dtype fp32] [--threads 1] [--rounds 7]

Prints the median milliseconds of each case for both, with the spread between the quartiles. A preset gets random
weights. vLLM's processes look for work all the time; while ours is timed they are stopped. To be run where vLLM is
installed (docs/vllm.md), on Linux.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from random_checkpoint import random_checkpoint

from vlmoe_model.checkpoint.directory import DEMO, open_directory, resolve
from vlmoe_model.config import HeadConfig, ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.presets import PRESETS
from vlmoe_serve.engine import torch_engine
from vlmoe_serve.engine.base import Engine, EngineOptions
from vlmoe_serve.engine.vllm import engine as vllm_engine


def cases(config: ModelConfig) -> Mapping[str, Sequence[Job]]:
    """Batches by name; a text has a dozen tokens, those of the ragged batch any number."""
    rng = np.random.default_rng(0)
    by_task = {head.task: head for head in reversed(config.heads)}
    pairs, single = by_task["vqa"], by_task["contrastive"]

    def picture(head: HeadConfig) -> np.ndarray:
        assert head.image is not None
        return rng.integers(0, 256, (head.image.size, head.image.size, 3), dtype=np.uint8)

    def text(head: HeadConfig, length: int | None = None) -> np.ndarray:
        longest = head.max_text + 1
        return rng.integers(4, 60, length or int(rng.integers(3, longest)), dtype=np.int32)

    def texts(num: int, length: int | None = 12) -> list[Job]:
        return [Job(single.name, Example(None, text(single, length))) for _ in range(num)]

    def images(num: int) -> list[Job]:
        return [Job(single.name, Example(picture(single), None)) for _ in range(num)]

    def questions(num: int, length: int | None = 12) -> list[Job]:
        return [Job(pairs.name, Example(picture(pairs), text(pairs, length))) for _ in range(num)]

    return {
        "text1": texts(1),
        "text32": texts(32),
        "image1": images(1),
        "image8": images(8),
        "pair1": questions(1),
        "pair8": questions(8),
        "ragged16": [*texts(8, None), *images(4), *questions(4, None)],
    }


def descendants(pid: int) -> list[int]:
    """All processes that this one and its children have started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """They get no time inside."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def timed(engine: Engine, jobs: Sequence[Job]) -> float:
    """Milliseconds of one batch."""
    start_s = time.perf_counter()
    engine.run(jobs)
    return 1000 * (time.perf_counter() - start_s)


def spread(ms: Sequence[float]) -> str:
    """Median, and the quartiles around it."""
    low, middle, high = statistics.quantiles(ms, n=4)
    return f"{middle:9.1f} ({low:.1f}-{high:.1f})"


def measure(path: Path, dtype: str, threads: int, rounds: int) -> None:
    """Load both, run all cases in turns, print."""
    options = EngineOptions(path, dtype=dtype, threads=threads)
    start_s = time.perf_counter()
    theirs = vllm_engine.load(options)
    middle_s = time.perf_counter()
    ours = torch_engine.load(options)
    print(f"start: vllm {middle_s - start_s:.1f} s, torch {time.perf_counter() - middle_s:.1f} s")
    processes = descendants(os.getpid())
    try:
        print(f"{'case':10} {'torch ms':>22} {'vllm ms':>22} {'vllm / torch':>13}")
        for name, jobs in cases(open_directory(path).config).items():
            ms: dict[str, list[float]] = {"torch": [], "vllm": []}
            for round_ in range(rounds + 2):
                with stopped(processes):
                    of_ours = timed(ours, jobs)
                of_theirs = timed(theirs, jobs)
                if round_ >= 2:
                    ms["torch"].append(of_ours)
                    ms["vllm"].append(of_theirs)
            ratio = statistics.median(ms["vllm"]) / statistics.median(ms["torch"])
            print(f"{name:10} {spread(ms['torch']):>22} {spread(ms['vllm']):>22} {ratio:13.2f}", flush=True)
    finally:
        theirs.close()


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        is_preset = args.model in PRESETS and args.model != DEMO
        path = random_checkpoint(args.model, Path(directory)) if is_preset else resolve(args.model)
        print(f"{args.model}, {args.dtype}, {args.threads} threads")
        measure(path, args.dtype, args.threads, args.rounds)


if __name__ == "__main__":
    main()
