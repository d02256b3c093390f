"""What happens to a batch beside the blocks, in torch and as it is served: pixels, a gradient stem's cells, a plan.

Pictures before the batch: `preparing.py`.

    .venv/bin/python model/bench/inputs.py [--images 1 8 32] [--repeats 60]

In turns, one thread. Prints milliseconds a batch: medians of torch's way and of ours, and the ratio.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from vlmoe_kernels import native
from vlmoe_kernels.heap import keep_freed_memory
from vlmoe_kernels.plan import sorted_by_numpy, sorted_by_torch
from vlmoe_model.checkpoint.directory import open_directory, resolve
from vlmoe_model.packing import normalise, normalised_by_formula
from vlmoe_model.stems.gradient import EPSILON, gradient_cells

# tokens of a picture and a question, and groups: those of the demo checkpoint
TOKENS, GROUPS = 45, 16


def pairs(num: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """For each step torch's way and ours, on pictures as the demo checkpoint wants them."""
    config = open_directory(resolve("demo")).config
    head, spec = next((head.name, head.image) for head in config.heads if head.image is not None)
    bytes_NSS3 = torch.randint(256, (num, spec.size, spec.size, 3), dtype=torch.uint8)
    images = normalise(bytes_NSS3, config, head)
    groups_TK = torch.randint(GROUPS, (num * TOKENS, 1))
    return {
        "pixels": (
            lambda: normalised_by_formula(bytes_NSS3, spec),
            lambda: normalise(bytes_NSS3, config, head),
        ),
        "cells": (
            lambda: gradient_cells(images, 4),
            lambda: native.gradient_cells(images, 4, EPSILON),
        ),
        "order of a plan": (
            lambda: sorted_by_torch(groups_TK.flatten(), GROUPS),
            lambda: sorted_by_numpy(groups_TK.flatten(), GROUPS),
        ),
    }


def milliseconds(work: Callable[[], object]) -> float:
    """One call."""
    start_s = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start_s)


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    # as engines do
    keep_freed_memory()
    for num in args.images:
        for name, ways in pairs(num).items():
            for way in ways:
                way()
            times = [[milliseconds(way) for way in ways] for _ in range(args.repeats)]
            torchs, ours = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{num:3d} images, {name}: {torchs:.3f} -> {ours:.3f} ms, {torchs / ours:.1f} times")


if __name__ == "__main__":
    main()
