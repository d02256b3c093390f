"""One batch through a runner on a GPU: how long it takes, how long the card computes, and how many kernels that is.

    python serve/bench/forward.py [--model PATH or PRESET] [--dtype bf16] [--pictures 1 8 32]

A batch is so many questions about as many pictures. "all" is `Runner.run`, from jobs to arrays; "pack" of it, until
the batch lies on the card; "launched" is all with the encoder's recordings turned off; "kernels" what torch's profiler
saw on the card. A preset gets random weights.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from random_checkpoint import random_checkpoint
from torch.profiler import ProfilerActivity, profile

from vlmoe_model.checkpoint.directory import DEMO
from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.packing import pack
from vlmoe_model.presets import PRESETS
from vlmoe_model.runner import Runner

REPEATS = 30
TEXT_TOKENS = 12


def jobs_of(config: ModelConfig, num: int) -> list[Job]:
    """Questions about pictures of noise."""
    rng = np.random.default_rng(0)
    head = next(head for head in config.heads if head.task == "vqa")
    assert head.image is not None
    side = head.image.size

    def job() -> Job:
        image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        return Job(head.name, Example(image, rng.integers(4, 60, TEXT_TOKENS, dtype=np.int32)))

    return [job() for _ in range(num)]


def median_ms(op: Callable[[], object]) -> float:
    """Of a call that returns when the card is done."""
    times = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        op()
        times.append(1000 * (time.perf_counter() - start_s))
    return statistics.median(times)


def kernels(op: Callable[[], object], details: int) -> tuple[float, int]:
    """Milliseconds that the card computed, and launches; prints the kernels that took most of it."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(3):
            op()
    seen = sorted(profiled.key_averages(), key=lambda each: -each.self_device_time_total)
    for each in seen[:details]:
        print(f"      {each.self_device_time_total / 3000:8.3f} ms {each.count // 3:5} x {each.key[:90]}")
    return sum(each.self_device_time_total for each in seen) / 3000, sum(each.count for each in seen) // 3


def main() -> None:
    """Print a line a batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--details", type=int, default=0, help="so many kernels of each batch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        is_preset = args.model in PRESETS and args.model != DEMO
        path = random_checkpoint(args.model, Path(folder)) if is_preset else args.model
        start_s = time.perf_counter()
        runner = Runner.load(path, device="cuda", dtype=args.dtype, threads=1)
    loaded_s, loaded = time.perf_counter() - start_s, torch.cuda.memory_reserved()
    runner.prepare()
    prepared_s, prepared = time.perf_counter() - start_s - loaded_s, torch.cuda.memory_reserved()
    print(
        f"loaded in {loaded_s:.1f} s, {loaded / 1e9:.2f} GB; recorded in {prepared_s:.1f} s, "
        f"{(prepared - loaded) / 1e6:.0f} MB more"
    )
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {args.model}, {args.dtype}; medians")
    for num in args.pictures:
        measure(runner, jobs_of(runner.config, num), args.details)


def measure(runner: Runner, jobs: list[Job], details: int) -> None:
    """One size of batch."""

    def packed() -> None:
        pack(jobs, runner.config, runner.device)
        torch.cuda.synchronize()

    for _ in range(5):
        runner.run(jobs)
    with torch.inference_mode():
        pack_ms = median_ms(packed)
    all_ms = median_ms(lambda: runner.run(jobs))
    network = runner.network
    replay, network.replay = network.replay, None
    for _ in range(5):
        runner.run(jobs)
    launched_ms = median_ms(lambda: runner.run(jobs))
    busy_ms, launches = kernels(lambda: runner.run(jobs), details)
    network.replay = replay
    print(
        f"{len(jobs):4} pictures: all {all_ms:.2f} ms, pack {pack_ms:.2f}, launched {launched_ms:.2f}, "
        f"kernels {busy_ms:.2f} ({launches})",
        flush=True,
    )


if __name__ == "__main__":
    main()
