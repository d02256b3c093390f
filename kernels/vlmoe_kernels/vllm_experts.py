"""vLLM's fused MoE in Triton as the grouped feed-forward, for a comparison on one's own card. The rest is ours.

    plan -> choices (experts and gates by token) -> vLLM: align, GEMM, GELU, GEMM with gates, sum of choices

Needs vLLM on CUDA or ROCm. For a norm between the matrices (sub-LN) there is nothing in vLLM.
"""

# letters: see ops.py

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmoe_kernels.ops import Backend, GroupedOp, LinearOp, Pool, Run
from vlmoe_kernels.plan import RoutePlan


def linear(weight: Tensor, bias: Tensor | None) -> LinearOp:
    """See `ops.Backend.linear`."""
    return _rest().linear(weight, bias)


def grouped_linear(weight_GOD: Tensor, bias_GO: Tensor | None) -> GroupedOp:
    """See `ops.Backend.grouped_linear`."""
    return _rest().grouped_linear(weight_GOD, bias_GO)


def attention(
    q_THC: Tensor, k_THC: Tensor, v_THC: Tensor, runs: Sequence[Run], bias: Sequence[Tensor] | None
) -> Tensor:
    """See `ops.Backend.attention`."""
    return _rest().attention(q_THC, k_THC, v_THC, runs, bias)


def grouped_ffn(pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
    """See `ops.Backend.grouped_ffn`.

    Raises:
        ValueError: a pool has a norm between its matrices.
    """
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.config import biased_moe_quant_config
    from vllm.model_executor.layers.fused_moe.fused_moe import fused_experts

    if any(pool.mid_weight is not None for pool in pools):
        raise ValueError("backend vllm has no norm between the matrices of an expert (sub-LN)")
    w1, b1, w2, b2 = (
        torch.cat([field.detach() for field in fields]).contiguous()
        for fields in zip(*((pool.w1, pool.b1, pool.w2, pool.b2) for pool in pools), strict=True)
    )
    biases = biased_moe_quant_config(b1, b2)

    def op(x_TD: Tensor, plan: RoutePlan) -> Tensor:
        if len(plan.sizes) != w1.shape[0]:
            raise ValueError(f"the plan has {len(plan.sizes)} groups, the weights {w1.shape[0]}")
        if x_TD.shape[0] == 0:
            return torch.empty_like(x_TD)
        gates_TK, groups_TK = choices(plan)
        y_TD: Tensor = fused_experts(
            x_TD.contiguous(), w1, w2, gates_TK, groups_TK, MoEActivation.GELU_NO_MUL, quant_config=biases
        )
        return y_TD

    return op


def choices(plan: RoutePlan) -> tuple[Tensor, Tensor]:
    """The plan as vLLM takes it: gates float32 [T, K] and groups int32 [T, K].

    A choice that was dropped or never made becomes group 0 with a gate of zero.
    """
    device = plan.slots_TK.device
    sizes = torch.tensor(plan.sizes, device=device)
    group_R = torch.repeat_interleave(torch.arange(len(plan.sizes), device=device), sizes)
    is_made = plan.slots_TK >= 0
    slots_TK = plan.slots_TK.clamp(min=0)
    if not len(group_R):
        nothing = torch.zeros_like(slots_TK)
        return nothing.float(), nothing.int()
    groups_TK = group_R[slots_TK].masked_fill(~is_made, 0).int()
    gates_TK = is_made.float() if plan.gates_R is None else plan.gates_R.float()[slots_TK] * is_made
    return gates_TK, groups_TK


def _rest() -> Backend:
    """What computes all else on this device."""
    from vlmoe_kernels import backend
    from vlmoe_kernels.choice import why_not_triton

    return backend("eager" if why_not_triton() else "triton")
