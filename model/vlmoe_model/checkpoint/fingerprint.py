"""Short ids that follow from what a checkpoint holds, so that they cannot drift from it.

model_id  everything an answer depends on: configuration, weights, tokenizer, labels. A delta and the whole
          checkpoint it stands for have the same.
space_id  everything an embedding depends on: encoder, one contrastive head with its preprocessing, tokenizer.
          Weights count rounded to bfloat16: a bf16 copy of a checkpoint embeds into the same space.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vlmoe_model.checkpoint.header import TensorEntry
from vlmoe_model.errors import CheckpointError

if TYPE_CHECKING:
    from vlmoe_model.checkpoint.directory import CheckpointDir

_CHUNK_BYTES = 4 * 2**20
_ID_DIGITS = 12
_MAX_THREADS = 4
# Fields of the configuration that change how the encoder is trained, not what it computes.
_TRAINING_ONLY = ("heads", "capacity_train", "router_noise", "aux_loss", "aux_weight", "drop_path")


def model_id(directory: "CheckpointDir") -> str:
    """Identity of a checkpoint's answers, like "m-3f9c0a1b2c3d". Reads all weights."""
    facts = {
        "config": without_defaults(directory.config),
        "labels": directory.labels,
        "tokenizer": json.loads(directory.tokenizer().to_str()),
    }
    return "m-" + _digest(facts, directory.tensors.values(), rounded=False)


def space_id(
    directory: "CheckpointDir", head: str | None = None, *, int8_experts: bool = False
) -> str | None:
    """Identity of the space that a contrastive head embeds into, like "s-3f9c0a1b2c3d"; None without one.

    Args:
        directory: the checkpoint.
        head: name of the contrastive head; by default the first one.
        int8_experts: the experts are quantised when they are loaded: another space than that of the same weights.
    """
    config = directory.config
    chosen = next((h for h in config.heads if h.task == "contrastive" and head in (None, h.name)), None)
    if chosen is None:
        return None
    encoder = {key: value for key, value in without_defaults(config).items() if key not in _TRAINING_ONLY}
    if int8_experts and config.expert_weights != "int8":
        encoder["expert_weights"] = "int8 when loaded"
    facts = {
        "encoder": encoder,
        "head": {key: value for key, value in without_defaults(chosen).items() if key != "name"},
        "tokenizer": json.loads(directory.tokenizer().to_str()),
    }
    prefix = f"heads.{chosen.name}."
    tensors = [
        # the head's name is no part of the space
        dataclasses.replace(entry, name="head." + name.removeprefix(prefix))
        if name.startswith(prefix)
        else entry
        for name, entry in directory.tensors.items()
        if name.startswith(prefix) or not name.startswith("heads.")
    ]
    return "s-" + _digest(facts, tensors, rounded=True)


def without_defaults(config: Any) -> dict[str, Any]:
    """The fields that differ from their defaults: a field that a later version adds changes no id."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        if dataclasses.is_dataclass(value):
            value = without_defaults(value)
        elif isinstance(value, tuple):
            value = [without_defaults(item) if dataclasses.is_dataclass(item) else item for item in value]
        values[field.name] = value
    return values


def _digest(facts: dict[str, Any], tensors: Iterable[TensorEntry], *, rounded: bool) -> str:
    entries = sorted(tensors, key=lambda entry: entry.name)
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    # hashing lets go of the interpreter lock, so a few threads hash a few tensors at once
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        for entry, digest in zip(
            entries, pool.map(lambda e: _tensor_digest(e, rounded), entries), strict=True
        ):
            dtype = "rounded" if rounded else entry.dtype
            total.update(f"\n{json.dumps(entry.name)} {dtype} {entry.shape} {digest}".encode())
    return total.hexdigest()[:_ID_DIGITS]


def _tensor_digest(entry: TensorEntry, rounded: bool) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(entry):
        digest.update(round_to_bf16(chunk, entry.dtype).tobytes() if rounded else chunk)
    return digest.hexdigest()


def _chunks(entry: TensorEntry) -> Iterator[bytes]:
    with entry.file.open("rb") as file:
        file.seek(entry.begin)
        left = entry.end - entry.begin
        while left:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise CheckpointError(f"{entry.file}: tensor {entry.name!r}: truncated while it was read")
            left -= len(chunk)
            yield chunk


def round_to_bf16(chunk: bytes, dtype: str) -> npt.NDArray[np.uint16]:
    """The bits of the values rounded to bfloat16, ties to even, every NaN as one."""
    if dtype == "I8":
        return np.frombuffer(chunk, dtype=np.uint8).astype(np.uint16)
    if dtype == "BF16":
        bits = np.frombuffer(chunk, dtype="<u2").copy()
    else:
        values = np.frombuffer(chunk, dtype="<f4" if dtype == "F32" else "<f2").astype("<f4")
        wide = values.view("<u4")
        bits = ((wide + (0x7FFF + (wide >> 16 & 1))) >> 16).astype("<u2")
        bits[np.isnan(values)] = 0x7FC0
    bits[(bits & 0x7FFF) > 0x7F80] = 0x7FC0
    return bits
