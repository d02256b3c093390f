"""One GEMM for all groups of weights: rows gathered by a plan, an epilogue, rows scattered back.

    x_TD, rows sorted by group --gather--> tile of one group --K loop--> + bias, GELU, * gate --> out

K runs in one order whatever the tile, and where several tiles are allowed their bits are the same (`tiles.py`): a row's
bits do not depend on its neighbours. Tiles are counted on the device from `offsets`, so the host waits for nothing.
"""

# R = routed rows, G = groups, N = output width, K = input width

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlmoe_kernels.triton.routes import Routes
from vlmoe_kernels.triton.tiles import FP_FUSION, Tile

# tiles of rows that walk over the columns together, so that they share weights in the cache
SWIZZLE = 8


@triton.jit
def find_rows(tile, offsets_ptr, NUM_GROUPS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_M: tl.constexpr):
    """Group, first row and end of the group, for a tile number; no rows for a tile behind the last."""
    g = tl.arange(0, BLOCK_G)
    starts = tl.load(offsets_ptr + g, mask=g < NUM_GROUPS, other=0)
    ends = tl.load(offsets_ptr + g + 1, mask=g < NUM_GROUPS, other=0)
    tiles = (ends - starts + BLOCK_M - 1) // BLOCK_M
    last = tl.cumsum(tiles, 0)
    group = tl.sum((last <= tile).to(tl.int32), 0)
    is_group = g == group
    start = tl.sum(tl.where(is_group, starts, 0), 0)
    end = tl.sum(tl.where(is_group, ends, 0), 0)
    first_tile = tl.sum(tl.where(is_group, last - tiles, 0), 0)
    return group, start + (tile - first_tile) * BLOCK_M, end


@triton.jit(do_not_specialize=["num_rows", "num_tiles"])
def gemm_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    order_ptr,
    offsets_ptr,
    gates_ptr,
    num_rows,
    num_tiles,
    N,
    K,
    stride_x,
    stride_weight,
    stride_out,
    NUM_GROUPS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    ROUTED: tl.constexpr,
    GATHER: tl.constexpr,
    SCATTER: tl.constexpr,
    BIASED: tl.constexpr,
    GELU: tl.constexpr,
    GATED: tl.constexpr,
    EVEN_K: tl.constexpr,
    SWIZZLE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of the output; weight [G, N, K] with rows and groups back to back."""
    pid = tl.program_id(0)
    width = SWIZZLE * tl.cdiv(N, BLOCK_N)
    first_tile = pid // width * SWIZZLE
    height = tl.minimum(num_tiles - first_tile, SWIZZLE)
    tile = first_tile + pid % width % height
    pid_n = pid % width // height
    if ROUTED:
        group, first_row, end = find_rows(tile, offsets_ptr, NUM_GROUPS, BLOCK_G, BLOCK_M)
    else:
        group = 0
        first_row = tile * BLOCK_M
        end = num_rows
    if first_row >= end:
        return

    rows = first_row + tl.arange(0, BLOCK_M)
    is_row = rows < end
    if GATHER or SCATTER:
        tokens = tl.load(order_ptr + rows, mask=is_row, other=0)
    in_rows = tokens if GATHER else rows.to(tl.int64)
    out_rows = tokens if SCATTER else rows.to(tl.int64)
    rn = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = rn < N
    rk = tl.arange(0, BLOCK_K)
    # int64: a pool of experts has more than 2^31 weights sooner than one thinks
    group = tl.cast(group, tl.int64)
    x_ptrs = x_ptr + in_rows[:, None] * stride_x + rk[None, :]
    weight_ptrs = weight_ptr + group * stride_weight + rn[None, :].to(tl.int64) * K + rk[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        if EVEN_K:
            x = tl.load(x_ptrs, mask=is_row[:, None], other=0.0)
            weight = tl.load(weight_ptrs, mask=is_column[None, :], other=0.0)
        else:
            is_k = rk < K - k
            x = tl.load(x_ptrs, mask=is_row[:, None] & is_k[None, :], other=0.0)
            weight = tl.load(weight_ptrs, mask=is_k[:, None] & is_column[None, :], other=0.0)
        # ieee: float32 stays float32, without TF32
        acc = tl.dot(x, weight, acc, input_precision="ieee")
        x_ptrs += BLOCK_K
        weight_ptrs += BLOCK_K

    if BIASED:
        bias = tl.load(bias_ptr + group * N + rn, mask=is_column, other=0.0)
        acc += bias.to(tl.float32)[None, :]
    if GELU:
        acc = 0.5 * acc * (1.0 + tl.erf(acc * 0.7071067811865476))
    if GATED:
        gates = tl.load(gates_ptr + rows, mask=is_row, other=0.0)
        acc *= gates.to(tl.float32)[:, None]
    out_ptrs = out_ptr + out_rows[:, None] * stride_out + rn[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])


def grouped_gemm(
    x: Tensor,
    weight_GNK: Tensor,
    bias_GN: Tensor | None,
    tile: Tile,
    *,
    out: Tensor,
    routes: Routes | None = None,
    gather: bool = False,
    scatter: bool = False,
    gelu: bool = False,
    gates_R: Tensor | None = None,
) -> Tensor:
    """Rows of x through the matrix of their group, into `out`.

    Args:
        x: [tokens, K] with `gather`, else [R, K]; rows with unit stride.
        weight_GNK: contiguous, of the dtype of x.
        bias_GN: added to the product.
        tile: part of the output that one program computes.
        out: [tokens, N] with `scatter`, else [R, N].
        routes: which rows belong to which group; None for one group that owns all.
        gather: row r is token order_R[r] of x.
        scatter: row r is written to token order_R[r] of `out`.
        gelu: apply exact GELU.
        gates_R: factor of each row.
    """
    num_groups, n, k = weight_GNK.shape
    num_rows = x.shape[0] if routes is None else routes.order_R.shape[0]
    if num_rows == 0:
        return out
    num_tiles = count_tiles(num_rows, num_groups, tile.block_m)
    grid = (num_tiles * triton.cdiv(n, tile.block_n),)
    gemm_kernel[grid](
        x,
        weight_GNK,
        bias_GN,
        out,
        None if routes is None else routes.order_R,
        None if routes is None else routes.offsets,
        gates_R,
        num_rows,
        num_tiles,
        n,
        k,
        x.stride(0),
        weight_GNK.stride(0),
        out.stride(0),
        NUM_GROUPS=num_groups,
        BLOCK_G=block_of(num_groups),
        ROUTED=routes is not None,
        GATHER=gather,
        SCATTER=scatter,
        BIASED=bias_GN is not None,
        GELU=gelu,
        GATED=gates_R is not None,
        EVEN_K=k % tile.block_k == 0,
        SWIZZLE=SWIZZLE,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        enable_fp_fusion=FP_FUSION,
    )
    return out


def count_tiles(num_rows: int, num_groups: int, block: int) -> int:
    """Tiles that are enough however the rows fall on the groups; those that own no rows return at once."""
    return (num_rows + min(num_rows, num_groups) * (block - 1)) // block


def block_of(num_groups: int) -> int:
    """The power of two that holds a value per group."""
    return max(2, int(triton.next_power_of_2(num_groups)))


def empty_rows(x: Tensor, num_rows: int, width: int) -> Tensor:
    """Memory for an output."""
    return torch.empty(num_rows, width, dtype=x.dtype, device=x.device)
