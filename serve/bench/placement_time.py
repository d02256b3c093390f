"""How long the planner and the split of tokens over copies take, in processor time.

    .venv/bin/python serve/bench/placement_time.py [--large | --live]

Processor time, not wall time: it hardly depends on what else the machine does. `--large` plans 64 layers of 256 experts
on 64 ranks, which takes a minute or two, and 2 GB. `--live` plans as a server does that moves experts, briefly, and
beside it thoroughly, and says what becomes of the modelled time of steps that neither has seen.
"""

import argparse
import time

import numpy as np

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad, at_ranks
from vlmoe_serve.placement.machines import Sizes, costs_on
from vlmoe_serve.placement.native import split_by_counts
from vlmoe_serve.placement.policies import POLICIES, Budget, default_slots
from vlmoe_serve.placement.policies.planner import BRIEF, THOROUGH, planner_from
from vlmoe_serve.placement.step_time import step_times
from vlmoe_serve.placement.synthetic import Synthetic, synthetic_load

COSTS = Costs()


def large() -> StepLoad:
    """64 layers, one pool of 256 experts, 64 ranks, 32 steps: skewed and bursty, without sequences."""
    rng = np.random.default_rng(0)
    popular = np.arange(1, 257) ** -1.0
    mean = np.stack([rng.permutation(popular) for _ in range(64)])[:, None, :, None]
    mean = mean / popular.sum() * 8 * 1024 * rng.gamma(2.0, 0.5, (64, 32, 256, 1))
    counts = np.empty((64, 32, 256, 64), np.int32)
    for layer in range(64):
        counts[layer] = rng.poisson(np.broadcast_to(mean[layer], (32, 256, 64)))
    return StepLoad(tuple(range(64)), (256, 0), counts, np.full((32, 64), 1024, np.int64))


def live() -> None:
    """4 layers of 32 + 32 experts, as in vlmoe_small_32e, on CPUs."""
    costs = costs_on("cpu", Sizes(dim=384, ffn_dim=1536, weight_bytes=2, shared_parameters=0))
    for num_ranks in (2, 4):
        for seed in range(3):
            load = at_ranks(synthetic_load(Synthetic(num_steps=256, num_layers=4, seed=seed)), num_ranks)
            step_S = np.arange(load.num_steps)
            older, newer = load.steps(step_S[:192]), load.steps(step_S[192:])
            budget = Budget(slots_per_rank=default_slots(load.pools, num_ranks), seed=seed)
            current = POLICIES["linear"](older, budget, costs)
            before = step_times(newer, current, split_by_counts, costs).total_S.mean()
            for name, effort in (("thorough", THOROUGH), ("brief", BRIEF)):
                start_s = time.process_time()
                placed = planner_from(older, budget, costs, starts=[current], effort=effort)
                took_s = time.process_time() - start_s
                after = step_times(newer, placed, split_by_counts, costs).total_S.mean()
                print(
                    f"{num_ranks} ranks, seed {seed}, {name}: {took_s:.2f} s, {after / before:.4f} of the time"
                )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--live", action="store_true")
    args = parser.parse_args()
    if args.live:
        live()
        return
    load = large() if args.large else at_ranks(synthetic_load(Synthetic(num_steps=256)), 8)
    budget = Budget(slots_per_rank=default_slots(load.pools, load.num_ranks))
    size = f"{len(load.layers)} layers x {sum(load.pools)} experts x {load.num_ranks} ranks"
    for name in ("eplb", "lpt_risk", "planner"):
        start_s = time.process_time()
        placed = POLICIES[name](load, budget, COSTS)
        print(f"{name}, {size}: {time.process_time() - start_s:.1f} s of processor time", flush=True)
    node_G = COSTS.nodes(load.num_ranks)
    for layer in range(2):
        hosts = placed.hosts_LXG[layer]
        start_s = time.process_time()
        for _ in range(20):
            split_by_counts(load.counts_LSXG[layer], hosts, stream=COSTS.stream_tokens, node_G=node_G)
        each_us = (time.process_time() - start_s) / 20 / load.num_steps * 1e6
        print(f"split of one step and layer: {each_us:.1f} us")


if __name__ == "__main__":
    main()
