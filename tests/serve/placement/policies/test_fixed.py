from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import Load, StepLoad, at_ranks
from vlmoe_serve.placement.policies import Budget
from vlmoe_serve.placement.policies.fixed import linear, round_robin


def test_neighbours_stay_together_or_are_dealt_out(small_steps: StepLoad) -> None:
    budget = Budget(slots_per_rank=4)
    assert linear(small_steps, budget, Costs()).slots_LGK[0].tolist() == [
        [0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15],
    ]  # fmt: skip
    assert round_robin(small_steps, budget, Costs()).slots_LGK[1, 1].tolist() == [1, 5, 9, 13]


def test_what_does_not_divide_is_spread_over_all_ranks(small_load: Load) -> None:
    placement = linear(at_ranks(small_load, 3), Budget(slots_per_rank=6), Costs())
    assert (placement.slots_LGK[0] < 0).sum() == 2
    assert [rank["V"] for rank in map(placement._rank, placement.slots_LGK[0])] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7],
    ]
