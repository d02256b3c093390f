"""Experts of consecutive layers that see the same traffic on the same rank: after the idea of ExFlow (Yao et al. 2024).

It would save hops if tokens stayed where their last expert was. In our engine they return home for attention, so this
is a baseline, and a placement for engines that do without.
"""

# S = steps, X = experts of both pools, G = ranks

import numpy as np
import numpy.typing as npt

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import Placement, place
from vlmoe_serve.placement.policies.base import Budget, slots_by_pool
from vlmoe_serve.placement.policies.eplb import balance

# how much busier than the mean a rank may get for the sake of affinity
_SLACK = 1.15


def affinity(load: StepLoad, budget: Budget, costs: Costs) -> Placement:
    """One copy of each expert: the first layer balanced, every next one drawn to the one before."""
    slots_by_pool(load, budget)
    per_rank = -(-sum(load.pools) // load.num_ranks)
    mean_LX = load.per_expert_LSX.mean(axis=1)
    ranks_LG = [balance(mean_LX[0], load.num_ranks, per_rank)]
    # EPLB copies experts into slots that are left over; here one copy is kept
    ranks_LG[0] = _once(ranks_LG[0])
    for layer in range(1, len(load.layers)):
        together_XX = _together(load.counts_LSXG[layer], load.counts_LSXG[layer - 1])
        ranks_LG.append(_draw(together_XX, mean_LX[layer], ranks_LG[-1], per_rank))
    return place(load.layers, load.pools, ranks_LG, budget.slots_per_rank)


def _together(
    counts_SXG: npt.NDArray[np.int32], before_SXG: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """[experts, experts of the layer before]: tokens in common, as far as home ranks and steps tell, beyond chance."""
    here = counts_SXG.transpose(1, 0, 2).reshape(counts_SXG.shape[1], -1).astype(np.float64)
    there = before_SXG.transpose(1, 0, 2).reshape(before_SXG.shape[1], -1).astype(np.float64)
    size = np.maximum(1.0, there.sum(axis=0))
    joint = (here / size) @ there.T
    chance = np.outer(here.sum(axis=1), there.sum(axis=1)) / max(1.0, there.sum())
    excess: npt.NDArray[np.float64] = joint - chance
    return excess


def _draw(
    together_XX: npt.NDArray[np.float64],
    mean_X: npt.NDArray[np.float64],
    before: list[list[int]],
    per_rank: int,
) -> list[list[int]]:
    pull_XG = np.stack([together_XX[:, experts].sum(axis=1) for experts in before], axis=1)
    held: list[list[int]] = [[] for _ in before]
    weight_G = np.zeros(len(before))
    limit = _SLACK * mean_X.sum() / len(before)
    for expert in (-mean_X).argsort(kind="stable").tolist():
        free_G = np.array([len(experts) < per_rank for experts in held])
        light_G = free_G & (weight_G + mean_X[expert] <= limit)
        if light_G.any():
            rank = int(np.where(light_G, pull_XG[expert], -np.inf).argmax())
        else:
            rank = int(np.where(free_G, weight_G, np.inf).argmin())
        held[rank].append(expert)
        weight_G[rank] += mean_X[expert]
    return held


def _once(ranks: list[list[int]]) -> list[list[int]]:
    seen: set[int] = set()
    kept: list[list[int]] = []
    for experts in ranks:
        kept.append([])
        for expert in experts:
            if expert not in seen:
                seen.add(expert)
                kept[-1].append(expert)
    return kept
