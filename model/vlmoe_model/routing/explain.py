"""From a batch's routings to those of one of its sequences."""

# T = tokens of the batch, P = tokens of one pool, K = choices per token

from collections.abc import Sequence

import numpy as np

from vlmoe_model.config import ModelConfig
from vlmoe_model.explanation import LayerRoutes
from vlmoe_model.packing import PAIR, TEXT, VISION, Packed
from vlmoe_model.routing.router import Routing


def routes_of(packed: Packed, log: Sequence[Routing], config: ModelConfig, place: int) -> list[LayerRoutes]:
    """What was chosen for the sequence at `place` of the batch.

    Args:
        packed: the batch.
        log: as the network filled it: for every mixture block the image router's choices, then the text router's.
        config: of the network.
        place: index into `packed.jobs`.
    """
    start, length = _span(packed, place)
    routings = iter(log)
    layers = []
    for block in sorted(config.moe_blocks):
        is_fused = config.vl_start is not None and block >= config.vl_start
        tokens = packed.fused if is_fused else packed.modality
        pools_T = tokens.pool_T[start : start + length].cpu().numpy().astype(np.uint8)
        experts_TK = np.full((length, config.top_k), -1, np.int64)
        gates_TK = np.zeros((length, config.top_k), np.float32)
        for pool in (VISION, TEXT):
            routing, rows_P = next(routings), tokens.rows[pool]
            mine_P = (rows_P >= start) & (rows_P < start + length)
            rows = (rows_P[mine_P] - start).cpu().numpy()
            found = routing.experts_TK[mine_P].cpu().numpy()
            experts_TK[rows, : found.shape[1]] = found
            gates_TK[rows, : found.shape[1]] = routing.gates_TK[mine_P].float().cpu().numpy()
        experts_TK[pools_T == PAIR, 0] = 0
        gates_TK[pools_T == PAIR, 0] = 1.0
        gates_TK[experts_TK < 0] = 0.0
        layers.append(LayerRoutes(block, pools_T, experts_TK, gates_TK))
    return layers


def _span(packed: Packed, place: int) -> tuple[int, int]:
    """First token and number of tokens of a sequence."""
    start, left = 0, place
    for run in packed.runs:
        if left < run.num_sequences:
            return start + left * run.length, run.length
        left -= run.num_sequences
        start += run.num_sequences * run.length
    raise IndexError(f"the batch has no sequence {place}")
