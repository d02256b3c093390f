"""Softmax attention over sequences of any lengths in one launch; logits never leave the chip.

A tile of queries lies in one sequence and walks over its keys in steps of one size, so a sequence's bits do not
depend on what stands beside it.
"""

# T = tokens, H = heads, C = width of a head, L = length of a sequence

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl
from torch import Tensor

from vlmoe_kernels.ops import Run
from vlmoe_kernels.triton.tiles import FP_FUSION, AttentionTile

LOG2_E = 1.4426950408889634

Table = npt.NDArray[np.int64]


@triton.jit
def attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    bias_ptr,
    out_ptr,
    tiles_ptr,
    scale,
    stride_q,
    stride_k,
    stride_v,
    stride_head,
    C,
    LOG2_E: tl.constexpr,
    BIASED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Some queries of one head of one sequence."""
    tile_ptr = tiles_ptr + tl.program_id(0) * 4
    head = tl.program_id(1)
    num_heads = tl.num_programs(1)
    first_query = tl.load(tile_ptr)
    start = tl.load(tile_ptr + 1)
    length = tl.load(tile_ptr + 2).to(tl.int32)
    first_bias = tl.load(tile_ptr + 3)
    rm = first_query.to(tl.int32) + tl.arange(0, BLOCK_M)
    rn = tl.arange(0, BLOCK_N)
    rc = tl.arange(0, BLOCK_C)
    is_query = rm < length
    is_c = rc < C
    mask = is_query[:, None] & is_c[None, :]
    # scalars carry the 64 bits; inside a sequence 32 are enough
    q_ptr += start * stride_q + head * stride_head
    k_ptr += start * stride_k + head * stride_head
    v_ptr += start * stride_v + head * stride_head
    out_ptr += (start * num_heads + head) * C
    if BIASED:
        bias_ptr += first_bias + head * length * length
    q = tl.load(q_ptr + rm[:, None] * stride_q + rc[None, :], mask=mask, other=0.0)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for first_key in range(0, length, BLOCK_N):
        keys = first_key + rn
        is_key = keys < length
        k = tl.load(
            k_ptr + keys[None, :] * stride_k + rc[:, None], mask=is_c[:, None] & is_key[None, :], other=0.0
        )
        logits = tl.dot(q, k, input_precision="ieee") * scale
        if BIASED:
            is_pair = is_query[:, None] & is_key[None, :]
            bias = tl.load(bias_ptr + rm[:, None] * length + keys[None, :], mask=is_pair, other=0.0)
            logits += bias.to(tl.float32)
        logits = tl.where(is_key[None, :], logits * LOG2_E, float("-inf"))
        # the first key of a step is a real one: the new maximum is finite
        higher = tl.maximum(highest, tl.max(logits, 1))
        weights = tl.exp2(logits - higher[:, None])
        fade = tl.exp2(highest - higher)
        total = total * fade + tl.sum(weights, 1)
        v = tl.load(
            v_ptr + keys[:, None] * stride_v + rc[None, :], mask=is_key[:, None] & is_c[None, :], other=0.0
        )
        acc = tl.dot(weights.to(v.dtype), v, acc * fade[:, None], input_precision="ieee")
        highest = higher
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + rm[:, None] * (num_heads * C) + rc[None, :], out, mask=mask)


def table_of(runs: Sequence[Run], num_heads: int, block: int) -> Table:
    """int64 [tiles, 4]: first query in its sequence, start and length of the sequence, start of its bias.

    A row of zeros is a tile without queries.
    """
    parts, start, first_bias = [np.zeros((0, 4), np.int64)], 0, 0
    for run in runs:
        first_query = np.arange(0, run.length, block)
        part = np.zeros((run.num_sequences, len(first_query), 4), np.int64)
        part[:, :, 0] = first_query
        part[:, :, 1] = start + run.length * np.arange(run.num_sequences)[:, None]
        part[:, :, 2] = run.length
        part[:, :, 3] = first_bias
        parts.append(part.reshape(-1, 4))
        start += run.num_sequences * run.length
        first_bias += num_heads * run.length**2
    return np.concatenate(parts)


@functools.lru_cache(maxsize=64)
def table_on(runs: tuple[Run, ...], num_heads: int, block: int, device: torch.device) -> Tensor:
    """The table on a device; kept, because every block of a network asks for that of the same runs."""
    table = torch.from_numpy(table_of(runs, num_heads, block))
    # page-locked: the copy then waits for nothing
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def attend(
    q_THC: Tensor,
    k_THC: Tensor,
    v_THC: Tensor,
    table: Tensor,
    bias: Sequence[Tensor] | None,
    tile: AttentionTile,
) -> Tensor:
    """See `ops.Backend.attention`; table: of the runs. Queries, keys and values may be views of one tensor."""
    num_tokens, num_heads, width = q_THC.shape
    q_THC, k_THC, v_THC = (_with_common_heads(t, q_THC) for t in (q_THC, k_THC, v_THC))
    out_THC = torch.empty(q_THC.shape, dtype=q_THC.dtype, device=q_THC.device)
    if num_tokens == 0:
        return out_THC
    flat = None if bias is None else torch.cat([b.reshape(-1) for b in bias])
    attention_kernel[(len(table), num_heads)](
        q_THC,
        k_THC,
        v_THC,
        flat,
        out_THC,
        table,
        width**-0.5,
        q_THC.stride(0),
        k_THC.stride(0),
        v_THC.stride(0),
        q_THC.stride(1),
        width,
        LOG2_E=LOG2_E,
        BIASED=bias is not None,
        BLOCK_C=max(16, triton.next_power_of_2(width)),
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        enable_fp_fusion=FP_FUSION,
    )
    return out_THC


def _with_common_heads(t: Tensor, q_THC: Tensor) -> Tensor:
    """The kernel knows one stride between heads, and a unit stride inside one."""
    return t if t.stride()[1:] == (t.shape[2], 1) else t.contiguous()
