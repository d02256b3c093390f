import json
from pathlib import Path

import pytest
import yaml

from vlmoe_model.runner import Runner
from vlmoe_train.evaluate.cli import evaluation_plan, run, to_json, to_table
from vlmoe_train.evaluate.suites import SUITES, Score

SCORES = [Score("a.accuracy", 0.75, 0.5, "chance"), Score("longer.name", 1.0, 0.125, "lookup")]


def recipe(folder: Path, *tasks: dict[str, object]) -> str:
    path = folder / "own.yaml"
    heads = [
        {"name": "vqa", "task": "vqa", "image": {"size": 16}, "max_text": 16},
        {"name": "fashion", "task": "image_classification", "image": {"size": 16}},
    ]
    path.write_text(
        yaml.safe_dump({"model": {"preset": "demo"}, "steps": 1, "heads": heads, "tasks": list(tasks)})
    )
    return str(path)


def test_the_table_is_in_per_cent() -> None:
    header, first, second = to_table(SCORES).splitlines()
    assert header.split() == ["metric", "model", "%", "baseline", "%"]
    assert first.split() == ["a.accuracy", "75.00", "50.00", "chance"]
    assert second.split() == ["longer.name", "100.00", "12.50", "lookup"]


def test_the_json_is_in_parts_of_one() -> None:
    assert json.loads(to_json(SCORES)) == {
        "metrics": {"a.accuracy": 0.75, "longer.name": 1.0},
        "baselines": {"a.accuracy": 0.5, "longer.name": 0.125},
    }


def test_a_recipe_of_data_sets_is_evaluated(
    checkpoint: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = recipe(
        tmp_path,
        {"data": "easy_vqa", "head": "vqa", "batch": 1},
        {"data": "fashion_mnist", "head": "fashion", "batch": 1},
    )
    out = tmp_path / "figures.json"
    arguments = ["--model", str(checkpoint), "--recipe", name, "--data", str(data_root)]
    assert run([*arguments, "--json", str(out), "--limit", "12", "--dtype", "fp32"]) == 0
    shown = capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert set(figures) == {"metrics", "baselines"}
    assert set(figures["metrics"]) == set(figures["baselines"])
    assert {"easy_vqa.accuracy", "fashion_mnist.accuracy"} <= set(figures["metrics"])
    assert all(0 <= value <= 1 for value in figures["metrics"].values())
    assert all(metric in shown for metric in figures["metrics"])
    assert "at most 12 test rows" in shown


def test_a_single_data_set_finds_its_head(runner: Runner) -> None:
    for name, head in (("scenes", "vqa"), ("fashion_mnist", "fashion"), ("emoji", "retrieval")):
        (planned,) = evaluation_plan(name, runner.config)
        assert planned.suite is SUITES[name]
        assert planned.head.name == head


def test_options_of_a_recipe_reach_the_loader(runner: Runner, tmp_path: Path) -> None:
    task = {"data": "scenes", "head": "vqa", "batch": 1, "options": {"num_train": 7}}
    (planned,) = evaluation_plan(recipe(tmp_path, task), runner.config)
    assert planned.options == {"num_train": 7}


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"--recipe": "nothing"}, 2, "no recipe 'nothing'"),
        ({"--limit": "0"}, 2, "--limit must be positive, got 0"),
        ({"--model": "nowhere"}, 1, "nowhere"),
        ({"--data": "empty"}, 1, "vlmoe data fetch demo --to empty"),
        ({"--json": "no/such/folder.json", "--limit": "3"}, 1, "no/such/folder.json"),
    ],
)
def test_mistakes_are_one_line_on_stderr(
    checkpoint: Path,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    status: int,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"--model": str(checkpoint), "--recipe": "fashion_mnist", "--data": str(data_root), **changes}
    assert run([part for pair in options.items() for part in pair]) == status
    captured = capsys.readouterr()
    assert captured.err.startswith("vlmoe eval: ")
    assert reason in captured.err
    assert captured.err.count("\n") == 1


def test_a_file_without_splits_has_no_test_data(runner: Runner, tmp_path: Path) -> None:
    name = recipe(tmp_path, {"data": "own.jsonl", "head": "vqa", "batch": 1})
    with pytest.raises(ValueError, match=r"own\.jsonl has no test split"):
        evaluation_plan(name, runner.config)


def test_a_head_that_the_model_lacks_is_named(runner: Runner) -> None:
    config = type(runner.config).from_json(runner.config.to_json().replace('"contrastive"', '"vqa"'))
    with pytest.raises(ValueError, match=r"emoji needs one contrastive head.*vqa \(vqa\)"):
        evaluation_plan("emoji", config)
