"""What a batch costs at least: multiply-adds, and bytes of weights that must be read once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmoe_model.config import ModelConfig
from vlmoe_model.layers import Linear
from vlmoe_model.packing import PAIR, Packed
from vlmoe_model.routing import Routing
from vlmoe_model.stems import STEMS


@dataclass(frozen=True, slots=True)
class Work:
    """Of one forward pass of the encoder and its embeddings."""

    multiply_adds: int
    num_bytes: int


def work_of(packed: Packed, config: ModelConfig, item_bytes: int, log: Sequence[Routing]) -> Work:
    """Count it.

    Args:
        packed: the batch.
        config: the network.
        item_bytes: of one weight of the encoder's matrices.
        log: what the routers of every mixture chose, V then T.
    """
    dim, num_tokens = config.dim, packed.num_tokens
    attention = 4 * dim * dim
    logits = 2 * dim * sum(run.num_sequences * run.length**2 for run in packed.runs)
    expert = 2 * dim * config.ffn_dim
    adds = items = 0
    routings = iter(log)
    groups = sum(map(_is_used, packed.modality.rows)) if config.multiway_attention else 1
    for block in range(config.num_layers):
        is_fused = config.vl_start is not None and block >= config.vl_start
        tokens = packed.fused if is_fused else packed.modality
        adds += num_tokens * attention + logits
        items += groups * attention
        for pool, rows in enumerate(tokens.rows):
            if block in config.moe_blocks and pool != PAIR:
                chosen = next(routings).experts_TK
                chosen = chosen[chosen >= 0]
                adds += chosen.numel() * expert + len(rows) * dim * config.num_experts
                items += len(set(chosen.flatten().tolist())) * expert
            else:
                adds += len(rows) * expert
                items += _is_used(rows) * expert
    stem_adds, stem_items = _stem(packed, config)
    return Work(adds + stem_adds, items * item_bytes + stem_items * 4)


def _is_used(rows: Tensor) -> bool:
    return len(rows) > 0


def _stem(packed: Packed, config: ModelConfig) -> tuple[int, int]:
    """Multiply-adds and weights of the stem's matrices, which every patch goes through."""
    num_patches = sum(run.num_sequences * (run.num_image - 1) for run in packed.runs if run.num_image)
    with torch.device("meta"):
        stem = STEMS[config.stem](config)
    size = sum(each.weight.numel() for each in stem.modules() if isinstance(each, Linear))
    return num_patches * size, size if num_patches else 0
