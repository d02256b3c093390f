"""The grouped feed-forward with gradients: its two products in Triton, what lies between them in plain torch.

    x_TD --gather--> x_RD --product--> GELU, (LayerNorm) --product--> * gate --sum of choices--> y_TD

Gather and sum are each other's backward, and a group's weight gradient is one program's sum over its rows in order:
no atomics, so a step has the same bits again.
"""

# T = tokens, R = routed rows, G = groups, N = output width, K = input width, D = model width, F = hidden width

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from vlmoe_kernels.ops import GroupedOp, Pool
from vlmoe_kernels.plan import RoutePlan
from vlmoe_kernels.triton.gemm import empty_rows, grouped_gemm
from vlmoe_kernels.triton.routes import Routes
from vlmoe_kernels.triton.rows import combine
from vlmoe_kernels.triton.tiles import FP_FUSION, gemm_tile


@triton.jit
def weight_gradient_kernel(
    dy_ptr,
    x_ptr,
    offsets_ptr,
    dweight_ptr,
    dbias_ptr,
    N,
    K,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One tile of one group's weight gradient, and with the first columns its bias gradient; zeros without rows."""
    group = tl.program_id(0)
    num_k = tl.cdiv(K, BLOCK_K)
    pid_n = tl.program_id(1) // num_k
    pid_k = tl.program_id(1) % num_k
    start = tl.load(offsets_ptr + group)
    end = tl.load(offsets_ptr + group + 1)
    rn = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    rk = pid_k * BLOCK_K + tl.arange(0, BLOCK_K)
    is_n, is_k = rn < N, rk < K
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    dbias = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(start, end, BLOCK_R):
        rows = first + tl.arange(0, BLOCK_R)
        is_row = rows < end
        rows = rows.to(tl.int64)
        dy = tl.load(
            dy_ptr + rows[None, :] * N + rn[:, None], mask=is_n[:, None] & is_row[None, :], other=0.0
        )
        x = tl.load(x_ptr + rows[:, None] * K + rk[None, :], mask=is_row[:, None] & is_k[None, :], other=0.0)
        acc = tl.dot(dy, x, acc, input_precision="ieee")
        dbias += tl.sum(dy.to(tl.float32), 1)
    group = group.to(tl.int64)
    dweight_ptrs = dweight_ptr + (group * N + rn[:, None]) * K + rk[None, :]
    tl.store(dweight_ptrs, acc.to(dweight_ptr.dtype.element_ty), mask=is_n[:, None] & is_k[None, :])
    if pid_k == 0:
        tl.store(dbias_ptr + group * N + rn, dbias.to(dbias_ptr.dtype.element_ty), mask=is_n)


def grouped_ffn_with_gradients(pool: Pool, norm_eps: float) -> GroupedOp:
    """`ops.Backend.grouped_ffn` of pools side by side, differentiable in x, the gates and every weight."""
    num_groups = pool.w1.shape[0]

    def op(x_TD: Tensor, plan: RoutePlan) -> Tensor:
        routes = Routes.of(plan, num_groups)
        of_x = x_TD.device.type
        if torch.is_autocast_enabled(of_x):
            x_TD = x_TD.to(torch.get_autocast_dtype(of_x))
        w1, b1, w2, b2 = (t.to(x_TD.dtype) for t in pool[:4] if t is not None)
        x_RD = _gather(x_TD, routes)
        h_RF = F.gelu(_multiply(x_RD, w1, b1, routes))
        if pool.mid_weight is not None and pool.mid_bias is not None:
            h_RF = _norm(h_RF, pool.mid_weight, pool.mid_bias, norm_eps, plan)
        y_RD = _multiply(h_RF, w2, b2, routes)
        if routes.gates_R is not None:
            y_RD = (y_RD * routes.gates_R.unsqueeze(1)).to(y_RD.dtype)
        return _sum(y_RD, routes)

    return op


def _norm(h_RF: Tensor, weight_GF: Tensor, bias_GF: Tensor, eps: float, plan: RoutePlan) -> Tensor:
    """LayerNorm by group. A product with one-hot rows picks the group's values, and its backward is a small GEMM."""
    sizes = torch.tensor(plan.sizes, device=h_RF.device)
    group_R = torch.arange(len(plan.sizes), device=h_RF.device).repeat_interleave(
        sizes, output_size=h_RF.shape[0]
    )
    onehot_RG = F.one_hot(group_R, len(plan.sizes)).to(weight_GF.dtype)
    with torch.autocast(h_RF.device.type, enabled=False):
        normed_RF = F.layer_norm(h_RF.to(weight_GF.dtype), h_RF.shape[1:], None, None, eps)
        return torch.addcmul(onehot_RG @ bias_GF, normed_RF, onehot_RG @ weight_GF).to(h_RF.dtype)


class _Gather(torch.autograd.Function):
    """The token of every row."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, routes: Routes) -> Tensor:
        ctx.routes = routes
        return x_TD.index_select(0, routes.order_R)

    @staticmethod
    def backward(ctx: Any, dx_RD: Tensor) -> tuple[Tensor, None]:
        return combine(dx_RD.contiguous(), ctx.routes.slots_TK), None


class _Sum(torch.autograd.Function):
    """The sum of every token's rows."""

    @staticmethod
    def forward(ctx: Any, y_RD: Tensor, routes: Routes) -> Tensor:
        ctx.routes = routes
        return combine(y_RD.contiguous(), routes.slots_TK)

    @staticmethod
    def backward(ctx: Any, dy_TD: Tensor) -> tuple[Tensor, None]:
        return dy_TD.index_select(0, ctx.routes.order_R), None


class _Product(torch.autograd.Function):
    """Rows through the matrix of their group."""

    @staticmethod
    def forward(ctx: Any, x_RK: Tensor, weight_GNK: Tensor, bias_GN: Tensor, routes: Routes) -> Tensor:
        ctx.save_for_backward(x_RK, weight_GNK)
        ctx.routes = routes
        return _product(x_RK, weight_GNK.contiguous(), bias_GN.contiguous(), routes)

    @staticmethod
    def backward(ctx: Any, dy_RN: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x_RK, weight_GNK = ctx.saved_tensors
        num_groups, n, k = weight_GNK.shape
        dy_RN = dy_RN.contiguous()
        # the kernel reads K as the inner dimension: one copy of the weights, small beside the product
        dx_RK = _product(dy_RN, weight_GNK.mT.contiguous(), None, ctx.routes)
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            # frozen experts
            return dx_RK, None, None, None
        dweight_GNK = torch.empty(weight_GNK.shape, dtype=x_RK.dtype, device=x_RK.device)
        dbias_GN = torch.empty(num_groups, n, dtype=x_RK.dtype, device=x_RK.device)
        tile = gemm_tile(x_RK.device, x_RK.dtype, num_groups, n, k)
        grid = (num_groups, triton.cdiv(n, tile.block_m) * triton.cdiv(k, tile.block_n))
        weight_gradient_kernel[grid](
            dy_RN,
            x_RK.contiguous(),
            ctx.routes.offsets,
            dweight_GNK,
            dbias_GN,
            n,
            k,
            BLOCK_N=tile.block_m,
            BLOCK_K=tile.block_n,
            BLOCK_R=tile.block_k,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            enable_fp_fusion=FP_FUSION,
        )
        return dx_RK, dweight_GNK, dbias_GN, None


# typed: torch's `apply` is not
_gather: Callable[..., Tensor] = _Gather.apply
_sum: Callable[..., Tensor] = _Sum.apply
_multiply: Callable[..., Tensor] = _Product.apply


def _product(x_RK: Tensor, weight_GNK: Tensor, bias_GN: Tensor | None, routes: Routes) -> Tensor:
    num_groups, n, k = weight_GNK.shape
    tile = gemm_tile(x_RK.device, x_RK.dtype, num_groups, n, k)
    out_RN = empty_rows(x_RK, x_RK.shape[0], n)
    return grouped_gemm(x_RK, weight_GNK, bias_GN, tile, out=out_RN, routes=routes)
