"""When to plan, and whether to move: the time is an argument."""

import numpy as np
import pytest

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import Placement, place
from vlmoe_serve.placement.rebalancing import (
    Pace,
    Question,
    RebalanceOptions,
    Window,
    changed_layers,
    num_moved,
    revise,
    with_layer,
)

COSTS = Costs(token_us=1.0, expert_us=0.0, near_us=0.01, expert_bytes=1000, move_bytes_per_us=1000.0)


def even(slots: int = 4) -> Placement:
    """Two mixtures, two ranks, 4 + 2 experts, one spare slot or none."""
    return place((0, 2), (4, 2), [[[0, 1, 4], [2, 3, 5]]] * 2, slots)


def window(hot: int, num_steps: int = 64, *, is_over: bool = False) -> Window:
    """Traffic in which one expert has most tokens; in the newest quarter all have the same, if it is over."""
    rng = np.random.default_rng(0)
    made = Window(even(), num_steps)
    for step in range(num_steps):
        mean = np.full((2, 6, 2), 5.0)
        if not is_over or step < 0.75 * num_steps:
            mean[:, hot] = 200
        made.add(rng.poisson(mean))
    return made


def test_the_window_keeps_the_newest_steps_with_tokens() -> None:
    kept = Window(even(), 3)
    kept.add(np.zeros((2, 6, 2), np.int64))
    for step in range(1, 6):
        kept.add(np.full((2, 6, 2), step))
    assert len(kept) == 3
    load = kept.load()
    assert load.counts_LSXG.shape == (2, 3, 6, 2)
    assert load.counts_LSXG[0, :, 0, 0].tolist() == [3, 4, 5]
    assert load.home_SG.tolist() == [[18, 18], [24, 24], [30, 30]]


def test_a_plan_is_due_after_steps_and_time_and_refusals_make_it_rarer() -> None:
    pace = Pace(RebalanceOptions(min_steps=2, interval_s=10, max_interval_s=35), 0.0)
    pace.step()
    assert not pace.is_due(100.0)
    pace.step()
    assert not pace.is_due(9.0)
    assert pace.is_due(10.0)
    assert pace.steps_per_s(10.0) == pytest.approx(0.2)
    for now_s, pause_s in ((10.0, 20), (30.0, 35), (65.0, 35)):
        pace.decided(now_s, moved=False)
        pace.step()
        pace.step()
        assert not pace.is_due(now_s + pause_s - 0.1)
        assert pace.is_due(now_s + pause_s)
    pace.decided(100.0, moved=True)
    pace.step()
    pace.step()
    assert pace.is_due(110.0)


def test_planning_stays_a_small_share_of_the_time() -> None:
    pace = Pace(RebalanceOptions(min_steps=1, interval_s=10, max_interval_s=35, planning_share=0.02), 0.0)
    pace.decided(0.0, moved=True, lost_s=1.5)
    pace.step()
    assert not pace.is_due(74.9)
    assert pace.is_due(75.0)
    pace.decided(75.0, moved=False, lost_s=0.0)
    pace.step()
    assert not pace.is_due(94.9)
    assert pace.is_due(95.0)


def test_a_hot_expert_gets_a_copy() -> None:
    revision = revise(Question(window(hot=1).load(), even(), COSTS, horizon_steps=1000))
    assert revision.decision.move
    assert revision.proposed.hosts_LXG[:, 1].all()
    assert changed_layers(even(), revision.proposed) == [0, 1]
    assert revision.decision.gain > 0.2


def test_where_ranks_are_even_nothing_is_searched() -> None:
    counts = np.full((2, 64, 6, 2), 50)
    counts[:, :, :, 1] = 10
    full = place((0, 2), (4, 2), [[[0, 1, 4], [2, 3, 5]]] * 2, 3)
    load = StepLoad((0, 2), (4, 2), counts.astype(np.int32), counts[0].sum(axis=1))
    revision = revise(Question(load, full, COSTS, horizon_steps=10**6))
    assert revision.proposed is full
    assert not revision.decision.move
    assert revision.decision.gain == 0.0


def test_what_the_newest_steps_do_not_bear_out_is_refused() -> None:
    """Planned for a hot expert, judged by steps in which there is none."""
    question = Question(window(hot=1, is_over=True).load(), even(3), COSTS, horizon_steps=1000)
    decision = revise(question).decision
    assert not decision.move
    assert decision.gain < 0.02


def test_what_does_not_pay_back_is_refused() -> None:
    load = window(hot=1).load()
    decision = revise(Question(load, even(), COSTS, horizon_steps=1)).decision
    assert decision.move
    dear = Costs(token_us=1.0, expert_us=0.0, expert_bytes=10**9, move_bytes_per_us=1.0)
    decision = revise(Question(load, even(), dear, horizon_steps=1000)).decision
    assert decision.gain > 0.2
    assert not decision.move


def test_layers_change_one_by_one() -> None:
    proposed = place((0, 2), (4, 2), [[[0, 1, 4, 3], [2, 3, 5]], [[0, 2, 4], [1, 3, 5, 4]]], 4)
    between = with_layer(even(), proposed, 1)
    assert changed_layers(even(), between) == [1]
    assert changed_layers(between, proposed) == [0]
    assert num_moved(even(), proposed, [0]) == 1
    assert num_moved(even(), proposed, [0, 1]) == 4
    assert num_moved(between, proposed, [1]) == 0
