"""What holds for every policy of the table."""

import numpy as np
import pytest

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import Load, StepLoad, at_ranks
from vlmoe_serve.placement.policies import POLICIES, Budget, BudgetError, default_slots

COSTS = Costs()


@pytest.mark.parametrize("name", POLICIES)
def test_it_places_everything_within_its_budget_and_always_the_same_way(
    name: str, small_steps: StepLoad
) -> None:
    budget = Budget(slots_per_rank=default_slots(small_steps.pools, 4))
    placed, again = (POLICIES[name](small_steps, budget, COSTS) for _ in range(2))
    assert (placed.num_ranks, placed.slots_per_rank) == (4, budget.slots_per_rank)
    assert (placed.layers, placed.pools) == (small_steps.layers, small_steps.pools)
    np.testing.assert_array_equal(placed.slots_LGK, again.slots_LGK)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("num_ranks", "slots"), [(1, 16), (3, 6), (5, 4), (16, 2)])
def test_ranks_need_not_divide_experts(name: str, num_ranks: int, slots: int, small_load: Load) -> None:
    steps = at_ranks(small_load.window(0, 6), num_ranks)
    placed = POLICIES[name](steps, Budget(slots_per_rank=slots), COSTS)
    assert placed.num_ranks == num_ranks


@pytest.mark.parametrize("name", POLICIES)
def test_too_few_slots_are_refused_with_what_is_needed(name: str, small_steps: StepLoad) -> None:
    with pytest.raises(BudgetError, match=r"8 \+ 8 experts on 4 ranks need at least 4 slots a rank, got 3"):
        POLICIES[name](small_steps, Budget(slots_per_rank=3), COSTS)


@pytest.mark.parametrize("name", POLICIES)
def test_a_model_with_one_pool_is_placed(name: str, small_steps: StepLoad) -> None:
    text = StepLoad(small_steps.layers, (0, 8), small_steps.counts_LSXG[:, :, 8:], small_steps.home_SG)
    assert POLICIES[name](text, Budget(slots_per_rank=3), COSTS).pools == (0, 8)


@pytest.mark.parametrize("name", POLICIES)
def test_a_trace_without_tokens_is_placed(name: str, small_steps: StepLoad) -> None:
    idle = StepLoad(small_steps.layers, (8, 8), np.zeros_like(small_steps.counts_LSXG), small_steps.home_SG)
    assert POLICIES[name](idle, Budget(slots_per_rank=6), COSTS).num_experts == 16
