"""What --placement may name, and that a placement for something else is refused in one line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlmoe_model.config import ModelConfig
from vlmoe_serve.placement.chosen import choose_placement
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.machines import CPU, GPU
from vlmoe_serve.placement.placement import PlacementError, place
from vlmoe_serve.placement.trace_format import COLUMNS, Rows, TraceMeta
from vlmoe_serve.placement.trace_writer import TraceWriter

CONFIG = ModelConfig(
    dim=8,
    num_layers=3,
    num_heads=2,
    ffn_dim=16,
    vocab_size=120,
    image_size=8,
    patch_size=4,
    max_text=12,
    moe_blocks=(0, 2),
    num_experts=3,
)


def record(directory: Path, meta: TraceMeta) -> None:
    """Twenty steps in which expert 0 has most tokens."""
    writer = TraceWriter(directory, meta)
    rng = np.random.default_rng(0)
    for step in range(20):
        for layer in meta.layers:
            columns = {name: np.zeros(60, dtype) for name, dtype in COLUMNS.items()}
            columns["step"][:] = step
            columns["layer"][:] = layer
            columns["token"][:] = np.arange(60) % 15
            columns["request"][:] = 4 * step + np.arange(60) // 15
            columns["expert"][:] = rng.choice(3, 60, p=[0.8, 0.1, 0.1])
            columns["modality"][:] = np.arange(60) // 30
            writer.add(Rows(**columns))
    writer.close()


def test_a_file_of_vlmoe_plan(tmp_path: Path) -> None:
    placement = place((0, 2), (3, 3), [[[0, 1, 3], [1, 2, 4, 5]]] * 2, 4)
    file = tmp_path / "placement.json"
    file.write_text(placement.to_json(policy="planner"))
    assert np.array_equal(choose_placement(str(file), CONFIG, 2, None).slots_LGK, placement.slots_LGK)


def test_policies_that_need_no_trace() -> None:
    linear = choose_placement("linear", CONFIG, 2, None)
    assert linear.slots_LGK[0].tolist() == [[0, 1, 3, 4], [2, 5, -1, -1]]
    assert choose_placement("round_robin", CONFIG, 2, None).slots_LGK[0].tolist() == [
        [0, 2, 3, 5],
        [1, 4, -1, -1],
    ]
    assert choose_placement("linear", CONFIG, 5, None).num_ranks == 5


@pytest.mark.parametrize("policy", ["eplb", "lpt_risk", "affinity", "planner"])
def test_policies_that_plan_on_a_trace(tmp_path: Path, policy: str) -> None:
    record(tmp_path, TraceMeta("m-1", (0, 2), (3, 3), 1))
    placement = choose_placement(policy, CONFIG, 2, tmp_path)
    assert placement.layers == (0, 2)
    if policy in ("eplb", "planner"):
        assert placement.hosts_LXG[0, 0].all(), "the busiest expert has a copy on every rank"


@pytest.mark.parametrize(
    ("recorded_on", "device", "told"),
    [
        ("cpu", "auto", CPU.name),
        ("cuda", "auto", GPU.name),
        ("cuda", "cpu", CPU.name),
        (None, "auto", GPU.name),
        ("measured", "auto", "a stop watch"),
        ("measured", "cpu", "a stop watch"),
        ("measured", "cuda", GPU.name),
    ],
)
def test_a_policy_plans_with_constants_of_what_is_served_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recorded_on: str | None, device: str, told: str
) -> None:
    measured = Costs(origin="a stop watch") if recorded_on == "measured" else None
    kind = "cpu" if measured else recorded_on
    record(tmp_path, TraceMeta("m-1", (0, 2), (3, 3), 1, kind, costs=measured))
    with caplog.at_level("INFO"):
        choose_placement("lpt_risk", CONFIG, 2, tmp_path, device=device)
    assert f"placement lpt_risk is planned with constants of {told}" in caplog.text


def test_without_a_trace_there_is_nothing_to_plan_on(tmp_path: Path) -> None:
    with pytest.raises(
        PlacementError, match="policy planner plans on a trace: record one with --trace-routing"
    ):
        choose_placement("planner", CONFIG, 2, None)
    with pytest.raises(PlacementError, match=r"policy eplb plans on a trace: .*/new: no such directory"):
        choose_placement("eplb", CONFIG, 2, tmp_path / "new")
    record(tmp_path, TraceMeta("m-1", (0, 1), (3, 3), 1))
    with pytest.raises(PlacementError, match="the trace is another model's"):
        choose_placement("eplb", CONFIG, 2, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"moe_blocks": (1, 2)}, r"for mixtures in blocks \[0, 2\], the model's are \[1, 2\]"),
        ({"num_experts": 4}, "for 3 experts in pool V, the model has 4"),
        ({"moe_blocks": ()}, "the model has no mixtures"),
    ],
)
def test_a_placement_for_another_model_is_refused(tmp_path: Path, change: dict, message: str | None) -> None:
    file = tmp_path / "placement.json"
    file.write_text(place((0, 2), (3, 3), [[[0, 1, 3], [2, 4, 5]]] * 2, 3).to_json())
    config = replace(CONFIG, **change)
    if message is None:
        assert choose_placement(str(file), config, 2, None).num_ranks == 2
        return
    with pytest.raises(PlacementError, match=message) as error:
        choose_placement(str(file), config, 2, None)
    assert "\n" not in str(error.value)


def test_bad_files_and_names_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "placement.json"
    good = json.loads(place((0, 2), (3, 3), [[[0, 1, 3], [2, 4, 5]]] * 2, 3).to_json())
    good["layers"][1]["ranks"][0]["V"] = [0]
    file.write_text(json.dumps(good))
    with pytest.raises(PlacementError, match="layer 2: expert 1 of pool V lies on no rank"):
        choose_placement(str(file), CONFIG, 2, None)
    file.write_text("{")
    with pytest.raises(PlacementError, match="cannot be read as JSON"):
        choose_placement(str(file), CONFIG, 2, None)
    with pytest.raises(PlacementError, match="'plannner' is neither a file nor one of the policies linear, "):
        choose_placement("plannner", CONFIG, 2, None)
    file.write_text(place((0, 2), (3, 3), [[[0, 1, 3], [2, 4, 5]]] * 2, 3).to_json())
    with pytest.raises(PlacementError, match="for 2 ranks, there are 4"):
        choose_placement(str(file), CONFIG, 4, None)
