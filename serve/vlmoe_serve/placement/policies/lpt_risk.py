"""Longest processing time first, with an eye on variance: after the idea of FlashLB (vLLM Ascend).

An expert's load is its compute in every step, weights read included, and a rank's is the sum of its experts', so
experts that are busy at the same time are kept apart. A rank's risk is mean + z * deviation over steps. Both pools
share one budget of slots.
"""

# S = steps, X = experts of both pools, G = ranks

import numpy as np
import numpy.typing as npt

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import Placement, place
from vlmoe_serve.placement.policies.base import Budget, slots_by_pool

# three quarters of a normal distribution lie below mean + z * deviation
_Z = 0.674


def lpt_risk(load: StepLoad, budget: Budget, costs: Costs) -> Placement:
    """Balance mean + z * deviation of both pools together."""
    slots_by_pool(load, budget)
    ranks_LG = [
        pack(expert_us(per_expert_SX, costs), load.num_ranks, budget.slots_per_rank)
        for per_expert_SX in load.per_expert_LSX
    ]
    return place(load.layers, load.pools, ranks_LG, budget.slots_per_rank)


def expert_us(per_expert_SX: npt.NDArray[np.int32], costs: Costs) -> npt.NDArray[np.float64]:
    """[S, X]: compute of each expert if it were on one rank."""
    return costs.token_us * per_expert_SX + costs.expert_us * (per_expert_SX > 0)


def pack(busy_SX: npt.NDArray[np.float64], num_ranks: int, num_slots: int) -> list[list[int]]:
    """The experts of each rank."""
    num_steps, num_experts = busy_SX.shape
    risk_X = busy_SX.mean(axis=0) + _Z * busy_SX.std(axis=0)
    copies_X = _replicate(risk_X, num_ranks, num_ranks * num_slots)
    order = (-risk_X / copies_X).argsort(kind="stable")
    # sums over steps of a rank's load, its square, and its product with every expert's: no need to keep the steps
    product_XX = busy_SX.T @ busy_SX
    sum_X, sum_G = busy_SX.sum(axis=0), np.zeros(num_ranks)
    square_G, product_GX = np.zeros(num_ranks), np.zeros((num_ranks, num_experts))
    held: list[list[int]] = [[] for _ in range(num_ranks)]
    for expert in order.tolist():
        share = 1.0 / copies_X[expert]
        for _ in range(copies_X[expert]):
            mean_G = (sum_G + share * sum_X[expert]) / num_steps
            after_G = (
                square_G + 2 * share * product_GX[:, expert] + share**2 * product_XX[expert, expert]
            ) / num_steps
            score_G = mean_G + _Z * np.sqrt(np.maximum(0.0, after_G - mean_G**2))
            free_G = np.array([len(h) < num_slots and expert not in h for h in held])
            if not free_G.any():
                # the last slots lie on ranks that have this expert already; one copy is enough
                if any(expert in h for h in held):
                    continue
                free_G = _make_room(held, copies_X)
            rank = int(np.where(free_G, score_G, np.inf).argmin())
            held[rank].append(expert)
            sum_G[rank] += share * sum_X[expert]
            square_G[rank] = num_steps * after_G[rank]
            product_GX[rank] += share * product_XX[expert]
    return held


def _replicate(risk_X: npt.NDArray[np.float64], num_ranks: int, num_slots: int) -> npt.NDArray[np.int64]:
    """As EPLB's, but never more copies than ranks."""
    copies_X = np.ones(len(risk_X), np.int64)
    for _ in range(num_slots - len(risk_X)):
        per_copy_X = np.where(copies_X < num_ranks, risk_X / copies_X, -1.0)
        if per_copy_X.max() < 0:
            break
        copies_X[int(per_copy_X.argmax())] += 1
    return copies_X


def _make_room(held: list[list[int]], copies_X: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Give up one copy of an expert that has several; which ranks then have room."""
    for experts in held:
        for expert in experts:
            if sum(expert in h for h in held) > 1:
                experts.remove(expert)
                copies_X[expert] -= 1
                return np.array([h is experts for h in held])
    raise AssertionError("more slots than experts, and every slot holds another expert")
