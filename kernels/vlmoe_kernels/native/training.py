"""The grouped feed-forward with gradients, in C++ (`src/training.h`).

    x_TD -> one product, GELU, (LayerNorm), one product, gate, sum of choices -> y_TD; the backward computes GELU again

Rows and what is kept between forward and backward are of the dtype of x, or of autocast; weights and their gradients
are float32, whatever the rows are. No sum depends on the number of threads, so a step has the same bits again.
"""

# letters: see ops.py; R = routed rows

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vlmoe_kernels.native.library import ExpertGradients, Experts, library, plan_of
from vlmoe_kernels.ops import GroupedOp, Pool
from vlmoe_kernels.plan import RoutePlan

NUM_FIELDS = len(Pool._fields)


def grouped_ffn_with_gradients(pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
    """`ops.Backend.grouped_ffn`, differentiable in x, the gates and every weight."""
    num_groups = sum(len(pool.w1) for pool in pools)
    weights = [None if t is None else t.to(torch.float32).contiguous() for pool in pools for t in pool]

    def op(x_TD: Tensor, plan: RoutePlan) -> Tensor:
        if len(plan.sizes) != num_groups:
            raise ValueError(f"the plan has {len(plan.sizes)} groups, the weights {num_groups}")
        if x_TD.dim() != 2 or x_TD.shape != (plan.num_tokens, pools[0].w1.shape[2]):
            raise ValueError(
                f"rows must be [{plan.num_tokens}, {pools[0].w1.shape[2]}], got {list(x_TD.shape)}"
            )
        if torch.is_autocast_enabled("cpu"):
            x_TD = x_TD.to(torch.get_autocast_dtype("cpu"))
        gates_R = None if plan.gates_R is None else plan.gates_R.to(torch.float32).contiguous()
        return _apply(plan, norm_eps, x_TD, gates_R, *weights)

    return op


class _FeedForward(torch.autograd.Function):
    """One forward and one backward call into the library."""

    @staticmethod
    def forward(
        ctx: Any, plan: RoutePlan, eps: float, x_TD: Tensor, gates_R: Tensor | None, *weights: Tensor | None
    ) -> Tensor:
        x_TD = x_TD if x_TD.stride(1) == 1 else x_TD.contiguous()
        pools = _pools(weights)
        u_RF = x_TD.new_empty(len(plan.order_R), pools[0].w1.shape[1])
        y_TD = x_TD.new_empty(x_TD.shape)
        library().call(
            "learning_forward",
            x_TD.dtype,
            x_TD.data_ptr(),
            x_TD.stride(0),
            _experts(pools, eps),
            plan_of(plan, gates_R),
            u_RF.data_ptr(),
            out=y_TD.data_ptr(),
        )
        ctx.plan, ctx.eps = plan, eps
        ctx.save_for_backward(x_TD, u_RF, gates_R, *weights)
        return y_TD

    @staticmethod
    def backward(ctx: Any, dy_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, u_RF, gates_R, *weights = ctx.saved_tensors
        needed = ctx.needs_input_grad[4:]
        dweights = [
            # a pool learns as a whole: what one weight needs is most of what all need
            torch.empty_like(t) if t is not None and any(needed[i - i % NUM_FIELDS :][:NUM_FIELDS]) else None
            for i, t in enumerate(weights)
        ]
        pools = _pools(weights)
        dgates_R = None if gates_R is None else torch.empty_like(gates_R)
        dx_TD = x_TD.new_empty(x_TD.shape)
        library().call(
            "learning_backward",
            x_TD.dtype,
            x_TD.data_ptr(),
            x_TD.stride(0),
            u_RF.data_ptr(),
            dy_TD.contiguous().data_ptr(),
            _experts(pools, ctx.eps),
            _gradients(pools, dweights),
            plan_of(ctx.plan, gates_R),
            None if dgates_R is None else dgates_R.data_ptr(),
            out=dx_TD.data_ptr(),
        )
        return None, None, dx_TD, dgates_R, *dweights


# typed: torch's `apply` is not
_apply: Callable[..., Tensor] = _FeedForward.apply


def _pools(weights: Sequence[Tensor | None]) -> list[Pool]:
    return [Pool._make(weights[i : i + NUM_FIELDS]) for i in range(0, len(weights), NUM_FIELDS)]


def _experts(pools: Sequence[Pool], eps: float) -> Experts:
    fields = [
        None if stacks[0] is None else _groups(stacks, [len(s) for s in stacks])
        for stacks in zip(*pools, strict=True)
    ]
    result = Experts(pools[0].w1.shape[2], pools[0].w1.shape[1], *map(_address, fields), eps)
    # the structure holds addresses only
    result.kept = fields
    return result


def _gradients(pools: Sequence[Pool], dweights: Sequence[Tensor | None]) -> ExpertGradients:
    sizes = [len(pool.w1) for pool in pools]
    fields = [_groups(dweights[i::NUM_FIELDS], sizes) for i in range(NUM_FIELDS)]
    result = ExpertGradients(*map(_address, fields))
    result.kept = fields
    return result


def _groups(stacks: Sequence[Tensor | None], sizes: Sequence[int]) -> "ctypes.Array[ctypes.c_void_p]":
    """Where each group's part of the stacks of its pool lies; None for a stack that is not there."""
    groups = [
        None if stack is None else stack.data_ptr() + index * stack[0].numel() * stack.element_size()
        for stack, size in zip(stacks, sizes, strict=True)
        for index in range(size)
    ]
    return (ctypes.c_void_p * len(groups))(*groups)


def _address(array: "ctypes.Array[ctypes.c_void_p] | None") -> int | None:
    return None if array is None else ctypes.addressof(array)
