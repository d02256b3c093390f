"""Attention inside sequences: the call."""

# letters: see ops.py

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from vlmoe_kernels.native.library import Sequences, library
from vlmoe_kernels.ops import Run


def attend(
    q_THC: Tensor, k_THC: Tensor, v_THC: Tensor, runs: Sequence[Run], bias: Sequence[Tensor] | None
) -> Tensor:
    """See `ops.Backend.attention`.

    Raises:
        ValueError: shapes or dtypes that do not fit together.
    """
    num_heads, width = q_THC.shape[1:]
    num_tokens = sum(run.num_sequences * run.length for run in runs)
    for x_THC in (q_THC, k_THC, v_THC):
        if x_THC.shape != (num_tokens, num_heads, width) or x_THC.dtype != q_THC.dtype:
            raise ValueError(
                f"q, k and v must be {q_THC.dtype} [{num_tokens}, {num_heads}, {width}], "
                f"got {x_THC.dtype} {list(x_THC.shape)}"
            )
    qkv = [x_THC if x_THC.stride(2) == 1 else x_THC.contiguous() for x_THC in (q_THC, k_THC, v_THC)]
    biases: list[Tensor | None] = [None] * len(runs)
    if bias is not None:
        biases = [
            b.expand(num_heads, run.length, run.length).to(torch.float32).contiguous()
            for b, run in zip(bias, runs, strict=True)
        ]
    sequences = (Sequences * len(runs))(
        *(
            Sequences(run.num_sequences, run.length, None if b is None else b.data_ptr())
            for run, b in zip(runs, biases, strict=True)
        )
    )
    strides = (ctypes.c_int64 * 6)(*(x.stride(dim) for x in qkv for dim in (0, 1)))
    y_THC = q_THC.new_empty(q_THC.shape)
    library().call(
        "attention",
        q_THC.dtype,
        *(x.data_ptr() for x in qkv),
        strides,
        sequences,
        len(runs),
        num_heads,
        width,
        width**-0.5,
        out=y_THC.data_ptr(),
    )
    return y_THC
