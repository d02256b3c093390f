from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmoe_model.checkpoint.files import SHARD, read_json, read_object, read_text
from vlmoe_model.errors import CheckpointError


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "f").write_text('{"a": [1, "\u00e9"]}', encoding="utf-8")
    assert read_text(tmp_path / "f") == '{"a": [1, "\u00e9"]}'
    assert read_json(tmp_path / "f") == read_object(tmp_path / "f") == {"a": [1, "\u00e9"]}


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        (read_text, b"\xff\xfe", "not UTF-8 text"),
        (read_json, b"{", "not JSON"),
        (read_json, b"[" * 100_000, "not JSON"),
        (read_object, b"[]", "must be a JSON object, got a list"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, reader: Callable[[Path], Any], content: bytes, message: str
) -> None:
    file = tmp_path / "f.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        reader(file)
    assert str(caught.value).startswith(str(file))


def test_missing_directories_and_oversized_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"f\.json: missing"):
        read_text(tmp_path / "f.json")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_text(tmp_path)
    (tmp_path / "big").write_text("x" * 11)
    with pytest.raises(CheckpointError, match="11 bytes; at most 10 are allowed"):
        read_text(tmp_path / "big", max_bytes=10)


@pytest.mark.parametrize(
    "name", ["../model-00001-of-00002.safetensors", "model-1-of-2.safetensors", "model.safetensors"]
)
def test_only_plain_shard_names_match(name: str) -> None:
    assert SHARD.fullmatch("model-00001-of-00002.safetensors")
    assert not SHARD.fullmatch(name)
