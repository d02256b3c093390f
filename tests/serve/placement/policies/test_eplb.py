"""The published algorithm on cases worked out by hand."""

import numpy as np
import pytest

from vlmoe_serve.placement.policies.eplb import balance, replicate


@pytest.mark.parametrize(
    ("load", "num_slots", "copies"),
    [
        ([10, 30, 20], 3, [1, 1, 1]),
        ([10, 30, 20], 4, [1, 2, 1]),
        # 30 / 2 = 15 < 20: the third expert is next, then the second again at 15
        ([10, 30, 20], 6, [1, 3, 2]),
        ([5, 5], 3, [2, 1]),
    ],
)
def test_spare_slots_go_where_the_load_per_copy_is_largest(
    load: list[int], num_slots: int, copies: list[int]
) -> None:
    assert replicate(np.array(load, float), num_slots).tolist() == copies


def test_the_heaviest_copy_goes_first_to_the_lightest_rank_with_room() -> None:
    # copies of 90: 45 and 45; then 40, 30, 20, 10
    assert balance(np.array([90.0, 40.0, 30.0, 20.0, 10.0]), 2, 3) == [[0, 1, 4], [0, 2, 3]]


def test_all_experts_lie_somewhere_and_the_busiest_rank_is_no_worse_than_dealt_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        load = rng.gamma(0.5, 10, 32)
        held = balance(load, 8, 5)
        assert {x for experts in held for x in experts} == set(range(32))
        copies = np.bincount([x for experts in held for x in experts])
        busiest = max(sum(load[x] / copies[x] for x in experts) for experts in held)
        assert busiest <= max(load[rank::8].sum() for rank in range(8)) + 1e-9
