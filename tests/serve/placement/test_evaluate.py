import pytest

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.evaluate import LATER, Question, Score, TooShort, evaluate, split, table
from vlmoe_serve.placement.load import Load

ROW = {
    "policy", "dispatch", "ranks", "window", "seed", "step_ms", "step_ms_p99",
    "imbalance_mean", "imbalance_p99", "cross_rank_mb", "moved_mb",
}  # fmt: skip


@pytest.fixture(scope="module")
def scores(small_load: Load) -> list[Score]:
    policies = ("linear", "eplb", "planner", "shard", "oracle")
    return evaluate(
        small_load, Question(num_ranks=4, slots_per_rank=6, costs=Costs(), policies=policies, seeds=(0, 1))
    )


def of(scores: list[Score], policy: str, dispatch: str, window: str = LATER, seed: int = 0) -> Score:
    (found,) = [
        s for s in scores if (s.policy, s.dispatch, s.window, s.seed) == (policy, dispatch, window, seed)
    ]
    return found


def test_planning_and_scoring_never_see_the_same_step(small_load: Load) -> None:
    planned, windows = split(small_load)
    assert planned.num_steps == 16
    assert windows[LATER].num_steps == 16
    kinds = [windows[kind] for kind in ("image", "text", "pair")]
    assert sum(part.num_sequences for part in kinds) == windows[LATER].num_sequences
    with pytest.raises(TooShort, match="the trace has 7 steps"):
        split(small_load.window(0, 7))


def test_rows_have_the_documented_fields(scores: list[Score]) -> None:
    row = of(scores, "planner", "counts").to_row()
    assert set(row) >= ROW
    assert (row["ranks"], row["window"], row["seed"]) == (4, "later", 0)


def test_every_policy_is_scored_on_every_window_with_either_dispatch(scores: list[Score]) -> None:
    windows = {s.window for s in scores}
    assert windows == {LATER, "image", "text", "pair"}
    for policy, dispatches, seen in (
        ("eplb", {"uniform", "counts"}, windows),
        ("shard", {"uniform"}, windows),
        ("oracle", {"uniform", "counts"}, {LATER}),
    ):
        found = {(s.dispatch, s.window, s.seed) for s in scores if s.policy == policy}
        assert found == {(d, w, seed) for d in dispatches for w in seen for seed in (0, 1)}


def test_what_is_known_of_the_policies_shows(scores: list[Score]) -> None:
    linear, eplb = of(scores, "linear", "uniform"), of(scores, "eplb", "uniform")
    assert eplb.told.step_ms < linear.told.step_ms
    assert of(scores, "eplb", "counts").told.step_ms < eplb.told.step_ms
    assert of(scores, "planner", "counts").told.step_ms < eplb.told.step_ms
    assert of(scores, "shard", "uniform").told.imbalance_mean == pytest.approx(1.0)
    # without copies there is nothing to split
    assert of(scores, "linear", "counts").told == linear.told
    assert linear.moved_mb == 0.0 < eplb.moved_mb


def test_the_table_puts_all_beside_eplb(scores: list[Score]) -> None:
    lines = table(scores).splitlines()
    (row,) = [line for line in lines[: lines.index("")] if line.startswith("eplb") and "uniform" in line]
    assert row.split()[4:6] == ["+0.0%", "+0.0%"]
