"""Training steps with our kernels and with plain torch, side by side.

One network takes a step with one and then a step on the same batch with the other, so that whatever else the machine
does falls on both. Medians, and the distance between the quartiles as a share of them.

    python train/bench/steps.py --recipe demo --data data [--threads 1] [--steps 9]
    python train/bench/steps.py --preset vlmoe_small_32e [--images 8]

A preset trains on noise: pictures of its size with a question each.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from vlmoe_kernels.choice import choose_learning_backend
from vlmoe_kernels.heap import keep_freed_memory
from vlmoe_model.config import ImageSpec
from vlmoe_model.presets import PRESETS
from vlmoe_train import datasets
from vlmoe_train.config import HeadRecipe, TaskRecipe, TrainConfig, load_recipe
from vlmoe_train.data.samples import Samples
from vlmoe_train.model_building import build
from vlmoe_train.trainer import Trainer

# untimed steps of each: memory is touched
WARM_UP = 2
NUM_NOISE = 64


def noise(root: Path, split: str, spec: ImageSpec) -> Samples:
    """Pictures and questions without meaning."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (NUM_NOISE, spec.size, spec.size, 3), np.uint8)
    words = np.array([f"word{i}" for i in range(100)])
    texts = tuple(" ".join(generator.choice(words, 16)) for _ in range(NUM_NOISE))
    targets = generator.integers(0, 2, NUM_NOISE)
    return Samples(images, np.arange(NUM_NOISE), texts, targets, ("no", "yes"), ("",) * NUM_NOISE)


def preset_config(preset: str, num_images: int) -> TrainConfig:
    """One task on noise."""
    model = PRESETS[preset]
    head = HeadRecipe(
        name="vqa", task="vqa", image=ImageSpec(size=model.image_size), max_text=min(40, model.max_text)
    )
    task = TaskRecipe(data="noise", head="vqa", batch=num_images)
    return TrainConfig(name=preset, model=model, heads=(head,), tasks=(task,), steps=1000)


@contextmanager
def counted(trainer: Trainer) -> Iterator[list[int]]:
    """Tokens of every forward pass."""
    counts: list[int] = []
    handle = trainer.network.register_forward_pre_hook(
        lambda _, inputs: counts.append(sum(run.num_sequences * run.length for run in inputs[0].runs))
    )
    yield counts
    handle.remove()


def main() -> None:
    """Print a line for each backend."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--recipe")
    chosen.add_argument("--preset", choices=tuple(PRESETS))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--backends", nargs="+", default=["eager", "auto"])
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--clock", choices=("wall", "thread"), default="wall")
    options = parser.parse_args()
    clock = {"wall": time.perf_counter, "thread": time.thread_time}[options.clock]
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    datasets.DATASETS["noise"] = noise  # type: ignore[index]

    config = load_recipe(options.recipe) if options.recipe else preset_config(options.preset, options.images)
    config = dataclasses.replace(config, precision=options.precision)
    trainer = Trainer(config, build(config, options.data), Path("unused"))
    trainer.modules.train()
    times: list[list[float]] = [[] for _ in options.backends]
    with counted(trainer) as counts:
        for step in range(WARM_UP + options.steps):
            for backend, spent in zip(options.backends, times, strict=True):
                trainer.network.learn_with(choose_learning_backend(backend, "cpu"))
                start_s = clock()
                trainer.train_step()
                if step >= WARM_UP:
                    spent.append(clock() - start_s)
            trainer.step += 1
    name = options.recipe or options.preset
    num_tokens = statistics.mean(counts)
    print(f"{name}, {options.precision}, {options.threads} threads, {num_tokens:.0f} tokens a step")
    for backend, spent in zip(options.backends, times, strict=True):
        low, middle, high = statistics.quantiles(spent, n=4)
        print(
            f"{backend:10} {1e3 * middle:8.0f} ms {(high - low) / middle:4.0%}   {num_tokens / middle:7.0f} tokens/s"
        )


if __name__ == "__main__":
    main()
