import dataclasses

import numpy as np

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.policies.search import Guard, LayerProblem, Objective, guard_for, improve

COSTS = Costs(token_us=1.0, expert_us=0.0, near_us=0.0, far_us=0.0)


def problem(counts: np.ndarray, guards: list[Guard], num_slots: int = 2) -> LayerProblem:
    return LayerProblem(counts, guards, num_slots, COSTS, COSTS.nodes(counts.shape[2]))


def test_a_bad_start_is_mended() -> None:
    # two heavy experts on one rank, two light ones on the other
    counts = np.zeros((8, 4, 2), np.int32)
    counts[:, :, 0] = [100, 100, 1, 1]
    bad = np.array([[True, False], [True, False], [False, True], [False, True]])
    found = improve(problem(counts, []), [bad], num_changes=60, seed=(0,))
    assert found.sum() == 4
    assert found[0].argmax() != found[1].argmax()


def test_what_breaks_a_limit_is_fined() -> None:
    counts = np.full((4, 2, 2), 10, np.int32)
    text = counts.copy()
    text[:, 0] = 0
    hosts = np.array([[True, False], [False, True]])
    free, tight = (
        Objective(problem(counts, [Guard(text, limit)])).score(hosts).value for limit in (20.0, 10.0)
    )
    assert free == 20.0
    assert tight == 20.0 * (1 + 4.0)


def test_a_limit_knows_no_starts_which_no_placement_saves() -> None:
    counts = np.full((4, 2, 2), 10, np.int32)
    hosts = np.array([[True, False], [False, True]])
    slow = dataclasses.replace(COSTS, start_us=1000.0)
    guard = guard_for(counts, hosts, 0.5, slow, slow.nodes(2))
    assert guard.limit_us == 10.0
    tight = LayerProblem(counts, [guard], 2, slow, slow.nodes(2))
    assert Objective(tight).score(hosts).value == 20.0 * (1 + 4.0)


def test_slots_are_never_exceeded_and_no_expert_is_lost() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, 30, (1, 12, 4)), (16, 12, 4)).astype(np.int32)
    start = np.zeros((12, 4), bool)
    start[np.arange(12), np.arange(12) % 4] = True
    found = improve(problem(counts, [], num_slots=4), [start], num_changes=300, seed=(0,))
    assert found.any(axis=1).all()
    assert found.sum(axis=0).max() <= 4


def test_one_rank_leaves_nothing_to_change() -> None:
    counts = np.ones((2, 3, 1), np.int32)
    assert improve(problem(counts, [], 3), [np.ones((3, 1), bool)], num_changes=5, seed=(0,)).all()
