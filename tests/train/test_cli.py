from pathlib import Path

import pytest

from vlmoe_train.cli import run


def test_train_then_resume_then_refuse_to_overwrite(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    command = [
        "train",
        "--recipe",
        str(recipe_file),
        "--data",
        str(tmp_path),
        "--out",
        str(out),
        "--threads",
        "1",
    ]
    assert run([*command, "--steps", "4"]) == 0
    assert (out / "config.json").is_file()
    assert (out / "model.safetensors").is_file()
    assert run(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert run([*command, "--resume"]) == 0
    assert "resuming at step 4 of 8" in capsys.readouterr().out


def test_an_unknown_recipe_is_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["train", "--recipe", "nothing", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vlmoe train: no recipe 'nothing'")
    assert len(error.splitlines()) == 1


def test_missing_arguments_are_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        run(["train"])
    error = capsys.readouterr().err
    assert error.startswith("vlmoe train: the following arguments are required: --recipe, --out")
    assert len(error.splitlines()) == 1


def test_missing_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["train", "--recipe", "demo", "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vlmoe train: ")
    assert len(error.splitlines()) == 1
