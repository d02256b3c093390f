"""Sum and LayerNorm: weights as float32, and the call."""

# letters: see ops.py

import torch
from torch import Tensor

from vlmoe_kernels.native.library import library
from vlmoe_kernels.native.products import Vectors


class AddNorm:
    """x [T, D] += y, then LayerNorm by the weight and bias of each row's group."""

    def __init__(
        self, weight_GD: Tensor, bias_GD: Tensor, eps: float, dtype: torch.dtype, *, exact: bool = False
    ) -> None:
        self._weight, self._bias = Vectors([weight_GD]), Vectors([bias_GD])
        self._num_groups, self._width = weight_GD.shape
        self._eps = eps
        # where the processor has no bf16, what comes out is cast afterwards
        self._dtype, self._out_dtype = dtype, self._ours(dtype)
        self._exact = exact and self._out_dtype != torch.float32

    @staticmethod
    def _ours(dtype: torch.dtype) -> torch.dtype:
        return dtype if dtype == torch.bfloat16 and library().has_bf16 else torch.float32

    def __call__(self, x_TD: Tensor, y_TD: Tensor | None, groups_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply it; x is overwritten. The sum, the norm (float32 if exact), and the norm.

        Raises:
            ValueError: shapes or dtypes that do not fit together.
        """
        if x_TD.dtype != torch.float32 or x_TD.shape != (len(x_TD), self._width) or not x_TD.is_contiguous():
            raise ValueError(
                f"x must be float32 [T, {self._width}] and dense, got {x_TD.dtype} {list(x_TD.shape)}"
            )
        if y_TD is not None:
            if y_TD.shape != x_TD.shape:
                raise ValueError(f"y must be as x {list(x_TD.shape)}, got {list(y_TD.shape)}")
            y_TD = y_TD.to(self._ours(y_TD.dtype)).contiguous()
        groups = None
        if self._num_groups > 1:
            if groups_T.dtype != torch.int64 or groups_T.shape != x_TD.shape[:1]:
                raise ValueError(f"groups must be int64 [{len(x_TD)}], got {list(groups_T.shape)}")
            groups_T = groups_T.contiguous()
            groups = groups_T.data_ptr()
        normed_TD = x_TD.new_empty(x_TD.shape, dtype=self._out_dtype)
        exact_TD = x_TD.new_empty(x_TD.shape) if self._exact else None
        library().call(
            "add_norm",
            self._out_dtype,
            x_TD.data_ptr(),
            None if y_TD is None else y_TD.data_ptr(),
            y_TD is not None and y_TD.dtype == torch.bfloat16,
            len(x_TD),
            self._width,
            groups,
            self._weight.address,
            self._bias.address,
            self._eps,
            None if exact_TD is None else exact_TD.data_ptr(),
            out=normed_TD.data_ptr(),
        )
        last_TD = normed_TD.to(self._dtype)
        return x_TD, last_TD if exact_TD is None else exact_TD, last_TD
