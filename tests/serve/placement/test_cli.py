"""`vlmoe plan` from the command line to files and exit codes."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from vlmoe_serve.placement.cli import run
from vlmoe_serve.placement.costs import Costs, read_costs
from vlmoe_serve.placement.placement import place, read_placement
from vlmoe_serve.placement.synthetic import Synthetic, synthetic_meta, synthetic_rows
from vlmoe_serve.placement.trace_format import COLUMNS, META

COSTS = asdict(Costs(origin="a stop watch"))
SIZES = {"dim": 8, "ffn_dim": 32, "weight_bytes": 4, "shared_parameters": 100}
SPEC = Synthetic(num_steps=18, tokens_per_step=1500, num_layers=1, num_experts=4, skew=1.2)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace")
    rows = list(synthetic_rows(SPEC))
    columns = {name: np.concatenate([getattr(each, name) for each in rows]) for name in COLUMNS}
    pq.write_table(pa.table(columns), path / "a.parquet")
    (path / META).write_text(synthetic_meta(SPEC).to_json())
    return path


def test_the_best_placement_is_written_and_then_stays(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again = tmp_path / "placement.json", tmp_path / "again.json"
    assert run(["--trace", str(trace), "--ranks", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"wrote {out}" in said
    assert "against the linear placement" in said
    assert read_placement(out).num_ranks == 2
    command = ["--trace", str(trace), "--ranks", "2", "--current", str(out), "--out", str(again)]
    assert run([*command, "--policy", json.loads(out.read_text())["policy"]]) == 0
    assert "do not move" in capsys.readouterr().out
    np.testing.assert_array_equal(read_placement(again).slots_LGK, read_placement(out).slots_LGK)
    assert json.loads(again.read_text())["policy"] == "unchanged"


def test_an_evaluation_is_a_table_and_a_file(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scores.json"
    assert (
        run(["--trace", str(trace), "--ranks", "2", "--evaluate", "--seeds", "1", "--json", str(file)]) == 0
    )
    rows = json.loads(file.read_text())
    assert {row["policy"] for row in rows} == {
        "linear", "round_robin", "eplb", "lpt_risk", "affinity", "planner", "shard", "oracle",
    }  # fmt: skip
    assert "window later" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recorded", "more", "told"),
    [
        ({}, [], "H100"),
        ({}, [], "--device tells"),
        ({"device": "cpu"}, [], "one thread of an AMD EPYC"),
        ({"device": "cpu", "sizes": SIZES}, [], "experts of 8 x 32, 32 bits a weight; --measure for"),
        ({"device": "cpu"}, ["--device", "cuda"], "H100"),
        ({"device": "cpu", "costs": COSTS}, [], "constants: a stop watch"),
        ({"device": "cpu", "costs": COSTS}, ["--device", "cuda"], "H100"),
    ],
)
def test_constants_are_those_of_what_was_recorded_on(
    trace: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recorded: dict[str, object],
    more: list[str],
    told: str,
) -> None:
    again = tmp_path / "trace"
    shutil.copytree(trace, again)
    meta = json.loads((trace / META).read_text()) | recorded
    (again / META).write_text(json.dumps(meta))
    command = ["--trace", str(again), "--ranks", "2", "--evaluate", "--seeds", "1", "--policy", "linear"]
    assert run([*command, *more]) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("constants: ")
    assert told in first


def test_what_is_measured_is_kept_and_planned_with(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again, file = tmp_path / "trace", tmp_path / "costs.json"
    shutil.copytree(trace, again)
    meta = json.loads((again / META).read_text())
    (again / META).write_text(json.dumps(meta | {"device": "cpu", "sizes": SIZES}))
    assert run(["--trace", str(again), "--measure", "--costs", str(file)]) == 0
    assert f"wrote {file}" in capsys.readouterr().out
    costs = read_costs(file)
    assert costs.expert_bytes == (2 * 8 * 32 + 8 + 32) * 4
    assert costs.origin.startswith("measured on one thread of ")
    assert "experts of 8 x 32" in costs.origin
    assert run(["--trace", str(again), "--ranks", "2", "--policy", "eplb", "--costs", str(file)]) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == f"constants: {file}: {costs.origin}"


def test_the_mix_of_requests_decides_how_many_devices_it_takes(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "capacity.json"
    devices = {}
    for kind in ("text", "image"):
        command = ["--trace", str(trace), "--capacity", "--rate", "200000", "--p99-ms", "50"]
        assert run([*command, "--mix", f"{kind}=1", "--json", str(file)]) == 0
        devices[kind] = json.loads(file.read_text())[0]["devices"]
    assert devices["text"] < devices["image"]


def test_a_mix_that_the_trace_cannot_give_is_refused(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "trace"
    shutil.copytree(trace, again)
    rows = pq.read_table(again / "a.parquet")
    pq.write_table(rows.filter(pc.equal(rows["modality"], 1)), again / "a.parquet")
    command = ["--trace", str(again), "--capacity", "--rate", "1", "--p99-ms", "50", "--mix", "image=1"]
    assert run(command) == 1
    said = capsys.readouterr().err
    assert said.startswith("vlmoe plan: --mix: there is no image among the ")
    assert said.count("\n") == 1


def test_a_capacity_is_an_answer(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "size.json"
    command = ["--trace", str(trace), "--capacity", "--rate", "1000", "--p99-ms", "50", "--json", str(file)]
    assert run(command) == 0
    assert "cheapest first:\n  1 " in capsys.readouterr().out
    assert json.loads(file.read_text())[0]["devices"] == 1
    assert run([*command, "--p99-ms", "0.000001"]) == 1


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ([], "required: --ranks"),
        (["--ranks", "0"], "must be a whole number from 1 to 4096, got '0'"),
        (["--ranks", "2", "--slots-per-rank", "3"], "need at least 4 slots a rank, got 3"),
        (["--ranks", "2", "--policy", "oracle"], "policy oracle exists for --evaluate only"),
        (["--ranks", "2", "--json", "x"], "--json goes with --evaluate or --capacity"),
        (["--ranks", "2", "--costs", "x", "--device", "cpu"], "leave out --device"),
        (["--ranks", "2", "--evaluate", "--out", "x"], "--out writes a placement"),
        (["--ranks", "2", "--mix", "image=1"], "--mix and --memory-mb go with --capacity"),
        (
            ["--capacity", "--rate", "5", "--p99-ms", "5", "--mix", "sound=1"],
            "must be one of image, text, pair",
        ),
        (["--capacity", "--rate", "5"], "--capacity needs --rate and --p99-ms"),
        (["--capacity", "--rate", "-5", "--p99-ms", "1"], "must be a positive number, got '-5'"),
    ],
)
def test_bad_usage_is_one_line_and_2(
    trace: Path, capsys: pytest.CaptureFixture[str], more: list[str], complaint: str
) -> None:
    try:
        code = run(["--trace", str(trace), *more])
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr().err
    assert code == 2
    assert complaint in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("option", ["--trace", "--costs", "--current"])
def test_a_bad_file_is_one_line_and_1(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    command = {"--trace": str(trace), "--ranks": "2", option: str(tmp_path / "none")}
    assert run([word for pair in command.items() for word in pair]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "none") in said
    assert said.count("\n") == 1


def test_a_placement_of_another_model_is_refused(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    path.write_text(place((7,), (1, 1), [[[0], [1]]], 1).to_json())
    assert run(["--trace", str(trace), "--ranks", "2", "--current", str(path)]) == 1
    assert "different models" in capsys.readouterr().err
