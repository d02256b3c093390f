from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.policies import Budget
from vlmoe_serve.placement.policies.fixed import linear, round_robin


def test_neighbours_stay_together_or_are_dealt_out(small_steps: StepLoad) -> None:
    budget = Budget(slots_per_rank=4)
    assert linear(small_steps, budget, Costs()).slots_LGK[0].tolist() == [
        [0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15],
    ]  # fmt: skip
    assert round_robin(small_steps, budget, Costs()).slots_LGK[1, 1].tolist() == [1, 5, 9, 13]
