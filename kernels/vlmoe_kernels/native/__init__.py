"""Inference on CPU in C++: AVX-512 kernels of our own, weights packed once, nothing between two products but registers.

The bits of a row depend on the row and the weights alone: not on the batch, not on the number of threads. An element of
a product is one chain of multiply-adds in the order of k (`src/tile.h`), and no sum is split between tasks.

The library is compiled at first use (`build.py`). Where it cannot be, `vlmoe_kernels.choose` takes `cpu` instead.
"""

# letters: see ops.py

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmoe_kernels import cpu, eager, int8
from vlmoe_kernels.int8 import Int8Pool
from vlmoe_kernels.native.build import cpu_flags
from vlmoe_kernels.native.cells import gradient_cells
from vlmoe_kernels.native.feed_forward import GroupedFeedForward
from vlmoe_kernels.native.library import library
from vlmoe_kernels.native.norms import AddNorm
from vlmoe_kernels.native.pieces import combined
from vlmoe_kernels.native.products import GroupedLinear, Linear
from vlmoe_kernels.native.quantised import Int8FeedForward
from vlmoe_kernels.native.sequences import attend
from vlmoe_kernels.native.training import grouped_ffn_with_gradients
from vlmoe_kernels.ops import AddNormOp, Allocate, GroupedOp, LinearOp, Pool, Run
from vlmoe_kernels.plan import RoutePlan

__all__ = [
    "add_norm",
    "attention",
    "combine_pieces",
    "gradient_cells",
    "grouped_ffn",
    "grouped_linear",
    "int8_ffn",
    "learning_ffn",
    "linear",
    "placed_bytes",
    "placed_ffn",
]


def _multiplies(dtype: torch.dtype) -> bool:
    """Whether products of that dtype are ours: oneDNN has AMX tiles, where the processor has them, and we do not."""
    if dtype == torch.bfloat16:
        return library().has_bf16 and "amx_bf16" not in cpu_flags()
    return dtype == torch.float32


def linear(weight: Tensor, bias: Tensor | None) -> LinearOp:
    """See `ops.Backend.linear`."""
    if not _multiplies(weight.dtype):
        return cpu.linear(weight, bias)
    return Linear(weight, bias)


def grouped_linear(weight_GOD: Tensor, bias_GO: Tensor | None) -> GroupedOp:
    """See `ops.Backend.grouped_linear`."""
    if not _multiplies(weight_GOD.dtype):
        return cpu.grouped_linear(weight_GOD, bias_GO)
    return GroupedLinear(weight_GOD, bias_GO)


def grouped_ffn(pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
    """See `ops.Backend.grouped_ffn`."""
    if not _multiplies(pools[0].w1.dtype):
        return cpu.grouped_ffn(pools, norm_eps)
    return GroupedFeedForward(pools, norm_eps)


def placed_bytes(dtype: torch.dtype, dim: int, hidden: int) -> int:
    """See `ops.PlacingBackend.placed_bytes`."""
    # also where oneDNN is faster: it keeps weights where it likes
    if dtype != torch.float32 and not (dtype == torch.bfloat16 and library().has_bf16):
        raise ValueError(f"this processor has no products of {str(dtype).removeprefix('torch.')}")
    return library().packed_bytes(dtype, hidden, dim) + library().packed_bytes(dtype, dim, hidden)


def placed_ffn(pool: Pool, norm_eps: float, allocate: Allocate) -> GroupedOp:
    """See `ops.PlacingBackend.placed_ffn`."""
    return GroupedFeedForward([pool], norm_eps, allocate)


def add_norm(weight_GD: Tensor, bias_GD: Tensor, eps: float, dtype: torch.dtype, *, exact: bool) -> AddNormOp:
    """See `ops.NormBackend.add_norm`."""
    return AddNorm(weight_GD, bias_GD, eps, dtype, exact=exact)


def combine_pieces(pieces_RD: Sequence[Tensor], plan: RoutePlan) -> Tensor:
    """See `ops.CombiningBackend.combine_pieces`."""
    dtype = pieces_RD[0].dtype
    if dtype != torch.float32 and not (dtype == torch.bfloat16 and library().has_bf16):
        return eager.combine_pieces(pieces_RD, plan)
    return combined(pieces_RD, plan)


def learning_ffn(pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
    """See `ops.LearningBackend.learning_ffn`. Of dtypes whose products are not ours, plain torch's."""
    ours, plain = grouped_ffn_with_gradients(pools, norm_eps), eager.grouped_ffn(pools, norm_eps)

    def op(x_TD: Tensor, plan: RoutePlan) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_TD.dtype
        return ours(x_TD, plan) if _multiplies(dtype) else plain(x_TD, plan)

    return op


def int8_ffn(pools: Sequence[Int8Pool], norm_eps: float) -> GroupedOp:
    """See `int8.Int8Backend.int8_ffn`. Without AVX512_VNNI, plain torch's."""
    if not library().has_vnni:
        return int8.int8_ffn(pools, norm_eps)
    return Int8FeedForward(pools, norm_eps)


def attention(
    q_THC: Tensor, k_THC: Tensor, v_THC: Tensor, runs: Sequence[Run], bias: Sequence[Tensor] | None
) -> Tensor:
    """See `ops.Backend.attention`. Logits and softmax are float32, and so is the bias."""
    if q_THC.dtype != torch.float32 and not (q_THC.dtype == torch.bfloat16 and library().has_bf16):
        return cpu.attention(q_THC, k_THC, v_THC, runs, bias)
    return attend(q_THC, k_THC, v_THC, runs, bias)
