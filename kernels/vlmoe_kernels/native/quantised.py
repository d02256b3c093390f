"""Experts in int8: weights in C++ layout, and the call (`src/int8.h`); `int8.py` above says what is computed."""

# letters: see ops.py; K = inner width

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from vlmoe_kernels.int8 import Int8Pool
from vlmoe_kernels.native.feed_forward import TwoProducts
from vlmoe_kernels.native.library import Int8Matrices, addresses, library
from vlmoe_kernels.native.memory import Memory
from vlmoe_kernels.native.products import Vectors


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


class Int8FeedForward(TwoProducts):
    """Matrices in int8; rows in float32 or bfloat16."""

    function = "int8_ffn"

    def __init__(self, pools: Sequence[Int8Pool], norm_eps: float) -> None:
        super().__init__(
            _Packed([p.w1 for p in pools], [p.scale1 for p in pools], [p.b1 for p in pools]),
            _Packed([p.w2 for p in pools], [p.scale2 for p in pools], [p.b2 for p in pools]),
            Vectors([pool.mid_weight for pool in pools]),
            Vectors([pool.mid_bias for pool in pools]),
            norm_eps,
        )

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Raises ValueError for what the processor does not have."""
        if dtype not in ((torch.float32, torch.bfloat16) if library().has_bf16 else (torch.float32,)):
            raise ValueError(f"rows must be float32, or bfloat16 where the processor has it, got {dtype}")
