"""Tensors in and out of checkpoint directories."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlmoe_model.checkpoint import files
from vlmoe_model.checkpoint.directory import LABELLED_TASKS, CheckpointDir, open_directory
from vlmoe_model.checkpoint.experts import is_expert, is_int8, pool_of
from vlmoe_model.checkpoint.header import TensorEntry
from vlmoe_model.checkpoint.replace import replacing
from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import CheckpointError
from vlmoe_model.tokenizer import Tokenizer

DEFAULT_SHARD_BYTES = 2**30
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def save(
    directory: str | Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    labels: Mapping[str, Sequence[str]],
    *,
    card: str = "",
    metrics: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    base: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint. It appears under its name complete or not at all.

    Args:
        directory: where; a checkpoint that is already there is replaced, other files in it stay.
        config: the network.
        state: every tensor by name, on any device.
        tokenizer: the tokenizer the text side was trained with.
        labels: by head, for every head that has labels.
        card: text of card.md; none is written for "".
        metrics: content of metrics.json; none is written for None.
        dtype: what floats are stored as; None keeps each tensor's own.
        max_shard_bytes: weights larger than this are split over several files.
        base: content of base.json when `state` is only a delta; `save_delta` gives it.

    Raises:
        ValueError: labels that do not match the heads, or a tensor that cannot be stored.
        CheckpointError: the directory holds something that is no checkpoint of ours.
    """
    _check_labels(config, labels)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"{tokenizer.vocab_size} tokens, but the config has vocab_size {config.vocab_size}")
    for name, tensor in state.items():
        _check_tensor(name, tensor, dtype, config)
    with replacing(Path(directory)) as new:
        (new / files.CONFIG).write_text(config.to_json(), encoding="utf-8")
        (new / files.TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
        (new / files.LABELS).mkdir()
        for head, names in labels.items():
            _write_json(new / files.LABELS / f"{head}.json", list(names))
        if card:
            (new / files.CARD).write_text(card, encoding="utf-8")
        if metrics is not None:
            _write_json(new / files.METRICS, dict(metrics))
        if base is not None:
            _write_json(new / files.BASE, dict(base))
        _write_weights(new, state, dtype, max_shard_bytes)


def load_state(
    directory: CheckpointDir | str | Path,
    *,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    experts: Mapping[tuple[int, str], Sequence[int]] | None = None,
    skip: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint; of the experts only those of one rank, where there are several.

    Everything is checked against the files' headers before the first tensor is read. Tensors keep the dtype
    that they are stored in.

    Args:
        directory: an opened checkpoint, or its path.
        expected: names and whole shapes (all experts) that the network needs, or None for whatever is there.
        experts: by (block, pool) of every mixture, the experts to read, in their order; None for all.
        skip: modules whose tensors are checked and not read.

    Raises:
        CheckpointError: a tensor is missing, unknown or has the wrong shape, or a file has changed.
    """
    opened = directory if isinstance(directory, CheckpointDir) else open_directory(directory)
    config = opened.config
    if expected is not None:
        check_tensors(opened, expected)
    for name, entry in opened.tensors.items():
        if (entry.dtype == "I8") != is_int8(name, config):
            raise CheckpointError(
                f"{entry.file}: tensor {name!r}: {entry.dtype}, but the configuration has expert_weights "
                f"{config.expert_weights!r}"
            )
        if is_expert(name, config) and (not entry.shape or entry.shape[0] != config.num_experts):
            raise CheckpointError(
                f"{entry.file}: tensor {name!r}: shape {list(entry.shape)} does not start with "
                f"the {config.num_experts} experts"
            )
    rows = {}
    for name in opened.tensors if experts is not None else ():
        pool = pool_of(name, config)
        if pool is not None and experts is not None:
            rows[name] = experts[pool]
    skipped = tuple(f"{module}." for module in skip)
    wanted = [entry for entry in opened.tensors.values() if not entry.name.startswith(skipped)]
    return {entry.name: tensor for entry, tensor in read_tensors(wanted, rows)}


def read_tensors(
    entries: Iterable[TensorEntry], rows: Mapping[str, Sequence[int]] | None = None
) -> Iterator[tuple[TensorEntry, Tensor]]:
    """Read tensors one at a time, each file opened once.

    Args:
        entries: which; grouped by file, so the order may change.
        rows: which of dim 0 to read, for the tensors that are not read whole.
    """
    by_file: dict[Path, list[TensorEntry]] = {}
    for entry in entries:
        by_file.setdefault(entry.file, []).append(entry)
    for file, inside in by_file.items():
        name = "header"
        try:
            with safe_open(file, framework="pt") as handle:
                for entry in inside:
                    name = entry.name
                    part = (rows or {}).get(name)
                    yield entry, handle.get_tensor(name) if part is None else _rows(handle, name, part)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{file}: tensor {name!r}: {error}") from error


def _rows(handle: Any, name: str, rows: Sequence[int]) -> Tensor:
    """Some rows of a tensor. A slice reads its bytes only: no rank ever holds the experts of another."""
    stored = handle.get_slice(name)
    runs = _runs(rows)
    if len(runs) == 1:
        whole: Tensor = stored[runs[0]]
        return whole
    parts = [stored[run] for run in runs] or [stored[0:0]]
    return torch.cat(parts)


def _runs(rows: Sequence[int]) -> list[slice]:
    """The same as slices, neighbours together."""
    runs: list[slice] = []
    for row in rows:
        if runs and runs[-1].stop == row:
            runs[-1] = slice(runs[-1].start, row + 1)
        else:
            runs.append(slice(row, row + 1))
    return runs


def check_tensors(opened: CheckpointDir, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Hold the files' headers against the names and whole shapes that a network needs.

    Raises:
        CheckpointError: a tensor is missing, unknown or has the wrong shape.
    """
    missing = [name for name in expected if name not in opened.tensors]
    if missing:
        raise CheckpointError(f"{opened.path}: tensor {missing[0]!r} is missing{_and_more(missing)}")
    unexpected = [name for name in opened.tensors if name not in expected]
    if unexpected:
        file = opened.tensors[unexpected[0]].file
        raise CheckpointError(
            f"{file}: tensor {unexpected[0]!r} is unexpected: the configuration has none of that "
            f"name{_and_more(unexpected)}"
        )
    for name, shape in expected.items():
        entry = opened.tensors[name]
        if entry.shape != tuple(shape):
            raise CheckpointError(
                f"{entry.file}: tensor {name!r}: shape {list(entry.shape)}, "
                f"but the configuration needs {list(shape)}"
            )


def _and_more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _check_labels(config: ModelConfig, labels: Mapping[str, Sequence[str]]) -> None:
    labelled = {head.name: head for head in config.heads if head.task in LABELLED_TASKS}
    for name in labels:
        if name not in labelled:
            raise ValueError(f"labels for {name!r}; heads with labels: {', '.join(labelled) or 'none'}")
    for name, head in labelled.items():
        if len(labels.get(name, ())) != head.out_dim:
            raise ValueError(
                f"{len(labels.get(name, ()))} labels for head {name!r}, out_dim is {head.out_dim}"
            )


def _check_tensor(name: str, tensor: Tensor, dtype: torch.dtype | None, config: ModelConfig) -> None:
    stored = _stored(tensor, dtype)
    if stored not in ((torch.int8,) if is_int8(name, config) else DTYPES):
        raise ValueError(
            f"tensor {name!r}: {stored} cannot be stored; allowed: {', '.join(map(str, DTYPES))}"
        )
    if tensor.is_meta:
        raise ValueError(f"tensor {name!r} is on the meta device: it has no values")


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_weights(
    directory: Path, state: Mapping[str, Tensor], dtype: torch.dtype | None, max_shard_bytes: int
) -> None:
    shards = _shards(state, dtype, max_shard_bytes)
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [files.WEIGHTS]
    for name, shard in zip(names, shards, strict=True):
        # a copy each, because safetensors refuses tensors that share memory
        save_file(
            {
                key: state[key].detach().to("cpu", _stored(state[key], dtype), copy=True).contiguous()
                for key in shard
            },
            directory / name,
            metadata={"format": "pt"},
        )
        # the library keeps its files to their owner; who may read the configuration may read the weights
        shutil.copymode(directory / files.CONFIG, directory / name)
    if len(shards) > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        _write_json(directory / files.INDEX, {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))})


def _shards(state: Mapping[str, Tensor], dtype: torch.dtype | None, max_bytes: int) -> list[list[str]]:
    """Names in order, cut where the next tensor would pass the limit; at least one, possibly empty, shard."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, tensor in state.items():
        num_bytes = tensor.numel() * _stored(tensor, dtype).itemsize
        if shards[-1] and used + num_bytes > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += num_bytes
    return shards
