import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmoe_serve.placement.placement import EMPTY, Placement, PlacementError, place, read_placement

POOLS = (3, 2)
# two layers, two ranks, three slots; expert 4 is text expert 1
RANKS = [[[0, 1, 3], [2, 4]], [[4, 0], [1, 2, 3]]]


def placement() -> Placement:
    return place((1, 5), POOLS, RANKS, 3)


def test_a_placement_knows_who_holds_what() -> None:
    placed = placement()
    assert (placed.num_ranks, placed.slots_per_rank, placed.num_experts) == (2, 3, 5)
    assert placed.hosts_LXG[0].tolist() == [
        [True, False],
        [True, False],
        [False, True],
        [True, False],
        [False, True],
    ]
    assert placed.slots_LGK[0, 1].tolist() == [2, 4, EMPTY]
    with pytest.raises(ValueError, match="read-only"):
        placed.slots_LGK[0, 0, 0] = 2


def test_its_file_comes_back_and_can_be_read_by_people(tmp_path: Path) -> None:
    path = tmp_path / "placement.json"
    path.write_text(placement().to_json(policy="planner", model_id="m-1"))
    values = json.loads(path.read_text())
    assert values["policy"] == "planner"
    assert values["layers"][0] == {"layer": 1, "ranks": [{"V": [0, 1], "T": [0]}, {"V": [2], "T": [1]}]}
    again = read_placement(path)
    assert (again.layers, again.pools) == ((1, 5), POOLS)
    np.testing.assert_array_equal(again.slots_LGK, placement().slots_LGK)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_every_placement_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    pools = data.draw(st.tuples(st.integers(0, 4), st.integers(1, 4)))
    num_ranks = data.draw(st.integers(1, 4))
    ranks: list[set[int]] = [set() for _ in range(num_ranks)]
    for expert in range(sum(pools)):
        for rank in data.draw(st.sets(st.integers(0, num_ranks - 1), min_size=1)):
            ranks[rank].add(expert)
    slots = max(map(len, ranks)) + data.draw(st.integers(0, 2))
    placed = place((2,), pools, [[sorted(held) for held in ranks]], slots)
    path = tmp_path_factory.mktemp("p") / "p.json"
    path.write_text(placed.to_json())
    np.testing.assert_array_equal(read_placement(path).slots_LGK, placed.slots_LGK)


@pytest.mark.parametrize(
    ("ranks", "complaint"),
    [
        ([[[0, 1], [2, 3]]], "layer 1: expert 1 of pool T lies on no rank"),
        ([[[0, 1, 3], [2, 4, 4]]], "layer 1: expert 1 of pool T lies twice on rank 1"),
        ([[[0, 1, 2, 3], [4]]], "layer 1: rank 0 holds 4 experts in 3 slots"),
        ([[[0, 1, 3], [2, 4, 5]]], "experts must be below 5, got 5"),
    ],
)
def test_what_breaks_an_invariant_cannot_be_made(ranks: list[list[list[int]]], complaint: str) -> None:
    with pytest.raises(PlacementError, match=re.escape(complaint)):
        place((1,), POOLS, ranks, 3)


def test_layers_must_ascend_and_fit() -> None:
    slots = placement().slots_LGK
    for layers in ((5, 1), (1, 1), (1,)):
        with pytest.raises(PlacementError, match="ascending blocks"):
            Placement(layers, POOLS, slots)
    with pytest.raises(PlacementError, match="slots must be int32"):
        Placement((1, 5), POOLS, slots.astype(np.int64))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 2}, "version must be 1, got 2"),
        ({"pools": {"V": 3}}, "not a placement"),
        ({"layers": 7}, "not a placement"),
        ({"slots_per_rank": -1}, "must be a whole number from 0, got -1"),
        (
            {"layers": [{"layer": 1, "ranks": [{"V": [0, 1, 3], "T": [0, 1]}]}]},
            "pool V has 3 experts, got expert 3",
        ),
        (
            {"layers": [{"layer": 1, "ranks": [{"V": [0, 1, True], "T": [0]}]}]},
            "whole number from 0, got True",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    path = tmp_path / "placement.json"
    path.write_text(json.dumps(json.loads(placement().to_json()) | change))
    with pytest.raises(PlacementError, match=re.escape(complaint)) as caught:
        read_placement(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "placement.json"
    path.write_bytes(b"\xff")
    for wrong in (path, tmp_path / "none.json"):
        with pytest.raises(PlacementError, match="cannot be read as JSON"):
            read_placement(wrong)


def test_moves_are_copies_that_were_not_there() -> None:
    before = placement()
    after = place((1, 5), POOLS, [[[0, 1, 3], [2, 4]], [[4, 0, 1], [2, 3, 0]]], 3)
    assert after.moved_experts(before) == 2
    assert before.moved_experts(before) == 0
    with pytest.raises(PlacementError, match="different models"):
        after.moved_experts(place((1,), POOLS, RANKS[:1], 3))
