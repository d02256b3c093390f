"""A model under budgets for its experts beside the same model without: slow-down, hit rates, bytes from disk.

    python serve/bench/offload.py --preset vlmoe_small_32e

Random weights, and pictures or texts one by one or in batches. Runners take turns request by request, so what
disturbs the machine disturbs all of them; medians over requests.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.presets import PRESETS
from vlmoe_model.runner import Runner
from vlmoe_model.tokenizer import train_wordpiece

# most popular of so many different pictures, by Zipf's law
_PICTURES = 64


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line of JSON a workload."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="vlmoe_small_32e", choices=sorted(PRESETS))
    parser.add_argument("--dtype", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.5, 0.25])
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        config = save_random(Path(folder) / "model", PRESETS[args.preset])
        weights = 2 * config.dim * config.ffn_dim * (2 if args.dtype == "bf16" else 4)
        experts = 2 * config.num_experts * len(config.moe_blocks) * weights
        # a little more than the share: places are whole pages
        budgets = [0, *(int(share * experts * 1.001) for share in args.shares)]
        runners = []
        for budget in budgets:
            start_s = time.perf_counter()
            runners.append(
                Runner.load(
                    Path(folder) / "model", dtype=args.dtype, threads=args.threads, expert_memory=budget
                )
            )
            print(
                json.dumps({"budget_mb": budget // 10**6, "load_s": round(time.perf_counter() - start_s, 1)})
            )
        for name, batch in (("texts", 1), ("texts", 8), ("pictures", 1), ("pictures", 8)):
            times = in_turns(
                runners, requests(config, name, batch, args.warm_up + args.requests), args.warm_up
            )
            print(json.dumps({"workload": name, "batch": batch, "runners": table(runners, budgets, times)}))


def save_random(path: Path, preset: ModelConfig) -> ModelConfig:
    """A checkpoint with a head for pictures and one for texts."""
    heads = (
        HeadConfig(
            name="pictures",
            task="image_classification",
            out_dim=10,
            image=ImageSpec(size=preset.image_size),
            max_text=0,
        ),
        HeadConfig(
            name="texts",
            task="text_classification",
            out_dim=10,
            image=None,
            max_text=min(40, preset.max_text),
        ),
    )
    config = dataclasses.replace(preset, heads=heads)
    tokenizer = train_wordpiece(["what is in the picture", "a cat", "two shoes"], 100)
    torch.manual_seed(0)
    labels = {head.name: [f"label {i}" for i in range(head.out_dim)] for head in heads}
    save(path, config, VLMoE(config).state_dict(), tokenizer, labels, dtype=torch.bfloat16)
    return config


def requests(config: ModelConfig, head: str, batch: int, count: int) -> list[list[Job]]:
    """Batches of pictures of noise or texts of 20 words; some of them far more often than others."""
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, _PICTURES + 1)
    popularity /= popularity.sum()
    side = config.image_size

    def job(number: int) -> Job:
        own = np.random.default_rng(number)
        if head == "texts":
            return Job(head, Example(tokens=own.integers(5, config.vocab_size, 20).astype(np.int32)))
        # few colours a picture: patches of one picture resemble each other
        colours = own.integers(0, 256, (4, 3), dtype=np.uint8)
        return Job(head, Example(image=colours[own.integers(0, 4, (side, side))]))

    return [[job(int(n)) for n in rng.choice(_PICTURES, batch, p=popularity)] for _ in range(count)]


def in_turns(runners: Sequence[Runner], batches: Sequence[Sequence[Job]], warm_up: int) -> list[list[float]]:
    """Milliseconds of every batch on every runner; answers must be the same."""
    times: list[list[float]] = [[] for _ in runners]
    for number, jobs in enumerate(batches):
        if number == warm_up:
            for runner in runners:
                runner.take_expert_memory()
        expected = None
        for runner, spent in zip(runners, times, strict=True):
            start_s = time.perf_counter()
            answers = runner.run(jobs)
            if number >= warm_up:
                spent.append(1000 * (time.perf_counter() - start_s))
            expected = expected or answers
            assert all(np.array_equal(a, b) for a, b in zip(answers, expected, strict=True))
    return times


def table(
    runners: Sequence[Runner], budgets: Sequence[int], times: Sequence[Sequence[float]]
) -> list[dict[str, float]]:
    """A row a runner."""
    rows = []
    base = float(np.median(times[0]))
    for runner, budget, spent in zip(runners, budgets, times, strict=True):
        row = {"budget_mb": budget // 10**6, "ms": round(float(np.median(spent)), 1)}
        counts = runner.take_expert_memory()
        if counts is not None:
            uses = counts.in_memory + counts.ahead + counts.missed
            row |= {
                "times": round(float(np.median(spent)) / base, 2),
                "in_memory": round(counts.in_memory / uses, 3),
                "ahead": round(counts.ahead / uses, 3),
                "mb_read": round(counts.read_bytes / 1e6 / len(spent), 1),
                "wait_ms": round(1000 * counts.wait_s / len(spent), 1),
            }
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
