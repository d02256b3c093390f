import numpy as np
import pytest

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.decision import decide, turned
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import Placement, place

COSTS = Costs(
    token_us=1.0,
    expert_us=0.0,
    near_us=0.0,
    far_us=0.0,
    expert_bytes=1000,
    move_bytes_per_us=1.0,
    ranks_per_node=2,
)


def load(first: int) -> StepLoad:
    """Experts 0 and 1 get `first` tokens each, 2 and 3 get 10."""
    counts = np.zeros((1, 6, 4, 2), np.int32)
    counts[..., 0] = [first, first, 10, 10]
    return StepLoad((1,), (4, 0), counts, np.ones((6, 2), np.int64))


TOGETHER = place((1,), (4, 0), [[[0, 1], [2, 3]]], 2)
APART = place((1,), (4, 0), [[[0, 2], [1, 3]]], 2)


def test_a_move_that_pays_back_in_time_is_made() -> None:
    # 200 -> 110 us a step; two experts of 1000 bytes at 1 byte / us
    decision = decide(load(100), TOGETHER, APART, COSTS, horizon_steps=100)
    assert decision.move
    assert decision.gain == pytest.approx(0.45)
    assert decision.break_even_steps == pytest.approx(2000 / 90)
    assert str(decision) == (
        "move: 45.0 % faster on the trace, moves 0 MB in 2.0 ms, pays back after 22 steps, of 100 planned for"
    )


def test_a_move_that_pays_back_too_late_is_not() -> None:
    decision = decide(load(100), TOGETHER, APART, COSTS, horizon_steps=20)
    assert not decision.move
    assert str(decision).startswith("do not move: 45.0 % faster")


def test_a_gain_within_the_noise_or_a_loss_is_no_reason_to_move() -> None:
    assert not decide(load(10), TOGETHER, APART, COSTS, horizon_steps=10**9).move
    worse = decide(load(100), APART, TOGETHER, COSTS, horizon_steps=10**9)
    assert not worse.move
    assert worse.break_even_steps is None
    assert "slower" in str(worse)


def test_turning_saves_moves_and_changes_nothing_else() -> None:
    swapped = place((1,), (4, 0), [[[1, 3], [0, 2]]], 2)
    back = turned(swapped, APART, COSTS)
    assert back.moved_experts(APART) == 0
    assert swapped.moved_experts(APART) == 4


def test_ranks_of_a_node_stay_together() -> None:
    rng = np.random.default_rng(0)

    def drawn() -> Placement:
        ranks = [sorted(part.tolist()) for part in rng.permutation(8).reshape(4, 2)]
        return place((1,), (8, 0), [ranks], 2)

    for _ in range(30):
        proposed, current = drawn(), drawn()
        after = turned(proposed, current, COSTS)
        assert after.moved_experts(current) <= proposed.moved_experts(current)
        nodes = {frozenset(np.concatenate(after.slots_LGK[0, n : n + 2]).tolist()) for n in (0, 2)}
        assert nodes == {frozenset(np.concatenate(proposed.slots_LGK[0, n : n + 2]).tolist()) for n in (0, 2)}
