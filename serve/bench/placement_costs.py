"""Measure the constants of `vlmoe plan --costs` on this machine's CPU: experts of a preset, ranks of one thread.

    .venv/bin/python serve/bench/placement_costs.py --preset vlmoe_small_32e --out costs.json
    .venv/bin/vlmoe plan --trace trace --ranks 2 --costs costs.json

Medians. Weights of an expert are read from memory, not from a cache: experts are visited in turn, more of them than
caches hold. Sizes are the preset's; attention and dense layers are measured together as a block without a mixture.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vlmoe_kernels import Pool, backend, make_plan
from vlmoe_kernels.choice import choose_backend
from vlmoe_kernels.collectives.shared_memory import SharedMemoryGroup, make_descriptors
from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.one_expert import read_expert
from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.precision import DTYPES, Dtype
from vlmoe_model.presets import PRESETS
from vlmoe_model.runner import Runner, count_parameters
from vlmoe_model.tokenizer import train_wordpiece
from vlmoe_serve.placement.costs import Costs

TOKENS = 256


def median_us(work: Callable[[], object], repeats: int) -> float:
    """Median time, after one run that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        work()
        times.append(1e6 * (time.perf_counter() - start_s))
    return statistics.median(times)


def compute_us(dim: int, hidden: int, dtype: torch.dtype, repeats: int) -> tuple[float, float]:
    """One token through one expert, and the weights of one expert."""
    num_experts = max(8, 256_000_000 // (4 * dim * hidden))
    shapes = ((hidden, dim), (hidden,), (dim, hidden), (dim,))
    pool = Pool(*(torch.randn(num_experts, *shape).to(dtype) for shape in shapes))
    experts = backend(choose_backend("auto", "cpu")).grouped_ffn([pool], 1e-6)

    def each_gets(num: int) -> float:
        groups = torch.arange(num_experts).repeat_interleave(num).unsqueeze(1)
        plan, x_TD = make_plan(groups, None, num_experts), torch.randn(len(groups), dim).to(dtype)
        return median_us(lambda: experts(x_TD, plan), repeats) / num_experts

    few, many = each_gets(1), each_gets(TOKENS)
    token_us = (many - few) / (TOKENS - 1)
    return token_us, few - token_us


def link_us(dim: int, dtype: torch.dtype, repeats: int) -> tuple[float, float]:
    """One token one way between two processes, and an exchange of nothing."""
    ours, theirs = make_descriptors(2)
    child = os.fork()
    group = SharedMemoryGroup(theirs if child == 0 else ours)
    found = []
    for num in (0, 4 * TOKENS):
        rows = torch.randn(2 * num, dim).to(dtype)
        found.append(median_us(partial(group.exchange_rows, rows, [num, num], [num, num]), repeats))
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return (found[1] - found[0]) / (4 * TOKENS), found[0]


def dense_us(config: ModelConfig, dtype: Dtype, repeats: int) -> float:
    """A token in a block without a mixture: two networks of images, one four blocks deeper than the other."""
    spec = ImageSpec(size=config.image_size)
    head = HeadConfig(name="classes", task="image_classification", out_dim=2, image=spec, max_text=0)
    image = np.zeros((spec.size, spec.size, 3), np.uint8)
    jobs = [Job("classes", Example(image=image))] * 4
    found = []
    for depth in (2, 6):
        shape = dataclasses.replace(
            config, num_layers=depth, moe_blocks=(), vl_start=None, heads=(head,)
        ).dense_twin()
        with tempfile.TemporaryDirectory() as scratch:
            labels = {"classes": ["a", "b"]}
            save(scratch, shape, VLMoE(shape).state_dict(), train_wordpiece(["a"], 100), labels)
            runner = Runner.load(scratch, dtype=dtype, threads=1)
        found.append(median_us(partial(runner.run, jobs), repeats))
    num_tokens = sum(sum(job.num_tokens(config.patch_size)) for job in jobs)
    return (found[1] - found[0]) / (4 * num_tokens)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="vlmoe_small_32e")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config, dtype = dataclasses.replace(PRESETS[args.preset], heads=()), DTYPES[args.dtype]
    near_us, start_us = link_us(config.dim, dtype, 20 * args.repeats)
    token_us, expert_us = compute_us(config.dim, config.ffn_dim, dtype, args.repeats)
    small = dataclasses.replace(config, num_layers=2, moe_blocks=(1,), vl_start=None)
    with tempfile.TemporaryDirectory() as scratch:
        save(scratch, small, VLMoE(small).state_dict(), train_wordpiece(["a"], 100), {}, dtype=dtype)
        directory = open_directory(scratch)
        one = backend(choose_backend("auto", "cpu"))
        move = median_us(lambda: one.grouped_ffn([read_expert(directory, 1, "V", 0)[0]], 1e-6), args.repeats)
        num_bytes = read_expert(directory, 1, "V", 0)[1]
    dense = dense_us(config, args.dtype, args.repeats)
    per_expert = 2 * config.dim * config.ffn_dim + config.dim + config.ffn_dim
    num_moe = 2 * len(config.moe_blocks) * config.num_experts
    costs = Costs(
        token_us=round(token_us, 4),
        expert_us=round(max(expert_us, 0.0), 2),
        near_us=round(near_us, 4),
        far_us=round(near_us, 4),
        start_us=round(start_us, 2),
        dense_token_us=round(dense, 4),
        dense_layer_us=0.0,
        token_bytes=config.dim * dtype.itemsize,
        expert_bytes=per_expert * dtype.itemsize,
        shared_bytes=(count_parameters(config) - num_moe * per_expert) * dtype.itemsize,
        move_bytes_per_us=round(num_bytes / move, 1),
    )
    args.out.write_text(costs.to_json(), encoding="utf-8")
    sys.stdout.write(costs.to_json())


if __name__ == "__main__":
    main()
