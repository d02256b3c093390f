"""Differentiable operations in plain torch, one GEMM a group: what training uses, on any device.

The attention is written out because the CPU's fused attention is several times slower backward in bf16.
"""

# letters: see ops.py; R = routed rows, B = (sequence, head) pairs of a chunk, L = length of a sequence

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_kernels.ops import GroupedOp, LinearOp, Pool, Run
from vlmoe_kernels.plan import RoutePlan

RowsOp = Callable[[Tensor], Tensor]

# the logits of one chunk of sequences stay within this many elements
MAX_LOGITS = 1 << 24


def linear(weight: Tensor, bias: Tensor | None) -> LinearOp:
    """See `ops.Backend.linear`."""
    return lambda x_TD: F.linear(x_TD, weight, bias)


def grouped_linear(weight_GOD: Tensor, bias_GO: Tensor | None) -> GroupedOp:
    """See `ops.Backend.grouped_linear`."""
    # unbind: its backward is one stack; indexing would build a full-sized gradient per group
    biases = [None] * weight_GOD.shape[0] if bias_GO is None else list(bias_GO.unbind())
    ops = [linear(weight, bias) for weight, bias in zip(weight_GOD.unbind(), biases, strict=True)]
    return lambda x_TD, plan: routed(x_TD, plan, ops, weight_GOD.shape[1])


def grouped_ffn(pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
    """See `ops.Backend.grouped_ffn`."""
    ops = [op for pool in pools for op in experts(pool, norm_eps)]
    return lambda x_TD, plan: routed(x_TD, plan, ops, x_TD.shape[1])


def learning_ffn(pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
    """See `ops.LearningBackend.learning_ffn`."""
    return grouped_ffn(pools, norm_eps)


def experts(pool: Pool, norm_eps: float) -> list[RowsOp]:
    """Each expert of a pool as an operation on rows."""
    none: list[Tensor | None] = [None] * pool.w1.shape[0]
    mid_weight = none if pool.mid_weight is None else list(pool.mid_weight.unbind())
    mid_bias = none if pool.mid_bias is None else list(pool.mid_bias.unbind())

    weights = (pool.w1.unbind(), pool.b1.unbind(), pool.w2.unbind(), pool.b2.unbind(), mid_weight, mid_bias)
    return [_expert(Pool(*of_expert), norm_eps) for of_expert in zip(*weights, strict=True)]


def _expert(expert: Pool, norm_eps: float) -> RowsOp:
    """One expert; its weights are those of a pool less the first dimension."""

    def op(x_RD: Tensor) -> Tensor:
        h_RF = F.gelu(F.linear(x_RD, expert.w1, expert.b1))
        if expert.mid_weight is not None:
            h_RF = F.layer_norm(h_RF, h_RF.shape[1:], expert.mid_weight, expert.mid_bias, norm_eps)
        return F.linear(h_RF, expert.w2, expert.b2)

    return op


def routed(x_TD: Tensor, plan: RoutePlan, ops: Sequence[RowsOp], out_dim: int) -> Tensor:
    """Gather rows by group, apply each group's operation, sum each token's gated choices in order.

    Raises:
        ValueError: the plan has another number of groups than there are operations.
    """
    if len(plan.sizes) != len(ops):
        raise ValueError(f"the plan has {len(plan.sizes)} groups, the weights {len(ops)}")
    rows = torch.split(x_TD.index_select(0, plan.order_R), list(plan.sizes))
    parts = [op(x_RD) for op, x_RD in zip(ops, rows, strict=True) if x_RD.shape[0]]
    if not parts:
        return x_TD.new_zeros(x_TD.shape[0], out_dim)
    return combine(torch.cat(parts), plan)


def combine(y_RD: Tensor, plan: RoutePlan) -> Tensor:
    """Routed rows [R, O] to tokens [T, O]: gates in float32, rounded to the rows' dtype, choices summed in order."""
    if plan.gates_R is not None:
        y_RD = (y_RD * plan.gates_R.unsqueeze(1)).to(y_RD.dtype)
    if plan.complete:
        return y_RD.index_select(0, plan.slots_TK[:, 0])
    # one row of zeros stands for every choice that has no row
    y_RD = torch.cat([y_RD, y_RD.new_zeros(1, y_RD.shape[1])])
    slots_TK = torch.where(plan.slots_TK < 0, y_RD.shape[0] - 1, plan.slots_TK)
    y_TD = y_RD[slots_TK[:, 0]]
    for choice in range(1, slots_TK.shape[1]):
        y_TD = y_TD + y_RD[slots_TK[:, choice]]
    return y_TD


def combine_pieces(pieces_RD: Sequence[Tensor], plan: RoutePlan) -> Tensor:
    """See `ops.CombiningBackend.combine_pieces`."""
    return combine(torch.cat(list(pieces_RD)), plan)


def attention(
    q_THC: Tensor, k_THC: Tensor, v_THC: Tensor, runs: Sequence[Run], bias: Sequence[Tensor] | None
) -> Tensor:
    """See `ops.Backend.attention`."""
    return scaled_attention(q_THC * q_THC.shape[2] ** -0.5, k_THC, v_THC, runs, bias)


def scaled_attention(
    q_THC: Tensor, k_THC: Tensor, v_THC: Tensor, runs: Sequence[Run], bias: Sequence[Tensor] | None
) -> Tensor:
    """Attention for queries that are scaled already: sequences of equal length together, nothing padded."""
    num_heads, width = q_THC.shape[1:]
    # split, not slices: the backward of a slice is a full-sized tensor of zeros
    chunks = [(index, size, run.length) for index, run in enumerate(runs) for size in _chunks(run, num_heads)]
    sizes = [size * length for _, size, length in chunks]
    out = []
    for (index, size, length), *qkv in zip(
        chunks, *(torch.split(t, sizes) for t in (q_THC, k_THC, v_THC)), strict=True
    ):
        # one layout for any number of sequences: a GEMM's bits may depend on strides
        q_BLC, k_BLC, v_BLC = (
            t.view(size, length, num_heads, width).transpose(1, 2).contiguous().flatten(0, 1) for t in qkv
        )
        logits_BLL = q_BLC @ k_BLC.mT
        if bias is not None:
            logits_BLL = (logits_BLL.view(size, num_heads, length, length) + bias[index]).flatten(0, 1)
        weights_BLL = logits_BLL.float().softmax(dim=-1).to(v_THC.dtype)
        y_NHLC = (weights_BLL @ v_BLC).view(size, num_heads, length, width)
        out.append(y_NHLC.transpose(1, 2).reshape(-1, num_heads, width))
    return torch.cat(out) if out else torch.zeros_like(q_THC)


def _chunks(run: Run, num_heads: int) -> list[int]:
    """Sequences of one run, in chunks whose logits fit."""
    size = max(1, MAX_LOGITS // (num_heads * run.length**2))
    return [min(size, run.num_sequences - first) for first in range(0, run.num_sequences, size)]
