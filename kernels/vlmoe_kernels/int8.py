"""Experts in int8: weights with a scale per output, rows with a scale and a zero per row. In plain torch, to be read.

    w = scale_w * q_w,  q_w in [-127, 127]          x = scale_x * (q_x - zero_x),  q_x in [0, 255]
    y = scale_x * scale_w * (sum_k q_x q_w - zero_x * sum_k q_w) + b

Nothing in it looks at more than one row, and sums of integers have no rounding, so a row has the same bits in every
batch. `native/quantised.py` is the same in C++.
"""

# letters: see ops.py; R = rows, K = input width, O = outputs

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_kernels import eager
from vlmoe_kernels.ops import Backend, GroupedOp, Pool

# K of one product: its sums stay below 2^24, up to which float32 counts exactly, in whatever order (255 * 128 * 512)
EXACT_WIDTH = 512
# of a row of zeros, whose scale would be zero
MIN_RANGE = 1e-30


class Int8Pool(NamedTuple):
    """`Pool` with int8 matrices: w1 [E, F, D], scale1 [E, F], b1, w2 [E, D, F], scale2 [E, D], b2, and the norm."""

    w1: Tensor
    scale1: Tensor
    b1: Tensor
    w2: Tensor
    scale2: Tensor
    b2: Tensor
    mid_weight: Tensor | None = None
    mid_bias: Tensor | None = None


@runtime_checkable
class Int8Backend(Backend, Protocol):
    """A backend with products of bytes of its own; this file stands in for the others."""

    def int8_ffn(self, pools: Sequence[Int8Pool], norm_eps: float) -> GroupedOp:
        """`ops.Backend.grouped_ffn` with int8 matrices; rows in and out are of the dtype of x."""
        ...


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices [..., O, K] as int8 and the float32 scale [..., O] of each output; the nearest step, ties to even."""
    weight = weight.float()
    scale = weight.abs().amax(dim=-1).clamp_min(MIN_RANGE) / 127
    return (weight / scale.unsqueeze(-1)).round().clamp(-127, 127).to(torch.int8), scale


def quantise_pool(pool: Pool) -> Int8Pool:
    """The matrices of every expert in int8."""
    w1, scale1 = quantise(pool.w1)
    w2, scale2 = quantise(pool.w2)
    return Int8Pool(w1, scale1, pool.b1, w2, scale2, pool.b2, pool.mid_weight, pool.mid_bias)


def quantise_rows(x_RK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows as numbers from 0 to 255 (float32), with the scale and the zero [R, 1] of each; 0.0 is exactly its zero."""
    x_RK = x_RK.float()
    low = x_RK.amin(dim=1, keepdim=True).clamp_max(0.0)
    high = x_RK.amax(dim=1, keepdim=True).clamp_min(0.0)
    scale = (high - low).clamp_min(MIN_RANGE) / 255
    factor = 1.0 / scale
    zero = (-low * factor).round()
    return ((x_RK * factor).round() + zero).clamp(0, 255), scale, zero


def product(x_RK: Tensor, weight_OK: Tensor, scale_O: Tensor, bias_O: Tensor) -> Tensor:
    """Rows times an int8 matrix, in float32."""
    q_RK, scale_R1, zero_R1 = quantise_rows(x_RK)
    sums = torch.zeros(x_RK.shape[0], weight_OK.shape[0], dtype=torch.int32, device=x_RK.device)
    centred = torch.split(q_RK - zero_R1, EXACT_WIDTH, dim=1)
    for q, w in zip(centred, torch.split(weight_OK, EXACT_WIDTH, dim=1), strict=True):
        sums += (q @ w.float().mT).to(torch.int32)
    return sums.float() * (scale_R1 * scale_O.float()) + bias_O.float()


def int8_ffn(pools: Sequence[Int8Pool], norm_eps: float) -> GroupedOp:
    """See `Int8Backend.int8_ffn`."""
    ops = [op for pool in pools for op in _experts(pool, norm_eps)]
    return lambda x_TD, plan: eager.routed(x_TD, plan, ops, x_TD.shape[1])


def _experts(pool: Int8Pool, eps: float) -> list[Callable[[Tensor], Tensor]]:
    def expert(e: int) -> Callable[[Tensor], Tensor]:
        def op(x_RD: Tensor) -> Tensor:
            h_RF = F.gelu(product(x_RD, pool.w1[e], pool.scale1[e], pool.b1[e])).to(x_RD.dtype)
            if pool.mid_weight is not None and pool.mid_bias is not None:
                mid = pool.mid_weight[e].float(), pool.mid_bias[e].float()
                h_RF = F.layer_norm(h_RF.float(), h_RF.shape[1:], *mid, eps).to(x_RD.dtype)
            return product(h_RF, pool.w2[e], pool.scale2[e], pool.b2[e]).to(x_RD.dtype)

        return op

    return [expert(e) for e in range(len(pool.w1))]
