"""Checkpoints that store only what fine-tuning changed and name the checkpoint that holds the rest.

VL-MoE freezes its experts in fine-tuning, so the checkpoints of several tasks share one set of experts.
`directory.open_directory` puts a delta and its base together again; `load_state` then reads both alike.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmoe_model.checkpoint.directory import CheckpointDir, open_directory
from vlmoe_model.checkpoint.fingerprint import model_id
from vlmoe_model.checkpoint.weights import DEFAULT_SHARD_BYTES, read_tensors, save
from vlmoe_model.config import ModelConfig
from vlmoe_model.tokenizer import Tokenizer


def save_delta(
    directory: str | Path,
    base: str | Path | CheckpointDir,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    labels: Mapping[str, Sequence[str]],
    *,
    card: str = "",
    metrics: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write the tensors of `state` whose values differ from the base's, and everything else of a checkpoint.

    A tensor with the base's values is left out even if the base stores it in another dtype. The base's place
    is noted when it lies beside the delta; otherwise whoever opens the delta says where to look (`bases`).

    Args:
        directory: where; as for `save`.
        base: the checkpoint that the rest comes from; it may be a delta itself.
        config: the network after fine-tuning; heads may have come or gone.
        state: every tensor of the network, changed or not.
        tokenizer: as for `save`.
        labels: as for `save`.
        card: as for `save`.
        metrics: as for `save`.
        dtype: as for `save`.
        max_shard_bytes: as for `save`.

    Raises:
        ValueError: the delta would replace its own base, or what `save` raises it for.
        CheckpointError: the base is broken, or what `save` raises it for.
    """
    opened = base if isinstance(base, CheckpointDir) else open_directory(base)
    here, there = Path(directory).resolve(), opened.path.resolve()
    if here == there:
        raise ValueError(f"{directory}: a delta cannot take the place of its own base")
    changed = dict(state)
    for entry, before in read_tensors(opened.tensors.values()):
        after = state.get(entry.name)
        if after is not None and _same_values(before, after, dtype):
            del changed[entry.name]
    reference: dict[str, Any] = {"model_id": model_id(opened)}
    if there != here.parent and there.is_relative_to(here.parent):
        reference["path"] = os.path.relpath(there, here)
    removed = sorted(name for name in opened.tensors if name not in state)
    if removed:
        reference["removed"] = removed
    save(
        directory,
        config,
        changed,
        tokenizer,
        labels,
        card=card,
        metrics=metrics,
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        base=reference,
    )


def _same_values(before: Tensor, after: Tensor, dtype: torch.dtype | None) -> bool:
    if before.shape != after.shape:
        return False
    stored = after.detach().to("cpu", dtype or after.dtype)
    # compared as bits: -0.0 and 0.0 are equal numbers but different weights, and a NaN equals nothing
    return torch.equal(before.float().view(torch.int32), stored.float().view(torch.int32))
