"""Work on single rows: the norm between the two GEMMs, and the sum of a token's choices."""

# T = tokens, K = choices per token, R = routed rows, D = model width, F = hidden width

import triton
import triton.language as tl
from torch import Tensor

from vlmoe_kernels.triton.gemm import block_of, empty_rows
from vlmoe_kernels.triton.routes import Routes
from vlmoe_kernels.triton.tiles import FP_FUSION


@triton.jit
def norm_kernel(
    h_ptr,
    weight_ptr,
    bias_ptr,
    offsets_ptr,
    width,
    eps,
    NUM_GROUPS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """LayerNorm of one row, in place, with the scale and shift of its group."""
    row = tl.program_id(0)
    g = tl.arange(0, BLOCK_G)
    ends = tl.load(offsets_ptr + g + 1, mask=g < NUM_GROUPS, other=0)
    group = tl.sum(((ends <= row) & (g < NUM_GROUPS)).to(tl.int32), 0)
    if group == NUM_GROUPS:
        return
    column = tl.arange(0, BLOCK)
    is_column = column < width
    h_ptrs = h_ptr + row.to(tl.int64) * width + column
    h = tl.load(h_ptrs, mask=is_column, other=0.0).to(tl.float32)
    centred = tl.where(is_column, h - tl.sum(h, 0) / width, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    weight = tl.load(weight_ptr + group * width + column, mask=is_column, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + group * width + column, mask=is_column, other=0.0).to(tl.float32)
    tl.store(h_ptrs, (centred * scale * weight + bias).to(h_ptr.dtype.element_ty), mask=is_column)


@triton.jit
def combine_kernel(y_ptr, slots_ptr, out_ptr, width, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    """One token's choices, summed from the first to the last; a choice without a row adds nothing."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    is_column = column < width
    total = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(TOP_K):
        slot = tl.load(slots_ptr + token * TOP_K + k)
        if slot >= 0:
            total += tl.load(y_ptr + slot * width + column, mask=is_column, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * width + column, total.to(out_ptr.dtype.element_ty), mask=is_column)


def norm_(h_RF: Tensor, weight_GF: Tensor, bias_GF: Tensor, eps: float, routes: Routes) -> None:
    """LayerNorm of the routed rows, in place. Rows of dropped choices are left as they are."""
    num_rows, width = h_RF.shape
    num_groups = weight_GF.shape[0]
    if num_rows == 0:
        return
    norm_kernel[(num_rows,)](
        h_RF,
        weight_GF,
        bias_GF,
        routes.offsets,
        width,
        eps,
        NUM_GROUPS=num_groups,
        BLOCK_G=block_of(num_groups),
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
        enable_fp_fusion=FP_FUSION,
    )


def combine(y_RD: Tensor, slots_TK: Tensor) -> Tensor:
    """[R, D] -> [T, D]: the rows of a token's choices, added in order."""
    num_tokens, top_k = slots_TK.shape
    width = y_RD.shape[1]
    out_TD = empty_rows(y_RD, num_tokens, width)
    if num_tokens == 0:
        return out_TD
    combine_kernel[(num_tokens,)](
        y_RD,
        slots_TK,
        out_TD,
        width,
        TOP_K=top_k,
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
        enable_fp_fusion=FP_FUSION,
    )
    return out_TD
