import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.replace import replacing
from vlmoe_model.errors import CheckpointError


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_the_directory_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with replacing(target) as new:
        (new / "card.md").write_text("hello")
        assert not target.exists()
        assert new.parent == target.parent
    assert (target / "card.md").read_text() == "hello"
    assert names(target.parent) == ["target"]


def test_an_error_leaves_the_old_one_and_no_remains(saved: Callable[..., Path]) -> None:
    target = saved()
    before = names(target)

    def fail() -> None:
        with replacing(target) as new:
            (new / "card.md").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(target) == before
    assert names(target.parent) == ["checkpoint"]


def test_replacing_drops_old_parts_and_keeps_foreign_files(saved: Callable[..., Path]) -> None:
    target = saved(card="old card", max_shard_bytes=500)
    assert (target / "model.safetensors.index.json").exists()
    (target / "logs").mkdir()
    (target / "logs" / "a.txt").write_text("a")
    (target / "dangling").symlink_to("nowhere")
    with (target / "metrics.jsonl").open("a") as log:
        saved()
        # a log that was open all the while goes on in the file of the new directory
        log.write("line\n")
    assert (target / "metrics.jsonl").read_text() == "line\n"
    assert (target / "logs" / "a.txt").read_text() == "a"
    assert os.readlink(target / "dangling") == "nowhere"
    assert not (target / "card.md").exists()
    assert not (target / "model.safetensors.index.json").exists()
    assert names(target.parent) == ["checkpoint"]
    open_directory(target)


def test_a_directory_without_a_checkpoint_may_receive_one(saved: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").write_text("line\n")
    saved("out")
    assert (tmp_path / "out" / "metrics.jsonl").read_text() == "line\n"
    open_directory(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", '{"model_type": "llama"}'), ("model.safetensors", "precious"), ("tokenizer.json", "{}")],
)
def test_a_foreign_checkpoint_is_not_replaced(
    saved: Callable[..., Path], tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"holds {name} but is no checkpoint of ours"):
        saved("theirs")
    assert (tmp_path / "theirs" / name).read_text() == content
    assert names(tmp_path) == ["theirs"]


def test_a_file_is_not_replaced(saved: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="not a directory"):
        saved("file")


def test_a_link_to_a_directory_stays_a_link(saved: Callable[..., Path], tmp_path: Path) -> None:
    saved("real")
    (tmp_path / "link").symlink_to("real")
    saved("link", card="new")
    assert (tmp_path / "link").is_symlink()
    assert open_directory(tmp_path / "real").card == "new"
