"""Inference on GPUs (CUDA and ROCm) in Triton; under TRITON_INTERPRET=1 the same kernels run on CPU tensors, slowly.

    norms.py (sum, norm) -> gate.py -> Routes -> gemm.py (gather, GELU) -> rows.py (norm) -> gemm.py (gate, scatter)
        -> rows.py (sum of choices)

Nothing waits for the device: rows of each group are counted there. Weights stay in their layout; pools are laid one
behind the other. `routed_ffn` routes and computes a whole mixture, which the other backends leave to the caller.
"""

# letters: see ops.py

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlmoe_kernels.ops import AddNormOp, GroupedOp, LinearOp, Pool, RoutedOp, Run
from vlmoe_kernels.plan import RoutePlan
from vlmoe_kernels.triton.flash import Table, attend, table_of, table_on
from vlmoe_kernels.triton.gate import Gate
from vlmoe_kernels.triton.gemm import empty_rows, grouped_gemm
from vlmoe_kernels.triton.norms import AddNorm
from vlmoe_kernels.triton.routes import Routes
from vlmoe_kernels.triton.rows import combine, norm_
from vlmoe_kernels.triton.tiles import attention_tile, gemm_tiles
from vlmoe_kernels.triton.training import grouped_ffn_with_gradients

Rows = Callable[[Tensor, Routes], Tensor]


def linear(weight: Tensor, bias: Tensor | None) -> LinearOp:
    """See `ops.Backend.linear`."""
    weight_1OD = weight.detach().contiguous().unsqueeze(0)
    bias_1O = None if bias is None else bias.detach().contiguous().unsqueeze(0)
    out_dim, in_dim = weight.shape
    tiles = gemm_tiles(weight.device, weight.dtype, 1, out_dim, in_dim)

    def op(x_TD: Tensor) -> Tensor:
        x_TD, num_rows = _with_unit_stride(x_TD), x_TD.shape[0]
        tile = tiles.fitting(num_rows, out_dim)
        return grouped_gemm(x_TD, weight_1OD, bias_1O, tile, out=empty_rows(x_TD, num_rows, out_dim))

    return op


def grouped_linear(weight_GOD: Tensor, bias_GO: Tensor | None) -> GroupedOp:
    """See `ops.Backend.grouped_linear`."""
    weight_GOD = weight_GOD.detach().contiguous()
    bias_GO = None if bias_GO is None else bias_GO.detach().contiguous()
    num_groups, out_dim, in_dim = weight_GOD.shape
    tiles = gemm_tiles(weight_GOD.device, weight_GOD.dtype, num_groups, out_dim, in_dim)

    def op(x_TD: Tensor, plan: RoutePlan) -> Tensor:
        routes = Routes.of(plan, num_groups)
        x_TD = _with_unit_stride(x_TD)
        out_TO = _for_tokens(x_TD, x_TD.shape[0], out_dim, routes)
        tile = tiles.fitting(routes.order_R.shape[0], out_dim)
        return grouped_gemm(
            x_TD, weight_GOD, bias_GO, tile, out=out_TO, routes=routes, gather=True, scatter=True
        )

    return op


def grouped_ffn(pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
    """See `ops.Backend.grouped_ffn`. Differentiable, where x, the gates or a weight asks for gradients."""
    pool = _side_by_side(pools)
    rows, learning = _ffn(pool, norm_eps), grouped_ffn_with_gradients(pool, norm_eps)
    num_groups = pool.w1.shape[0]

    def op(x_TD: Tensor, plan: RoutePlan) -> Tensor:
        tensors = (x_TD, plan.gates_R, *pool)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            return learning(x_TD, plan)
        return rows(x_TD, Routes.of(plan, num_groups))

    return op


def learning_ffn(pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
    """See `ops.LearningBackend.learning_ffn`."""
    return grouped_ffn_with_gradients(_side_by_side(pools), norm_eps)


def routed_ffn(
    pools: Sequence[Pool], routers: Sequence[Tensor | None], norm_eps: float, *, top_k: int, by_score: bool
) -> tuple[GroupedOp, RoutedOp]:
    """See `ops.RoutingBackend.routed_ffn`."""
    pool = Pool._make(t if t is None else t.detach() for t in _side_by_side(pools))
    num_groups, _, dim = pool.w1.shape
    rows = _ffn(pool, norm_eps)
    gate = Gate.of(routers, dim, top_k=top_k, by_score=by_score, device=pool.w1.device)
    return lambda x_TD, plan: rows(x_TD, Routes.of(plan, num_groups)), _Routed(rows, gate, pool.w1.dtype)


class _Routed:
    """See `ops.RoutedOp`."""

    def __init__(self, rows: Rows, gate: Gate, dtype: torch.dtype) -> None:
        self._rows, self._gate, self._dtype = rows, gate, dtype

    def __call__(
        self, x_TD: Tensor, pool_T: Tensor, limits: Tensor | None, rounded_TD: Tensor | None = None, /
    ) -> Tensor:
        x_TD = _with_unit_stride(x_TD)
        routes = self._gate(x_TD, pool_T, limits)
        return self._rows((x_TD if rounded_TD is None else rounded_TD).to(self._dtype), routes)

    def take_load(self) -> tuple[list[int], int]:
        *rows_G, num_calls = self._gate.load.tolist()
        self._gate.load.zero_()
        return rows_G, num_calls


def add_norm(
    weight_GD: Tensor, bias_GD: Tensor, eps: float, dtype: torch.dtype, *, exact: bool = False
) -> AddNormOp:
    """See `ops.NormBackend.add_norm`. A row of a negative group has the norm of the first one."""
    return AddNorm(weight_GD, bias_GD, eps, dtype, exact=exact)


def attention(
    q_THC: Tensor, k_THC: Tensor, v_THC: Tensor, runs: Sequence[Run], bias: Sequence[Tensor] | None
) -> Tensor:
    """See `ops.Backend.attention`."""
    tile = attention_tile(q_THC.device, q_THC.dtype, biased=bias is not None)
    table = table_on(tuple(runs), q_THC.shape[1], tile.block_m, q_THC.device)
    return attend(q_THC, k_THC, v_THC, table, bias, tile)


def attention_table(runs: Sequence[Run], num_heads: int, dtype: torch.dtype, device: torch.device) -> Table:
    """See `ops.TableBackend.attention_table`."""
    return table_of(runs, num_heads, attention_tile(device, dtype, biased=False).block_m)


def attention_by_table(q_THC: Tensor, k_THC: Tensor, v_THC: Tensor, table: Tensor) -> Tensor:
    """See `ops.TableBackend.attention_by_table`."""
    return attend(q_THC, k_THC, v_THC, table, None, attention_tile(q_THC.device, q_THC.dtype, biased=False))


def _side_by_side(pools: Sequence[Pool]) -> Pool:
    """All experts in one pool, for one launch. A single pool is taken as it is."""
    fields = [[t for t in of_pool if t is not None] for of_pool in zip(*pools, strict=True)]
    return Pool._make(
        None if not ts else (ts[0] if len(ts) == 1 else torch.cat(ts)).contiguous() for ts in fields
    )


def _ffn(pool: Pool, norm_eps: float) -> Rows:
    num_groups, hidden, dim = pool.w1.shape
    up_tiles = gemm_tiles(pool.w1.device, pool.w1.dtype, num_groups, hidden, dim)
    down_tiles = gemm_tiles(pool.w2.device, pool.w2.dtype, num_groups, dim, hidden)

    def rows(x_TD: Tensor, routes: Routes) -> Tensor:
        x_TD = _with_unit_stride(x_TD)
        num_tokens, num_rows = x_TD.shape[0], routes.order_R.shape[0]
        up, down = up_tiles.fitting(num_rows, hidden), down_tiles.fitting(num_rows, dim)
        h_RF = empty_rows(x_TD, num_rows, hidden)
        grouped_gemm(x_TD, pool.w1, pool.b1, up, out=h_RF, routes=routes, gather=True, gelu=True)
        if pool.mid_weight is not None and pool.mid_bias is not None:
            norm_(h_RF, pool.mid_weight, pool.mid_bias, norm_eps, routes)
        if routes.slots_TK.shape[1] == 1:
            # one choice: its row is the token's
            y_TD = _for_tokens(x_TD, num_tokens, dim, routes)
            return grouped_gemm(
                h_RF, pool.w2, pool.b2, down, out=y_TD, routes=routes, scatter=True, gates_R=routes.gates_R
            )
        y_RD = empty_rows(x_TD, num_rows, dim)
        grouped_gemm(h_RF, pool.w2, pool.b2, down, out=y_RD, routes=routes, gates_R=routes.gates_R)
        return combine(y_RD, routes.slots_TK)

    return rows


def _for_tokens(x: Tensor, num_tokens: int, width: int, routes: Routes) -> Tensor:
    """An output whose rows are all written, or are zeros where no row will be."""
    out = empty_rows(x, num_tokens, width)
    return out if routes.complete else out.zero_()


def _with_unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
