"""The model of a step against sums done by hand."""

import numpy as np
import pytest

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import place
from vlmoe_serve.placement.step_time import DISPATCHES, least_us, sharded_times, step_times, summary

COSTS = Costs(token_us=1.0, expert_us=10.0, near_us=0.5, far_us=2.0, start_us=3.0, ranks_per_node=1)


def load() -> StepLoad:
    """One layer, two steps, an image and a text expert, two ranks; the second step has no text."""
    counts = np.array([[[[30, 0], [20, 10]], [[6, 8], [0, 0]]]], np.int32)
    return StepLoad((1,), (1, 1), counts, np.array([[50, 10], [6, 8]]))


def test_a_layer_takes_its_slowest_rank_and_its_busiest_link() -> None:
    apart = place((1,), (1, 1), [[[0], [1]]], 1)
    times = step_times(load(), apart, DISPATCHES["counts"], COSTS)
    # rank 0: 30 tokens and an expert; rank 1 likewise; then 14 and one expert on rank 0 alone
    assert times.busy_LSG.tolist() == [[[40, 40], [24, 0]]]
    # 20 of rank 0's tokens cross, then 8 of rank 1's; two ways, two starts
    assert times.crossing_LS.tolist() == [[20, 8]]
    assert times.link_LS.tolist() == [[2 * (20 * 2.0 + 3), 2 * (8 * 2.0 + 3)]]
    assert times.total_S.tolist() == [40 + 86, 24 + 38]
    told = summary(times, COSTS)
    assert told.step_ms == pytest.approx(0.094)
    assert told.compute_ms == pytest.approx(0.032)
    assert told.imbalance_mean == pytest.approx((1.0 + 2.0) / 2)
    assert told.imbalance_sums == pytest.approx(64 / 52)
    assert told.balancedness == pytest.approx((1 + 0.5) / 2)
    assert told.cross_rank_mb == pytest.approx(2 * 14 * 1536 / 1e6)


def test_no_placement_takes_less_than_the_least() -> None:
    # 60 tokens and two experts, then 14 and one, over two ranks; two starts
    assert least_us(load(), COSTS).tolist() == [40 + 6, 12 + 6]
    everywhere = place((1,), (1, 1), [[[0, 1], [0, 1]]], 2)
    found = step_times(load(), everywhere, DISPATCHES["counts"], COSTS).total_S
    assert (found >= least_us(load(), COSTS)).all()


def test_one_rank_has_no_links() -> None:
    alone = StepLoad(
        (1,), (1, 1), load().counts_LSXG.sum(axis=3, keepdims=True), load().home_SG.sum(1)[:, None]
    )
    times = step_times(alone, place((1,), (1, 1), [[[0, 1]]], 2), DISPATCHES["counts"], COSTS)
    assert times.total_S.tolist() == [60 + 20, 14 + 10]
    assert sharded_times(alone, COSTS).total_S.tolist() == times.total_S.tolist()
    assert least_us(alone, COSTS).tolist() == times.total_S.tolist()


def test_a_shard_is_balanced_and_sees_every_token() -> None:
    times = sharded_times(load(), COSTS)
    assert times.busy_LSG.tolist() == [[[40, 40], [12, 12]]]
    # rank 0 sends its 50 tokens to rank 1, and gets its sums back
    assert times.link_LS.tolist() == [[2 * (50 * 2.0 + 3), 2 * (8 * 2.0 + 3)]]
    assert times.crossing_LS.tolist() == [[60, 14]]


def test_a_step_without_work_divides_by_nothing() -> None:
    idle = StepLoad((1,), (1, 1), np.zeros((1, 2, 2, 2), np.int32), np.zeros((2, 2), np.int64))
    told = summary(step_times(idle, place((1,), (1, 1), [[[0], [1]]], 1), DISPATCHES["counts"], COSTS), COSTS)
    assert told.imbalance_mean == told.imbalance_sums == told.balancedness == 1.0
