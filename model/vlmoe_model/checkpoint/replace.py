"""A directory that changes all at once: written beside its place, made durable, then renamed into it."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from vlmoe_model.checkpoint import files
from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import CheckpointError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields an empty directory that takes `target`'s place when the block ends without an error.

    Files in `target` that no checkpoint has (logs, a trainer's state) are kept.

    Raises:
        CheckpointError: `target` holds files with a checkpoint's names that are not ours to replace.
    """
    target = target.resolve()
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    new, old = (target.parent / f".{target.name}.{state}-{mark}" for state in ("new", "old"))
    new.mkdir()
    try:
        yield new
        for entry in (*new.rglob("*"), new):
            _sync(entry)
        if target.exists():
            _keep_foreign(target, new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if target.exists():
        # between the two renames the old checkpoint lies complete under its other name
        target.rename(old)
    new.rename(target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _is_ours(name: str) -> bool:
    fixed = (files.CONFIG, files.TOKENIZER, files.LABELS, files.CARD, files.METRICS)
    return name in (*fixed, files.WEIGHTS, files.INDEX, files.BASE) or files.SHARD.fullmatch(name) is not None


def _check_replaceable(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target}: not a directory, so it cannot be replaced by a checkpoint")
    if not target.exists():
        return
    names = sorted(entry.name for entry in target.iterdir() if _is_ours(entry.name))
    if not names:
        return
    try:
        ModelConfig.from_json(files.read_text(target / files.CONFIG), str(target / files.CONFIG))
    except CheckpointError as error:
        raise CheckpointError(
            f"{target}: holds {names[0]} but is no checkpoint of ours, so it is not replaced ({error})"
        ) from error


def _keep_foreign(source: Path, destination: Path) -> None:
    for entry in source.iterdir():
        if _is_ours(entry.name):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, destination / entry.name, symlinks=True, copy_function=_link_or_copy)
        else:
            _link_or_copy(entry, destination / entry.name)


def _link_or_copy(source: str | Path, destination: str | Path) -> None:
    # a link, not a copy: a log that is open for writing goes on in the same file
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, destination, follow_symlinks=False)


def _sync(path: Path) -> None:
    # not every file system lets a directory be synced
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
