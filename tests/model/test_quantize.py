import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.fingerprint import model_id, space_id
from vlmoe_model.checkpoint.weights import load_state
from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import CheckpointError
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.quantize import quantise_experts, run
from vlmoe_model.runner import Runner

W1 = "encoder.blocks.1.ffn.pools.V.w1"


@pytest.fixture
def path(config: ModelConfig, build_network: Callable[..., VLMoE], saved: Callable[..., Path]) -> Path:
    return saved(state=build_network(config).state_dict())


@pytest.fixture
def small(path: Path, tmp_path: Path) -> Path:
    quantise_experts(open_directory(path), tmp_path / "small")
    return tmp_path / "small"


def test_mixtures_are_int8_and_all_else_is_what_it_was(path: Path, small: Path) -> None:
    before, after = load_state(path), load_state(small)
    for name, tensor in before.items():
        is_matrix = ".blocks.1.ffn.pools." in name and name.endswith((".w1", ".w2"))
        assert after[name].dtype == (torch.int8 if is_matrix else tensor.dtype)
        if is_matrix:
            scale = after[f"{name[:-2]}scale{name[-1]}"].unsqueeze(-1)
            assert ((after[name] * scale - tensor).abs() <= 0.5001 * scale).all()
        else:
            assert torch.equal(after[name], tensor)
    one, other = open_directory(path), open_directory(small)
    assert other.labels == one.labels
    assert other.config == dataclasses.replace(one.config, expert_weights="int8")


@pytest.mark.parametrize("backend", ["cpu", "auto"])
def test_it_answers_like_the_whole_one_quantised_when_loaded(
    path: Path,
    small: Path,
    config: ModelConfig,
    mixed_jobs: Callable[[ModelConfig], list[Job]],
    backend: str,
) -> None:
    jobs = mixed_jobs(config)
    stored, loaded = Runner.load(small, backend=backend), Runner.load(path, dtype="int8", backend=backend)
    assert stored.dtype == loaded.dtype == "int8"
    exact = Runner.load(path, dtype="fp32").run(jobs)
    for one, other, truth in zip(stored.run(jobs), loaded.run(jobs), exact, strict=True):
        assert np.array_equal(one, other)
        assert np.linalg.norm(one - truth) < 0.2 * np.linalg.norm(truth)


@pytest.mark.usefixtures("threads")
def test_an_answer_ignores_its_batch(
    small: Path, config: ModelConfig, mixed_jobs: Callable[[ModelConfig], list[Job]], cpu_backend: str
) -> None:
    jobs, runner = mixed_jobs(config), Runner.load(small, backend=cpu_backend)
    for job, answer in zip(jobs, runner.run(jobs), strict=True):
        assert np.array_equal(runner.run([job])[0], answer)


def test_it_is_another_model_and_another_space(path: Path, small: Path) -> None:
    one, other = open_directory(path), open_directory(small)
    assert model_id(one) != model_id(other)
    spaces = {space_id(one), space_id(other), space_id(one, int8_experts=True)}
    assert len(spaces) == 3
    assert space_id(other, int8_experts=True) == space_id(other)


def test_other_precisions_are_refused(small: Path) -> None:
    for dtype in ("fp32", "bf16"):
        with pytest.raises(ValueError, match=f"stored in int8: dtype must be auto or int8, got '{dtype}'"):
            Runner.load(small, dtype=dtype)


def test_experts_in_int8_are_neither_moved_nor_offloaded(path: Path, small: Path) -> None:
    for directory, dtype in ((path, "int8"), (small, "auto")):
        with pytest.raises(ValueError, match="experts in int8 cannot be offloaded"):
            Runner.load(directory, dtype=dtype, expert_memory=1 << 20)
        with pytest.raises(ValueError, match="experts in int8 cannot be moved between ranks"):
            Runner.load(directory, dtype=dtype, movable=True)


def test_a_dense_checkpoint_has_nothing_to_quantise(
    config: ModelConfig, build_network: Callable[..., VLMoE], saved: Callable[..., Path], tmp_path: Path
) -> None:
    dense = config.dense_twin()
    path = saved(state=build_network(dense).state_dict(), config=dense)
    with pytest.raises(ValueError, match="no mixture blocks"):
        quantise_experts(open_directory(path), tmp_path / "small")
    with pytest.raises(ValueError, match="no mixture blocks"):
        Runner.load(path, dtype="int8")


def test_types_must_be_those_of_the_configuration(path: Path, small: Path) -> None:
    """Whoever swaps the configurations gets an error, not nonsense."""
    for directory, value, message in (
        (path, "int8", "is missing"),
        (small, "float", "is unexpected"),
    ):
        fields = json.loads((directory / "config.json").read_text())
        fields["expert_weights"] = value
        (directory / "config.json").write_text(json.dumps(fields))
        with pytest.raises(CheckpointError, match=message):
            Runner.load(directory)
    fields["expert_weights"] = "int4"
    (small / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match="expert_weights must be one of float, int8"):
        open_directory(small)


@pytest.mark.parametrize(
    ("name", "other"), [(W1, torch.float32), ("encoder.blocks.0.ffn.pools.V.w1", torch.int8)]
)
def test_a_tensor_of_the_wrong_type_is_named(
    small: Path, edit_tensor: Callable[[Path, str, torch.dtype], None], name: str, other: torch.dtype
) -> None:
    edit_tensor(small / "model.safetensors", name, other)
    with pytest.raises(CheckpointError, match=f"tensor '{name}': (F32|I8), but the configuration has"):
        Runner.load(small)


@pytest.fixture
def edit_tensor() -> Callable[[Path, str, torch.dtype], None]:
    """edit_tensor(file, name, dtype): store one tensor as another type."""
    from safetensors.torch import load_file, save_file

    def rewrite(file: Path, name: str, dtype: torch.dtype) -> None:
        tensors = load_file(file)
        tensors[name] = tensors[name].to(dtype)
        save_file(tensors, file)

    return rewrite


def test_the_command(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out"
    assert run([str(path), str(target), "--experts", "int8"]) == 0
    assert capsys.readouterr().out.startswith(f"{target}: 0.0 MB of weights instead of 0.0")
    assert run([str(target), str(tmp_path / "again"), "--experts", "int8"]) == 1
    assert "its experts are int8 already" in capsys.readouterr().err
    assert run([str(path), str(path), "--experts", "int8"]) == 1
    assert "name another directory" in capsys.readouterr().err
    assert run([str(tmp_path / "none"), str(target), "--experts", "int8"]) == 1
    assert "no such directory" in capsys.readouterr().err
