"""Placements that look at no load: what one gets without a planner."""

from collections.abc import Callable

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import Placement, place
from vlmoe_serve.placement.policies.base import Budget, slots_by_pool


def linear(load: StepLoad, budget: Budget, costs: Costs) -> Placement:
    """Neighbouring experts on the same rank, as many on each as on any other or one fewer; no copies."""
    return _fixed(load, budget, lambda expert, size, num_ranks: expert * num_ranks // size)


def round_robin(load: StepLoad, budget: Budget, costs: Costs) -> Placement:
    """Experts dealt out to the ranks in turn, no copies."""
    return _fixed(load, budget, lambda expert, size, num_ranks: expert % num_ranks)


def _fixed(load: StepLoad, budget: Budget, rank_of: Callable[[int, int, int], int]) -> Placement:
    slots_by_pool(load, budget)
    ranks: list[list[int]] = [[] for _ in range(load.num_ranks)]
    first = 0
    for size in load.pools:
        for expert in range(size):
            ranks[rank_of(expert, size, load.num_ranks)].append(first + expert)
        first += size
    return place(load.layers, load.pools, [ranks] * len(load.layers), budget.slots_per_rank)
