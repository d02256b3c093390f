import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.fingerprint import model_id, space_id
from vlmoe_model.config import ModelConfig
from vlmoe_model.inspect import run, summarise


def test_parameters_are_counted_with_and_without_idle_experts(
    saved: Callable[..., Path], state: dict[str, Tensor]
) -> None:
    summary = summarise(open_directory(saved(dtype=torch.bfloat16)))
    total = sum(tensor.numel() for tensor in state.values())
    assert summary.num_parameters == total
    # two pools of four experts, of which one a token works
    assert summary.num_active == total - 2 * 3 * (16 * 8 + 16)
    assert (summary.num_bytes, summary.dtypes) == (2 * total, ("BF16",))


def test_a_dense_model_is_all_active(
    saved: Callable[..., Path], config: ModelConfig, state: dict[str, Tensor]
) -> None:
    summary = summarise(open_directory(saved(config=config.dense_twin(), state=state)))
    assert summary.num_active == summary.num_parameters


def test_the_text_shows_what_the_checkpoint_holds(
    saved: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(metrics={"shapes": {"accuracy": 0.875}, "note": "text", "ok": True})
    assert run([str(path)]) == 0
    text = capsys.readouterr().out
    opened = open_directory(path)
    for expected in (
        model_id(opened),
        str(space_id(opened)),
        "2 blocks, width 8, 2 heads",
        "4 a modality in blocks 1; top_k, 1 per token",
        "questions (vqa): 3 labels; image 8 px bicubic; text to 12 tokens",
        "entailment (text_classification): 2 labels; text to 12 tokens",
        "matching (contrastive): 6 dimensions; image 8 px bicubic; text to 8 tokens",
        "shapes.accuracy  0.875",
        "none (a whole checkpoint)",
    ):
        assert expected in text
    assert "note" not in text


def test_json_is_for_programs(saved: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(saved()), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"]["num_experts"] == 4
    assert shown["model_id"].startswith("m-")
    assert shown["base_model_id"] is None


def test_mistakes_are_one_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vlmoe inspect: ")
    assert error.endswith("no such directory\n")
    assert error.count("\n") == 1
    assert run([]) == 2
    says = "vlmoe inspect: the following arguments are required: path; see vlmoe inspect --help\n"
    assert capsys.readouterr().err == says
    assert run(["--help"]) == 0
