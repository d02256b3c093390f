import numpy as np

from vlmoe_serve.placement.policies.lpt_risk import pack


def test_experts_that_are_busy_together_are_kept_apart() -> None:
    # 0 and 1 are busy in even steps, 2 and 3 in odd ones; their means are the same
    even = np.arange(40) % 2 == 0
    busy = np.stack([10.0 * even, 10.0 * even, 10.0 * ~even, 10.0 * ~even], axis=1)
    held = pack(busy, 2, 2)
    assert {frozenset(experts) & {0, 1} != frozenset() for experts in held} == {True}
    assert all(len(set(experts) & {0, 1}) == 1 for experts in held)


def test_no_rank_holds_an_expert_twice_and_spare_slots_are_used() -> None:
    rng = np.random.default_rng(0)
    held = pack(rng.gamma(0.5, 10, (30, 12)), 4, 5)
    assert all(len(set(experts)) == len(experts) <= 5 for experts in held)
    assert sum(map(len, held)) == 20


def test_one_expert_has_at_most_a_copy_a_rank() -> None:
    assert pack(np.array([[100.0, 1.0]] * 5), 3, 4) == [[0, 1], [0, 1], [0, 1]]
