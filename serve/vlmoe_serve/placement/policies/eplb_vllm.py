"""The load balancer of the vllm package itself, where that is installed: for evaluation, beside `eplb`."""

from importlib.util import find_spec

import numpy as np

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import Placement, place
from vlmoe_serve.placement.policies.base import Budget, BudgetError, slots_by_pool


def is_installed() -> bool:
    """Whether there is a vllm package; it is not imported."""
    return find_spec("vllm") is not None


def eplb_vllm(load: StepLoad, budget: Budget, costs: Costs) -> Placement:
    """Its global policy on mean loads, each pool for itself; copies that it puts on one rank count as one.

    Raises:
        BudgetError: vllm is not installed, or the slots do not hold every expert.
    """
    if not is_installed():
        raise BudgetError("the policy eplb_vllm needs the package vllm, which is not installed")
    from vllm.distributed.eplb.policy.default import DefaultEplbPolicy

    mean_LX = load.per_expert_LSX.mean(axis=1)
    ranks_LG: list[list[set[int]]] = [[set() for _ in range(load.num_ranks)] for _ in load.layers]
    first = 0
    for size, slots in zip(load.pools, slots_by_pool(load, budget), strict=True):
        if size:
            copies_LC = DefaultEplbPolicy.rebalance_experts_hierarchical(
                np.ascontiguousarray(mean_LX[:, first : first + size], np.float32),
                load.num_ranks * slots,
                num_groups=1,
                num_nodes=1,
                num_gpus=load.num_ranks,
            )
            copies_LGK = np.asarray(copies_LC).reshape(len(load.layers), load.num_ranks, slots)
            for held_G, copies_GK in zip(ranks_LG, copies_LGK, strict=True):
                for held, copies_K in zip(held_G, copies_GK, strict=True):
                    held.update(first + int(expert) for expert in copies_K)
        first += size
    ranks = [[sorted(held) for held in held_G] for held_G in ranks_LG]
    return place(load.layers, load.pools, ranks, budget.slots_per_rank)
