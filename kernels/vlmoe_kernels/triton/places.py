"""A row for every choice, rows by group and in a group by token: from counts of each tile of tokens, without a sort.

counts --scan_kernel--> offsets of the groups, and of each tile in them
       --place_kernel-> order_R, gates_R, slots_TK
"""

# T = tokens, K = choices per token, R = routed rows, G = groups

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlmoe_kernels.triton.routes import Routes

# tiles that the scan reads at once
BLOCK_TILES = 16


@triton.jit
def tokens_of(tile, num_tokens, BLOCK_T: tl.constexpr):
    """The tokens of a tile, and which of them there are."""
    tokens = tile * BLOCK_T + tl.arange(0, BLOCK_T)
    return tokens, tokens < num_tokens


@triton.jit(do_not_specialize=["num_tiles"])
def scan_kernel(
    counts_ptr,
    offsets_ptr,
    load_ptr,
    num_tiles,
    NUM_ROUTED: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """Counts of each tile to the rows of the tiles before it, in place; where each group starts; what was counted."""
    g = tl.arange(0, BLOCK_G)
    total = tl.zeros((BLOCK_G,), tl.int32)
    for first in range(0, num_tiles, BLOCK_TILES):
        tiles = first + tl.arange(0, BLOCK_TILES)
        ptrs = counts_ptr + tiles[:, None] * NUM_GROUPS + g[None, :]
        mask = (tiles[:, None] < num_tiles) & (g[None, :] < NUM_GROUPS)
        counts = tl.load(ptrs, mask=mask, other=0)
        tl.store(ptrs, total[None, :] + tl.cumsum(counts, 0) - counts, mask=mask)
        total += tl.sum(counts, 0)
    tl.store(offsets_ptr + g + 1, tl.cumsum(total, 0), mask=g < NUM_GROUPS)
    tl.store(offsets_ptr, 0)
    tl.store(load_ptr + g, tl.load(load_ptr + g, mask=g < NUM_GROUPS, other=0) + total, mask=g < NUM_GROUPS)
    has_rows = (tl.sum(tl.where(g < NUM_ROUTED, total, 0), 0) > 0).to(tl.int64)
    tl.store(load_ptr + NUM_GROUPS, tl.load(load_ptr + NUM_GROUPS) + has_rows)


@triton.jit(do_not_specialize=["num_tokens"])
def place_kernel(
    groups_ptr,
    gates_ptr,
    before_ptr,
    offsets_ptr,
    order_ptr,
    gates_out_ptr,
    slots_ptr,
    num_tokens,
    NUM_GROUPS: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """The row of every kept choice: rows of a group in the order of tokens (a token chooses a group once)."""
    tile = tl.program_id(0)
    tokens, is_token = tokens_of(tile, num_tokens, BLOCK_T)
    g = tl.arange(0, BLOCK_G)
    is_group = g < NUM_GROUPS
    chosen = tl.zeros((BLOCK_T, BLOCK_G), tl.int32)
    for k in tl.static_range(TOP_K):
        group = tl.load(groups_ptr + tokens * TOP_K + k, mask=is_token, other=-1)
        chosen += (g[None, :] == group[:, None]).to(tl.int32)
    start = tl.load(offsets_ptr + g, mask=is_group, other=0)
    start += tl.load(before_ptr + tile * NUM_GROUPS + g, mask=is_group, other=0)
    rows = start[None, :] + tl.cumsum(chosen, 0) - chosen
    for k in tl.static_range(TOP_K):
        group = tl.load(groups_ptr + tokens * TOP_K + k, mask=is_token, other=-1)
        gate = tl.load(gates_ptr + tokens * TOP_K + k, mask=is_token, other=0.0)
        row = tl.sum(tl.where(g[None, :] == group[:, None], rows, 0), 1)
        is_kept = group >= 0
        tl.store(order_ptr + row, tokens.to(tl.int64), mask=is_kept)
        tl.store(gates_out_ptr + row, gate, mask=is_kept)
        tl.store(slots_ptr + tokens * TOP_K + k, tl.where(is_kept, row, -1).to(tl.int64), mask=is_token)


def place(
    groups_TK: Tensor,
    gates_TK: Tensor,
    counts: Tensor,
    load: Tensor,
    *,
    num_routed: int,
    complete: bool,
    block_t: int,
    shape: Mapping[str, int | bool],
) -> Routes:
    """Give every choice its row.

    Args:
        groups_TK: int32, the group of each choice, or -1.
        gates_TK: float32.
        counts: int32 [tiles, G], rows of each tile of tokens; overwritten.
        load: int64 [G + 1]; the rows of each group are added to it, and 1 behind them if routed groups have any.
        num_routed: groups that somebody chooses; they are the first ones.
        complete: every token has exactly one row.
        block_t: tokens of a tile.
        shape: what all launches have in common.
    """
    (num_tokens, top_k), (num_tiles, num_groups), device = groups_TK.shape, counts.shape, counts.device
    offsets = torch.empty(num_groups + 1, dtype=torch.int32, device=device)
    order_R = torch.empty(num_tokens * top_k, dtype=torch.int64, device=device)
    slots_TK = torch.empty(num_tokens, top_k, dtype=torch.int64, device=device)
    gates_R = torch.empty(num_tokens * top_k, dtype=torch.float32, device=device)
    scan_kernel[(1,)](
        counts, offsets, load, num_tiles, NUM_ROUTED=num_routed, BLOCK_TILES=BLOCK_TILES, **shape
    )
    if num_tokens:
        place_kernel[(num_tiles,)](
            groups_TK,
            gates_TK,
            counts,
            offsets,
            order_R,
            gates_R,
            slots_TK,
            num_tokens,
            TOP_K=top_k,
            BLOCK_T=block_t,
            **shape,
        )
    return Routes(order_R, offsets, slots_TK, gates_R, complete)
