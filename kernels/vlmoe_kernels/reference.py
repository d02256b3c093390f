"""The readable truth: every operation as a loop that can be checked by eye.

Other backends are compared with this file over odd shapes, forward and gradient.
"""

# letters: see ops.py

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_kernels.ops import GroupedOp, LinearOp, Pool, Run
from vlmoe_kernels.plan import RoutePlan


def linear(weight: Tensor, bias: Tensor | None) -> LinearOp:
    """See `ops.Backend.linear`."""

    def op(x_TD: Tensor) -> Tensor:
        y_TO = x_TD @ weight.mT
        return y_TO if bias is None else y_TO + bias

    return op


def grouped_linear(weight_GOD: Tensor, bias_GO: Tensor | None) -> GroupedOp:
    """See `ops.Backend.grouped_linear`."""

    def op(x_TD: Tensor, plan: RoutePlan) -> Tensor:
        rows = [x_TD.new_zeros(weight_GOD.shape[1]) for _ in range(plan.num_tokens)]
        for group, token in _routed(plan):
            y_O = weight_GOD[group] @ x_TD[token]
            rows[token] = y_O if bias_GO is None else y_O + bias_GO[group]
        return torch.stack(rows)

    return op


def grouped_ffn(pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
    """See `ops.Backend.grouped_ffn`. GELU is the exact one (erf)."""
    experts = [(pool, expert) for pool in pools for expert in range(pool.w1.shape[0])]

    def op(x_TD: Tensor, plan: RoutePlan) -> Tensor:
        routed: list[Tensor] = []
        for group, token in _routed(plan):
            pool, e = experts[group]
            h_F = F.gelu(pool.w1[e] @ x_TD[token] + pool.b1[e])
            if pool.mid_weight is not None and pool.mid_bias is not None:
                h_F = F.layer_norm(h_F, h_F.shape, pool.mid_weight[e], pool.mid_bias[e], norm_eps)
            y_D = pool.w2[e] @ h_F + pool.b2[e]
            routed.append(y_D if plan.gates_R is None else y_D * plan.gates_R[len(routed)])
        zero_D = x_TD.new_zeros(x_TD.shape[1])
        return torch.stack(
            [sum((routed[s] for s in slots if s >= 0), zero_D) for slots in plan.slots_TK.tolist()]
        )

    return op


def attention(
    q_THC: Tensor, k_THC: Tensor, v_THC: Tensor, runs: Sequence[Run], bias: Sequence[Tensor] | None
) -> Tensor:
    """See `ops.Backend.attention`."""
    out, start = [], 0
    for index, run in enumerate(runs):
        for _ in range(run.num_sequences):
            sequence = slice(start, start + run.length)
            start += run.length
            for head in range(q_THC.shape[1]):
                q_LC, k_LC, v_LC = q_THC[sequence, head], k_THC[sequence, head], v_THC[sequence, head]
                logits_LL = q_LC @ k_LC.mT * q_LC.shape[-1] ** -0.5
                if bias is not None:
                    logits_LL = logits_LL + bias[index][head]
                out.append(logits_LL.softmax(dim=-1) @ v_LC)
    heads = q_THC.shape[1]
    per_sequence = [torch.stack(out[i : i + heads], dim=1) for i in range(0, len(out), heads)]
    return torch.cat(per_sequence) if per_sequence else torch.zeros_like(q_THC)


def _routed(plan: RoutePlan) -> list[tuple[int, int]]:
    """(group, token) of every routed row, in order."""
    groups = [group for group, size in enumerate(plan.sizes) for _ in range(size)]
    return list(zip(groups, plan.order_R.tolist(), strict=True))
