import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlmoe_model.checkpoint import directory as directory_module
from vlmoe_model.checkpoint.directory import open_directory, resolve
from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import CheckpointError


def test_everything_that_was_saved_is_there(
    saved: Callable[..., Path], config: ModelConfig, state: dict[str, Tensor]
) -> None:
    path = saved(card="# A card", metrics={"shapes.accuracy": 0.5})
    opened = open_directory(path)
    assert opened.path == path
    assert opened.config == config
    assert opened.labels == {
        "questions": ("yes", "no", "circle"),
        "shapes": ("round", "square"),
        "entailment": ("no", "yes"),
    }
    assert {name: entry.shape for name, entry in opened.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in state.items()
    }
    assert (opened.card, opened.metrics, opened.base) == ("# A card", {"shapes.accuracy": 0.5}, None)
    assert [file.name for file in opened.weight_files] == ["model.safetensors"]
    assert opened.tokenizer().decode(opened.processor().text("questions", "a red circle")) == "a red circle"


def test_card_and_metrics_are_optional(saved: Callable[..., Path]) -> None:
    opened = open_directory(saved())
    assert (opened.card, opened.metrics) == ("", {})


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "labels/questions.json"]
)
def test_a_missing_part_is_named(saved: Callable[..., Path], name: str) -> None:
    path = saved()
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=Path(name).name):
        open_directory(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["yes", "no"]', r"2 labels, but head 'questions' has out_dim 3"),
        ('{"yes": 0}', "must be a JSON list of strings"),
        ('["yes", "no", 3]', "must be a JSON list of strings"),
        ("yes", "not JSON"),
    ],
)
def test_labels_must_fit_their_head(saved: Callable[..., Path], content: str, message: str) -> None:
    path = saved()
    (path / "labels" / "questions.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"labels.questions\.json: {message}"):
        open_directory(path)


def test_the_tokenizer_must_fit_the_vocabulary(saved: Callable[..., Path]) -> None:
    path = saved()
    fields = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**fields, "vocab_size": 20}))
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json: \d+ tokens, but config\.json has vocab_size 20"
    ):
        open_directory(path)


def test_an_oversized_configuration_is_not_read(saved: Callable[..., Path]) -> None:
    path = saved()
    (path / "config.json").write_text(" " * 2**21)
    with pytest.raises(CheckpointError, match=r"config\.json: 2097152 bytes; at most 1048576"):
        open_directory(path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "no such directory"),
        ("file.txt", "not a directory"),
        ("model.pt", "pickle files can run code"),
        ("x" * 5000, "cannot be opened"),
        ("zero\0byte", "directory|cannot be opened"),
    ],
)
def test_what_is_no_directory_is_refused(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(CheckpointError, match=message):
        open_directory(f"{tmp_path}/{path}")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
def test_a_directory_of_pickles_is_refused_and_told_how(saved: Callable[..., Path], name: str) -> None:
    path = saved()
    (path / "model.safetensors").rename(path / name)
    with pytest.raises(CheckpointError, match=rf"{name}: pickle files can run code .*save_file"):
        open_directory(path)


def test_a_pickle_beside_the_weights_is_ignored(saved: Callable[..., Path]) -> None:
    path = saved()
    torch.save({"step": 1}, path / "state.pt")
    assert open_directory(path).tensors


def test_a_missing_shard_is_named(saved: Callable[..., Path]) -> None:
    path = saved(max_shard_bytes=500)
    next(path.glob("model-00002-of-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-\d+\.safetensors: cannot be read"):
        open_directory(path)


@pytest.mark.parametrize(
    "target",
    ["../other/model-00001-of-00010.safetensors", "/etc/passwd", "model.safetensors", "..", "", None, 3],
)
def test_an_index_cannot_lead_out_of_the_directory(saved: Callable[..., Path], target: object) -> None:
    path = saved(max_shard_bytes=500)
    index = path / "model.safetensors.index.json"
    fields = json.loads(index.read_text())
    fields["weight_map"]["encoder.norm.weight"] = target
    index.write_text(json.dumps(fields))
    with pytest.raises(
        CheckpointError, match=r"index\.json: tensor 'encoder\.norm\.weight': .* not a shard's name"
    ):
        open_directory(path)


def test_the_index_must_agree_with_the_shards(saved: Callable[..., Path]) -> None:
    path = saved(max_shard_bytes=500)
    index = path / "model.safetensors.index.json"
    fields = json.loads(index.read_text())
    weights = fields["weight_map"]
    first = weights["embeddings.words"]

    index.write_text(json.dumps({"weight_map": {**weights, "ghost": first}}))
    with pytest.raises(CheckpointError, match="tensor 'ghost' is missing, though"):
        open_directory(path)
    del weights["heads.matching.logit_scale"]
    index.write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=r"tensor 'heads\.matching\.logit_scale' is not in this file"):
        open_directory(path)
    index.write_text(json.dumps({"weight_map": list(weights)}))
    with pytest.raises(CheckpointError, match="weight_map must be an object"):
        open_directory(path)


def test_whole_and_sharded_weights_together_are_refused(saved: Callable[..., Path]) -> None:
    path = saved(max_shard_bytes=500)
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="only one may be there"):
        open_directory(path)


def test_demo_is_the_packages_own_and_a_path_is_a_path(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve("some/where") == Path("some/where")
    package = tmp_path / "package"
    monkeypatch.setattr(directory_module, "__file__", str(package / "checkpoint" / "directory.py"))
    with pytest.raises(CheckpointError, match="no demo checkpoint; name a checkpoint directory"):
        resolve("demo")
    saved("package/demo")
    assert resolve("demo") == package / "demo"
    assert open_directory("demo").path == package / "demo"


def test_opening_needs_no_torch(saved: Callable[..., Path]) -> None:
    code = (
        "import sys; from vlmoe_model.checkpoint.directory import open_directory;"
        "from vlmoe_model.checkpoint.fingerprint import model_id;"
        f"model_id(open_directory({str(saved())!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
