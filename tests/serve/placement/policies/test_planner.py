import numpy as np

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.policies import Budget
from vlmoe_serve.placement.policies.eplb import eplb
from vlmoe_serve.placement.policies.lpt_risk import lpt_risk
from vlmoe_serve.placement.policies.planner import planner, planner_from, spread
from vlmoe_serve.placement.step_time import DISPATCHES, step_times

COSTS = Costs()
BUDGET = Budget(slots_per_rank=6)


def test_it_is_faster_than_where_it_began(small_steps: StepLoad) -> None:
    def mean_us(placement: object) -> float:
        return float(step_times(small_steps, placement, DISPATCHES["counts"], COSTS).total_S.mean())  # type: ignore[arg-type]

    found = mean_us(planner(small_steps, BUDGET, COSTS))
    assert found < mean_us(eplb(small_steps, BUDGET, COSTS))
    assert found < 1.01 * mean_us(lpt_risk(small_steps, BUDGET, COSTS))


def test_a_mix_of_one_modality_costs_no_more_than_with_eplb(small_steps: StepLoad) -> None:
    """Held on the newer half of the steps: what they have drifted to is what comes."""
    placed, base = planner(small_steps, BUDGET, COSTS), eplb(small_steps, BUDGET, COSTS)
    newer = small_steps.steps(np.arange(small_steps.num_steps // 2, small_steps.num_steps))
    for pool in range(2):
        part = newer.only_pool(pool)
        ours, theirs = (
            step_times(part, each, DISPATCHES["counts"], COSTS).total_S.mean() for each in (placed, base)
        )
        assert ours <= theirs


def test_threads_do_not_change_the_plan_and_seeds_may(small_steps: StepLoad) -> None:
    one = planner(small_steps, BUDGET, COSTS)
    two = planner(small_steps, Budget(slots_per_rank=6, threads=2), COSTS)
    np.testing.assert_array_equal(one.slots_LGK, two.slots_LGK)
    other = planner(small_steps, Budget(slots_per_rank=6, seed=5), COSTS)
    assert (other.slots_LGK != one.slots_LGK).any()


def test_it_goes_on_from_a_placement_that_is_better_than_its_own_starts(small_steps: StepLoad) -> None:
    first = planner(small_steps, BUDGET, COSTS)
    further = planner_from(small_steps, Budget(slots_per_rank=6, seed=1), COSTS, starts=[first])
    ours, before = (
        step_times(small_steps, each, DISPATCHES["counts"], COSTS).total_S.mean() for each in (further, first)
    )
    assert ours <= 1.005 * before


def test_steps_are_spread_over_the_trace() -> None:
    assert spread(4, 128).tolist() == [0, 1, 2, 3]
    assert spread(101, 3).tolist() == [0, 50, 100]
