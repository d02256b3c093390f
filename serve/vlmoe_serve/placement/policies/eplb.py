"""DeepSeek's expert parallelism load balancer, its global policy, written anew from its published description.

Every spare slot goes to the expert with the largest load per copy. Then copies, the heaviest first, go to the lightest
rank that has a free slot. Loads are means over the trace, every pool is a layer of its own, and two copies of an
expert on one rank, which the published policy allows, count as one.
"""

# X = experts of one pool

import numpy as np
import numpy.typing as npt

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import Placement, place
from vlmoe_serve.placement.policies.base import Budget, slots_by_pool


def eplb(load: StepLoad, budget: Budget, costs: Costs) -> Placement:
    """Balance mean loads of each pool."""
    slots = slots_by_pool(load, budget)
    mean_LX = load.per_expert_LSX.mean(axis=1)
    ranks_LG = []
    for mean_X in mean_LX:
        image = balance(mean_X[: load.pools[0]], load.num_ranks, slots[0])
        text = balance(mean_X[load.pools[0] :], load.num_ranks, slots[1])
        ranks_LG.append(
            [
                sorted({*held, *(load.pools[0] + x for x in more)})
                for held, more in zip(image, text, strict=True)
            ]
        )
    return place(load.layers, load.pools, ranks_LG, budget.slots_per_rank)


def balance(load_X: npt.NDArray[np.float64], num_ranks: int, num_slots: int) -> list[list[int]]:
    """The experts of each rank, an expert as often as it has copies there."""
    held: list[list[int]] = [[] for _ in range(num_ranks)]
    if not len(load_X):
        return held
    copies_X = replicate(load_X, num_ranks * num_slots)
    per_copy = np.repeat(load_X / copies_X, copies_X)
    expert_of = np.repeat(np.arange(len(load_X)), copies_X)
    weight_G = np.zeros(num_ranks)
    for copy in (-per_copy).argsort(kind="stable"):
        free_G = np.array([len(experts) < num_slots for experts in held])
        rank = int(np.where(free_G, weight_G, np.inf).argmin())
        held[rank].append(int(expert_of[copy]))
        weight_G[rank] += per_copy[copy]
    return held


def replicate(load_X: npt.NDArray[np.float64], num_slots: int) -> npt.NDArray[np.int64]:
    """Copies of each expert, `num_slots` together: one each, then one more where the load per copy is largest."""
    copies_X = np.ones(len(load_X), np.int64)
    for _ in range(num_slots - len(load_X)):
        copies_X[int((load_X / copies_X).argmax())] += 1
    return copies_X
