"""The process that plans, as rank 0 sees it."""

import os

import pytest

from vlmoe_serve.engine.planning import NICE, Planning, toll
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.policies import Budget
from vlmoe_serve.placement.policies.fixed import linear
from vlmoe_serve.placement.rebalancing import Question, revise
from vlmoe_serve.placement.synthetic import Synthetic, synthetic_load


@pytest.fixture
def steps() -> StepLoad:
    from vlmoe_serve.placement.load import at_ranks

    return at_ranks(
        synthetic_load(Synthetic(num_steps=24, tokens_per_step=1000, num_layers=1, num_experts=4)), 2
    )


def test_it_plans_what_we_would_plan_at_a_low_priority(steps: StepLoad) -> None:
    current = linear(steps, Budget(slots_per_rank=6), Costs())
    question = Question(steps, current, Costs(), 1000)
    planning = Planning()
    try:
        for _ in range(2):
            found = planning.ask(question).result(timeout=120)
            expected = revise(question)
            assert found.decision == expected.decision
            assert found.planned_s > 0
            assert found.proposed.slots_LGK.tolist() == expected.proposed.slots_LGK.tolist()
        assert os.getpriority(os.PRIO_PROCESS, planning.pid) == min(
            19, os.getpriority(os.PRIO_PROCESS, 0) + NICE
        )
    finally:
        planning.close()


def test_planning_costs_nothing_where_a_core_is_left_for_it() -> None:
    assert toll(num_cores=2, num_ranks=2, threads=1) == 1.0
    # one for the doors is not one for plans
    assert toll(num_cores=3, num_ranks=2, threads=1) == 1.0
    assert toll(num_cores=4, num_ranks=2, threads=1) == 0.0
    # all ranks wait for the one that shares one of its four
    assert toll(num_cores=8, num_ranks=2, threads=4) == 0.25


def test_its_death_is_told(steps: StepLoad) -> None:
    planning = Planning()
    planning.close()
    with pytest.raises((EOFError, OSError, RuntimeError)):
        planning.ask(Question(steps, linear(steps, Budget(slots_per_rank=6), Costs()), Costs(), 1)).result(60)
