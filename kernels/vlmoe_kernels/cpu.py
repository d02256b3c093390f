"""Inference on CPU: oneDNN weights packed once, batch-invariant.

oneDNN's packed GEMM uses wider vectors than the library behind `F.linear` in fp32 (`kernels/bench/` measures both).
Its result for a row does not depend on how many rows there are, except at one row: a single row is computed as two.
The packing operators are private to torch; where they are missing, plain `F.linear` on padded rows takes over.
"""

# letters: see ops.py

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_kernels import eager
from vlmoe_kernels.ops import GroupedOp, LinearOp, Pool, Run

# below this many rows plain fp32 GEMMs pick other kernels, and with them other bits
PLAIN_MIN_ROWS = 16

# bytes that a head's row is padded to: where its matrices start must not depend on their number
ROW_BYTES = 64

# rows the packed layout is chosen for; the layout works for any number
PACK_ROWS = 64


def has_packing(dtype: torch.dtype) -> bool:
    """Whether this torch offers oneDNN weight packing for that dtype on this machine."""
    ops = torch.ops.mkldnn
    if not hasattr(ops, "_reorder_linear_weight") or not hasattr(ops, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(ops._is_mkldnn_bf16_supported()))


def linear(weight: Tensor, bias: Tensor | None) -> LinearOp:
    """See `ops.Backend.linear`."""
    return _linear(weight, bias, gelu=False)


def _linear(weight: Tensor, bias: Tensor | None, *, gelu: bool) -> LinearOp:
    if has_packing(weight.dtype):
        return _packed_linear(weight, bias, gelu=gelu)
    return _plain_linear(weight, bias, gelu=gelu)


def _packed_linear(weight: Tensor, bias: Tensor | None, *, gelu: bool) -> LinearOp:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), PACK_ROWS)
    bias = None if bias is None else bias.detach().contiguous()
    activation, algorithm = ("gelu", "none") if gelu else ("none", "")

    def op(x_TD: Tensor) -> Tensor:
        num_rows = x_TD.shape[0]
        if num_rows == 1:
            x_TD = x_TD.expand(2, -1)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x_TD.contiguous(), packed, bias, activation, [], algorithm
        )
        return y[:num_rows]

    return op


def _plain_linear(weight: Tensor, bias: Tensor | None, *, gelu: bool) -> LinearOp:
    weight = weight.detach()
    bias = None if bias is None else bias.detach()

    def op(x_TD: Tensor) -> Tensor:
        num_rows = x_TD.shape[0]
        if num_rows < PLAIN_MIN_ROWS:
            x_TD = F.pad(x_TD, (0, 0, 0, PLAIN_MIN_ROWS - num_rows))
        y = F.linear(x_TD, weight, bias)[:num_rows]
        return F.gelu(y) if gelu else y

    return op


def grouped_linear(weight_GOD: Tensor, bias_GO: Tensor | None) -> GroupedOp:
    """See `ops.Backend.grouped_linear`."""
    ops = [linear(weight_GOD[g], None if bias_GO is None else bias_GO[g]) for g in range(weight_GOD.shape[0])]
    out_dim = weight_GOD.shape[1]
    return lambda x_TD, plan: eager.routed(x_TD, plan, ops, out_dim)


def grouped_ffn(pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
    """See `ops.Backend.grouped_ffn`."""
    ops = [_expert(pool, e, norm_eps) for pool in pools for e in range(pool.w1.shape[0])]
    return lambda x_TD, plan: eager.routed(x_TD, plan, ops, x_TD.shape[1])


def _expert(pool: Pool, e: int, norm_eps: float) -> LinearOp:
    up = _linear(pool.w1[e], pool.b1[e], gelu=True)
    down = linear(pool.w2[e], pool.b2[e])
    if pool.mid_weight is None or pool.mid_bias is None:
        return lambda x_RD: down(up(x_RD))
    mid_weight, mid_bias = pool.mid_weight[e].detach(), pool.mid_bias[e].detach()
    return lambda x_RD: down(F.layer_norm(up(x_RD), mid_weight.shape, mid_weight, mid_bias, norm_eps))


def attention(
    q_THC: Tensor, k_THC: Tensor, v_THC: Tensor, runs: Sequence[Run], bias: Sequence[Tensor] | None
) -> Tensor:
    """See `ops.Backend.attention`. Written-out attention is also the faster one here (twice, in bf16)."""
    num_heads, width = q_THC.shape[1:]
    q_THC = q_THC * width**-0.5
    extra = -width % (ROW_BYTES // q_THC.element_size())
    if extra:
        q_THC, k_THC, v_THC = (F.pad(t, (0, extra)) for t in (q_THC, k_THC, v_THC))
    if num_heads == 1:
        # one head of one sequence would be a plain GEMM, with other bits than a batch of GEMMs
        q_THC, k_THC, v_THC = (t.expand(-1, 2, -1) for t in (q_THC, k_THC, v_THC))
    return eager.scaled_attention(q_THC, k_THC, v_THC, runs, bias)[:, :num_heads, :width]
