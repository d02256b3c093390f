"""Sum and LayerNorm in one pass: the residual stream takes a layer's output, and leaves for the next one's matrices."""

# T = tokens, G = groups, D = model width

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlmoe_kernels.triton.tiles import FP_FUSION


@triton.jit
def add_norm_kernel(
    x_ptr,
    y_ptr,
    groups_ptr,
    weight_ptr,
    bias_ptr,
    exact_ptr,
    normed_ptr,
    stride_y,
    width,
    eps,
    ADDED: tl.constexpr,
    GROUPED: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row: x += y, and its norm with the scale and shift of its group."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    is_column = column < width
    x_ptrs = x_ptr + row * width + column
    x = tl.load(x_ptrs, mask=is_column, other=0.0)
    if ADDED:
        x += tl.load(y_ptr + row * stride_y + column, mask=is_column, other=0.0).to(tl.float32)
        tl.store(x_ptrs, x, mask=is_column)
    group = tl.zeros((), tl.int64)
    if GROUPED:
        # a row of no group is nobody's, and any scale does
        group = tl.maximum(tl.load(groups_ptr + row), 0)
    centred = tl.where(is_column, x - tl.sum(x, 0) / width, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    weight = tl.load(weight_ptr + group * width + column, mask=is_column, other=0.0)
    bias = tl.load(bias_ptr + group * width + column, mask=is_column, other=0.0)
    normed = centred * scale * weight + bias
    if EXACT:
        tl.store(exact_ptr + row * width + column, normed, mask=is_column)
    tl.store(normed_ptr + row * width + column, normed.to(normed_ptr.dtype.element_ty), mask=is_column)


class AddNorm:
    """x [T, D] += y, then LayerNorm by the scale and shift of each row's group."""

    def __init__(
        self, weight_GD: Tensor, bias_GD: Tensor, eps: float, dtype: torch.dtype, *, exact: bool = False
    ) -> None:
        # copies: nobody may change them afterwards
        self._weight_GD, self._bias_GD = (t.detach().float().clone() for t in (weight_GD, bias_GD))
        self._eps, self._dtype = eps, dtype
        self._exact = exact and dtype != torch.float32

    def __call__(self, x_TD: Tensor, y_TD: Tensor | None, groups_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply it; x is overwritten. The sum, the norm (float32 if exact), and the norm.

        Raises:
            ValueError: x is not float32, or not dense.
        """
        if x_TD.dtype != torch.float32 or not x_TD.is_contiguous():
            raise ValueError(f"x must be float32 and dense, got {x_TD.dtype} {list(x_TD.shape)}")
        if y_TD is not None and y_TD.stride(1) != 1:
            y_TD = y_TD.contiguous()
        num_rows, width = x_TD.shape
        normed_TD = torch.empty(num_rows, width, dtype=self._dtype, device=x_TD.device)
        exact_TD = torch.empty_like(x_TD) if self._exact else normed_TD
        if num_rows:
            add_norm_kernel[(num_rows,)](
                x_TD,
                y_TD,
                groups_T.contiguous(),
                self._weight_GD,
                self._bias_GD,
                exact_TD,
                normed_TD,
                0 if y_TD is None else y_TD.stride(0),
                width,
                self._eps,
                ADDED=y_TD is not None,
                GROUPED=len(self._weight_GD) > 1,
                EXACT=self._exact,
                BLOCK=triton.next_power_of_2(width),
                num_warps=4,
                enable_fp_fusion=FP_FUSION,
            )
        return x_TD, exact_TD, normed_TD
