"""What a policy is, and what several of them share."""

# L = MoE layers, S = steps, X = experts of both pools, G = ranks, K = slots of a rank

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import Placement


class BudgetError(ValueError):
    """There are fewer slots than a policy needs; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a plan may use. slots_per_rank: in one layer, over both pools. seed: of searches. threads: to plan with."""

    slots_per_rank: int
    seed: int = 0
    threads: int = 1


class Policy(Protocol):
    """From load to placement; the same for the same arguments."""

    def __call__(self, load: StepLoad, budget: Budget, costs: Costs) -> Placement:
        """Place for the ranks of the load.

        Raises:
            BudgetError: the slots do not hold every expert.
        """
        ...


def fewest_slots(pools: Sequence[int], num_ranks: int) -> int:
    """Slots of a rank that hold every expert once, each pool spread evenly."""
    return sum(-(-size // num_ranks) for size in pools)


def default_slots(pools: Sequence[int], num_ranks: int) -> int:
    """One spare slot for each pool: nearly all of the gain of copies."""
    return fewest_slots(pools, num_ranks) + sum(size > 0 for size in pools)


def slots_by_pool(load: StepLoad, budget: Budget) -> tuple[int, int]:
    """The budget shared out between the pools: what each needs, then half of the rest, an odd slot to the busier one.

    Raises:
        BudgetError: the pools do not fit.
    """
    needs = [-(-size // load.num_ranks) for size in load.pools]
    spare = budget.slots_per_rank - sum(needs)
    if spare < 0:
        raise BudgetError(
            f"{load.pools[0]} + {load.pools[1]} experts on {load.num_ranks} ranks need at least {sum(needs)} "
            f"slots a rank, got {budget.slots_per_rank}"
        )
    per_expert_X = load.counts_LSXG.sum(axis=(0, 1, 3))
    text_is_busier = per_expert_X[load.pools[0] :].sum() > per_expert_X[: load.pools[0]].sum()
    text = spare // 2 + (spare % 2 if text_is_busier else 0)
    if not all(load.pools):
        text = spare if load.pools[1] else 0
    return needs[0] + spare - text, needs[1] + text
