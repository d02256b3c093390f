"""What routing modes save: a batch's time in each mode beside the checkpoint's own routing, interleaved.

    .venv/bin/python serve/bench/routing_modes.py [--model demo | --preset vlmoe_small_32e] [--jobs 8 32] [--json FILE]

A preset gets random weights and routers that prefer some experts (the fullest takes some four even shares), and two
experts a token with --top-k 2. Prints medians, and the share of tokens that found no expert.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, Task
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import Packed
from vlmoe_model.presets import PRESETS
from vlmoe_model.routing import Router, Routing
from vlmoe_model.routing_mode import DEFAULT, OVERFLOWS, RoutingMode
from vlmoe_model.runner import Runner
from vlmoe_model.tokenizer import train_wordpiece


def random_checkpoint(preset: str, directory: Path, top_k: int, task: Task = "image_classification") -> Path:
    """A preset with a head of 1,000 labels."""
    max_text = 32 if task == "vqa" else 0
    head = HeadConfig(name="classes", task=task, out_dim=1000, image=ImageSpec(size=224), max_text=max_text)
    config = dataclasses.replace(PRESETS[preset], heads=(head,), top_k=top_k)
    torch.manual_seed(0)
    network = VLMoE(config)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Router):
                # scores of deviation 1 and a liking of all tokens for some experts
                module.weight.normal_(0, config.dim**-0.5)
                module.weight.add_(0.05 * torch.randn(config.num_experts, 1))
    labels = {"classes": [f"class {i}" for i in range(1000)]}
    save(directory, config, network.state_dict(), train_wordpiece(["a"], 100), labels, dtype=torch.bfloat16)
    return directory


def mixed(runner: Runner, num: int) -> list[Job]:
    """Jobs of all heads in turn: pictures, and texts of several lengths where a head takes them."""
    rng = np.random.default_rng(0)
    jobs = []
    for index in range(num):
        head = runner.config.heads[index % len(runner.config.heads)]
        image = tokens = None
        if head.image is not None:
            image = rng.integers(0, 256, (head.image.size, head.image.size, 3), np.uint8)
        if head.task in ("vqa", "text_classification"):
            tokens = rng.integers(5, 60, 5 + index % 10).astype(np.int32)
        jobs.append(Job(head.name, Example(image=image, tokens=tokens)))
    return jobs


def without_expert(runner: Runner, jobs: Sequence[Job]) -> float:
    """Share of choices, 0..1."""
    found = []

    def count(packed: Packed, log: Sequence[Routing]) -> None:
        chosen = torch.cat([routing.experts_TK.flatten() for routing in log])
        found.append(float((chosen < 0).float().mean()))

    runner.run(jobs, count)
    return found[0]


def main() -> None:
    """Print a row a mode and number of jobs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--preset", choices=sorted(PRESETS))
    parser.add_argument("--top-k", type=int, default=1)
    parser.add_argument("--jobs", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--capacity", type=float, nargs="+", default=[1.0, 0.5, 0.25])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring for each number of jobs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--save", type=Path, help="only write the preset there, with a head for questions")
    arguments = parser.parse_args()
    if arguments.save is not None:
        random_checkpoint(arguments.preset, arguments.save, arguments.top_k, "vqa")
        return
    modes = [DEFAULT, *(RoutingMode(factor, how) for factor in arguments.capacity for how in OVERFLOWS)]
    if arguments.top_k > 1:
        modes.insert(1, RoutingMode(top_k=1))
        modes += [RoutingMode(factor, "priority", top_k=1) for factor in arguments.capacity]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.model
        if arguments.preset is not None:
            path = random_checkpoint(arguments.preset, Path(folder) / "checkpoint", arguments.top_k)
        runner = Runner.load(path, threads=arguments.threads, device=arguments.device)
        print(f"{runner.device}, {runner.dtype}, kernels {runner.backend}, {arguments.threads} thread(s)")
        print("| jobs | mode | ms | of the default | without expert |\n|---|---|---|---|---|")
        for num in arguments.jobs:
            jobs, taken = mixed(runner, num), [list[float]() for _ in modes]
            for mode in modes:
                runner.mode = mode
                runner.run(jobs)
            end_s = time.perf_counter() + arguments.seconds
            while time.perf_counter() < end_s or len(taken[-1]) < 3:
                for mode, times in zip(modes, taken, strict=True):
                    runner.mode = mode
                    start_s = time.perf_counter()
                    runner.run(jobs)
                    times.append(1000 * (time.perf_counter() - start_s))
            own = statistics.median(taken[0])
            for mode, times in zip(modes, taken, strict=True):
                runner.mode = mode
                ms, none = statistics.median(times), without_expert(runner, jobs)
                rows.append({"jobs": num, "mode": mode.name, "ms": ms, "without_expert": none})
                print(
                    f"| {num} | {mode.name or 'default'} | {ms:.1f} | {ms / own:.2f} | {100 * none:.0f} % |",
                    flush=True,
                )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
