"""Layers that hold their parameters for training and run through a kernel backend when packed for inference."""

# T = tokens, D = input width, O = output width, G = groups

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmoe_kernels import Backend
from vlmoe_kernels.ops import AddNormOp, LinearOp, NormBackend
from vlmoe_model.packing import Tokens

INIT_STD = 0.02


def init_weight(*shape: int, std: float = INIT_STD) -> nn.Parameter:
    """A truncated-normal parameter, cut at two deviations (BEiT)."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=std, a=-2 * std, b=2 * std))


def give_up(module: nn.Module, *names: str) -> None:
    """Drop parameters that a backend now holds in a layout of its own: weights are in memory once."""
    for name in names:
        setattr(module, name, None)


class Linear(nn.Module):
    """x W^T + b on rows."""

    def __init__(self, in_dim: int, out_dim: int, *, bias: bool = True, std: float = INIT_STD) -> None:
        super().__init__()
        self.weight = init_weight(out_dim, in_dim, std=std)
        self.bias = nn.Parameter(torch.zeros(out_dim)) if bias else None
        self.op: LinearOp | None = None
        self.op_dtype = torch.float32

    def pack(self, backend: Backend, dtype: torch.dtype) -> None:
        """Give the weights up to a backend; inputs are cast to dtype from here on."""
        bias = None if self.bias is None else self.bias.to(dtype)
        self.op, self.op_dtype = backend.linear(self.weight.to(dtype), bias), dtype
        give_up(self, "weight", "bias")

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, O]."""
        if self.op is None:
            return F.linear(x_TD, self.weight, self.bias)
        return self.op(x_TD.to(self.op_dtype))


class GroupedNorm(nn.Module):
    """LayerNorm with one scale and shift per group of tokens (modality or pool)."""

    def __init__(self, dim: int, num_groups: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_groups, dim))
        self.bias = nn.Parameter(torch.zeros(num_groups, dim))
        self.eps = eps
        self.op: AddNormOp | None = None

    def pack(self, backend: Backend, dtype: torch.dtype, *, exact: bool = False) -> None:
        """Let a backend do it, if it can; `add` gives that dtype from here on, and float32 before it if `exact`."""
        if isinstance(backend, NormBackend):
            self.op = backend.add_norm(self.weight.detach(), self.bias.detach(), self.eps, dtype, exact=exact)

    def add(self, x_TD: Tensor, y_TD: Tensor | None, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Sum x + y, its norm for routers, and for matrices. x is the caller's no longer: it may be the sum."""
        if self.op is not None:
            return self.op(x_TD, y_TD, tokens.pool_T)
        if y_TD is not None:
            x_TD = x_TD + y_TD
        normed_TD = self(x_TD, tokens.onehot_TP)
        return x_TD, normed_TD, normed_TD

    def forward(self, x_TD: Tensor, onehot_TG: Tensor) -> Tensor:
        """onehot_TG: float32, 1 at the group of each token; not read where there is one group."""
        num_groups, *dim = self.weight.shape
        if num_groups == 1:
            return F.layer_norm(x_TD, dim, self.weight[0], self.bias[0], self.eps)
        # a product with a one-hot row picks the group's values exactly, and its backward is a small GEMM
        with torch.autocast(x_TD.device.type, enabled=False):
            normed_TD = F.layer_norm(x_TD.float(), dim, None, None, self.eps)
            return torch.addcmul(onehot_TG @ self.bias, normed_TD, onehot_TG @ self.weight)
