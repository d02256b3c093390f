"""Experts in int8: weights in C++ layout, and the call (`src/int8.h`); `int8.py` above says what is computed."""

# letters: see ops.py; K = inner width

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from vlmoe_kernels.int8 import Int8Pool
from vlmoe_kernels.native.library import Int8Matrices, addresses, library, plan_of
from vlmoe_kernels.native.memory import Memory
from vlmoe_kernels.native.pieces import check_of_pieces, pieces_of
from vlmoe_kernels.native.products import Vectors
from vlmoe_kernels.plan import RoutePlan


class _Packed:
    """Int8 matrices of one shape with what belongs to their outputs, from stacks of them; none is kept."""

    def __init__(
        self, weights_GOK: Sequence[Tensor], scales_GO: Sequence[Tensor], biases_GO: Sequence[Tensor]
    ) -> None:
        lib = library()
        num_outputs, k = weights_GOK[0].shape[1:]
        self.k = k
        self.num_groups = sum(len(stack) for stack in weights_GOK)
        size = lib.int8_packed_bytes(num_outputs, k)
        self._memory = Memory(size * self.num_groups)
        firsts = [self._memory.address + size * g for g in range(self.num_groups)]
        group = 0
        for stack in weights_GOK:
            stack = stack.detach().contiguous()
            lib.call("int8_pack", torch.int8, stack.data_ptr(), len(stack), num_outputs, k, out=firsts[group])
            group += len(stack)
        self._panels = (ctypes.c_void_p * self.num_groups)(*firsts)
        self._scales, self._biases = Vectors(scales_GO), Vectors(biases_GO)
        self._sums = [
            matrix.sum(dim=1, dtype=torch.int32) for stack in weights_GOK for matrix in stack.detach()
        ]
        self._sum_addresses = addresses(self._sums)
        self.matrices = Int8Matrices(
            num_outputs,
            k,
            ctypes.addressof(self._panels),
            self._scales.address,
            self._biases.address,
            ctypes.addressof(self._sum_addresses),
        )


class Int8FeedForward:
    """x [T, D], plan -> [T, D], each row through the int8 feed-forward layer of its group."""

    def __init__(self, pools: Sequence[Int8Pool], norm_eps: float) -> None:
        self._up = _Packed([p.w1 for p in pools], [p.scale1 for p in pools], [p.b1 for p in pools])
        self._down = _Packed([p.w2 for p in pools], [p.scale2 for p in pools], [p.b2 for p in pools])
        self._mid_weight = Vectors([pool.mid_weight for pool in pools])
        self._mid_bias = Vectors([pool.mid_bias for pool in pools])
        self._eps = norm_eps

    def __call__(self, x_TD: Tensor, plan: RoutePlan) -> Tensor:
        """Apply it.

        Raises:
            ValueError: the plan is for other weights or rows.
        """
        gates_R = self._gates(plan, x_TD.dtype)
        if x_TD.shape != (plan.num_tokens, self._up.k):
            raise ValueError(f"rows must be [{plan.num_tokens}, {self._up.k}], got {list(x_TD.shape)}")
        x_TD = x_TD if x_TD.stride(1) == 1 else x_TD.contiguous()
        y_TD = x_TD.new_empty(x_TD.shape)
        library().call(
            "int8_ffn",
            x_TD.dtype,
            x_TD.data_ptr(),
            x_TD.stride(0),
            *self._weights,
            plan_of(plan, gates_R),
            out=y_TD.data_ptr(),
        )
        return y_TD

    def of_pieces(self, pieces_RD: Sequence[Tensor], source_T: Tensor, plan: RoutePlan, y_TD: Tensor) -> None:
        """See `ops.PiecewiseOp`.

        Raises:
            ValueError: the plan is for other weights or rows.
        """
        like = pieces_RD[0]
        pieces, gates_R = pieces_of(pieces_RD, self._up.k, like.dtype), self._gates(plan, like.dtype)
        check_of_pieces(source_T, plan, y_TD, like)
        library().call(
            "int8_ffn_of_pieces",
            like.dtype,
            pieces,
            source_T.data_ptr(),
            *self._weights,
            plan_of(plan, gates_R),
            out=y_TD.data_ptr(),
        )

    @property
    def _weights(self) -> tuple[object, ...]:
        vectors = self._mid_weight.address, self._mid_bias.address
        return self._up.matrices, self._down.matrices, *vectors, self._eps

    def _gates(self, plan: RoutePlan, dtype: torch.dtype) -> Tensor | None:
        """The plan's gates as float32, if plan and dtype fit."""
        if len(plan.sizes) != self._up.num_groups:
            raise ValueError(f"the plan has {len(plan.sizes)} groups, the weights {self._up.num_groups}")
        if dtype not in ((torch.float32, torch.bfloat16) if library().has_bf16 else (torch.float32,)):
            raise ValueError(f"rows must be float32, or bfloat16 where the processor has it, got {dtype}")
        return None if plan.gates_R is None else plan.gates_R.to(torch.float32).contiguous()
