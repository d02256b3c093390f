"""What routing modes cost in quality: the demo tasks' test figures, mode by mode, and the share of tokens left out.

    .venv/bin/python train/bench/routing_modes.py --data data [--limit 3000] [--batch 128 8] [--json FILE]

Batches hold rows of one data set in its order, which is hard on a capacity: all of them want the same experts.
`vlmoe eval --capacity FACTOR --overflow NAME` gives all figures of one mode.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from vlmoe_model.inputs import Job
from vlmoe_model.packing import Packed
from vlmoe_model.routing import Routing
from vlmoe_model.routing_mode import DEFAULT, OVERFLOWS, RoutingMode
from vlmoe_model.runner import Runner
from vlmoe_train.data.samples import Samples
from vlmoe_train.datasets import load_samples
from vlmoe_train.evaluate.baselines import subset, wanted_answers
from vlmoe_train.evaluate.metrics import accuracy, image_to_text_ranks, recall_at, text_to_image_ranks
from vlmoe_train.evaluate.predict import answers, embed_images, embed_texts

# data set, split, head
TESTS = (
    ("easy_vqa", "test", "vqa"),
    ("scenes", "test", "vqa"),
    ("scenes", "test_unseen", "vqa"),
    ("fashion_mnist", "test", "fashion"),
    ("emoji", "test", "retrieval"),
)


class Batches:
    """A runner that takes no more than `size` jobs at a time, and counts choices and those without an expert."""

    def __init__(self, runner: Runner, size: int) -> None:
        self.directory = runner.directory
        self.num_choices = self.num_none = 0
        self._runner = runner
        self._size = size

    def run(self, jobs: Sequence[Job]) -> list[np.ndarray]:
        """As `Runner.run`."""
        return [
            output
            for first in range(0, len(jobs), self._size)
            for output in self._runner.run(jobs[first : first + self._size], self._count)
        ]

    def _count(self, packed: Packed, log: Sequence[Routing]) -> None:
        self.num_choices += sum(routing.experts_TK.numel() for routing in log)
        self.num_none += sum(int((routing.experts_TK < 0).sum()) for routing in log)


def figures(runner: Batches, tests: Sequence[tuple[str, str, str, Samples]]) -> Iterator[tuple[str, float]]:
    """Name and value of every figure."""
    for dataset, split, head, samples in tests:
        if dataset == "emoji":
            concepts = np.unique(samples.targets)
            images = embed_images(runner, head, samples, int)
            texts = embed_texts(runner, head, [samples.labels[concept] for concept in concepts], int)
            targets = np.searchsorted(concepts, samples.targets)
            yield "emoji i2t R@1", recall_at(image_to_text_ranks(images @ texts.T, targets), 1)
            yield "emoji t2i R@1", recall_at(text_to_image_ranks(images @ texts.T, targets), 1)
        else:
            given = answers(runner, head, samples, int)
            yield f"{dataset} {split}".removesuffix(" test"), accuracy(given, wanted_answers(samples))


def main() -> None:
    """Print a row a mode."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--limit", type=int, help="test rows of each split at most")
    parser.add_argument("--batch", type=int, nargs="+", default=[128], help="sequences of a batch")
    parser.add_argument("--capacity", type=float, nargs="+", default=[1.0, 0.75, 0.5, 0.25, 0.1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runner = Runner.load(arguments.model, threads=arguments.threads)
    tests = []
    for dataset, split, head in TESTS:
        samples = load_samples(dataset, arguments.data, split, runner.config.head(head).image)
        tests.append((dataset, split, head, subset(samples, arguments.limit)))
    modes = [(0, DEFAULT)]
    modes += [
        (size, RoutingMode(factor, overflow))
        for size in arguments.batch
        for factor in arguments.capacity
        for overflow in OVERFLOWS
    ]
    rows = []
    for size, mode in modes:
        runner.mode = mode
        batches = Batches(runner, size or 128)
        found = {name: 100 * value for name, value in figures(batches, tests)}
        found["without expert"] = 100 * batches.num_none / batches.num_choices
        if not rows:
            print("| batch | mode | " + " | ".join(found) + " |")
            print("|" + "---|" * (len(found) + 2))
        rows.append({"batch": size, "mode": mode.name, **found})
        values = " | ".join(f"{value:.1f}" for value in found.values())
        print(f"| {size or 'any'} | {mode.name or 'default'} | {values} |", flush=True)
    print(f"{[len(one[3]) for one in tests]} test rows", file=sys.stderr)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
