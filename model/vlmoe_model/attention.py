"""Self-attention, shared by the modalities, or with projections per modality (BEiT-3)."""

# T = tokens, D = dim, H = heads, C = width of a head

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlmoe_kernels import Backend, RoutePlan, eager
from vlmoe_kernels.ops import GroupedOp, TableBackend
from vlmoe_model.config import ModelConfig
from vlmoe_model.layers import GroupedNorm, give_up, init_weight
from vlmoe_model.packing import Packed


class GroupedLinear(nn.Module):
    """One matrix for all tokens, or one per modality (V, T)."""

    def __init__(self, num_groups: int, in_dim: int, out_dim: int, *, std: float) -> None:
        super().__init__()
        self.weight = init_weight(num_groups, out_dim, in_dim, std=std)
        self.op: GroupedOp | None = None
        self.op_dtype = torch.float32

    def _make(self, backend: Backend, weight: Tensor, bias: Tensor) -> GroupedOp:
        if weight.shape[0] > 1:
            return backend.grouped_linear(weight, bias)
        shared = backend.linear(weight[0], bias[0])
        return lambda x_TD, plan: shared(x_TD)

    def pack(self, backend: Backend, dtype: torch.dtype, bias_GO: Tensor) -> None:
        """Give weight and bias up to a backend; inputs are cast to dtype from here on."""
        self.op, self.op_dtype = self._make(backend, self.weight.to(dtype), bias_GO.to(dtype)), dtype
        give_up(self, "weight")

    def forward(self, x_TD: Tensor, plan: RoutePlan, bias_GO: Tensor) -> Tensor:
        """[T, D] -> [T, O]. plan: by modality."""
        if self.op is not None:
            return self.op(x_TD.to(self.op_dtype), plan)
        return self._make(eager, self.weight, bias_GO)(x_TD, plan)


class Attention(nn.Module):
    """Multi-head attention inside each sequence. Queries and values have biases; keys only on request."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        groups, dim = (2 if config.multiway_attention else 1), config.dim
        self.num_heads = config.num_heads
        self.qkv = GroupedLinear(groups, dim, 3 * dim, std=config.init_std)
        self.q_bias = nn.Parameter(torch.zeros(groups, dim))
        self.k_bias = nn.Parameter(torch.zeros(groups, dim)) if config.key_bias else None
        self.v_bias = nn.Parameter(torch.zeros(groups, dim))
        self.inner_norm = GroupedNorm(dim, groups, config.norm_eps) if config.sub_ln else None
        self.out = GroupedLinear(groups, dim, dim, std=config.init_std / (2.0 * (index + 1)) ** 0.5)
        self.out_bias = nn.Parameter(torch.zeros(groups, dim))
        self.backend: Backend = eager

    def _qkv_bias(self) -> Tensor:
        k_bias = torch.zeros_like(self.q_bias) if self.k_bias is None else self.k_bias
        return torch.cat([self.q_bias, k_bias, self.v_bias], dim=1)

    def pack(self, backend: Backend, dtype: torch.dtype) -> None:
        """Give the matrices up to a backend."""
        self.qkv.pack(backend, dtype, self._qkv_bias())
        self.out.pack(backend, dtype, self.out_bias)
        self.backend = backend

    def forward(self, x_TD: Tensor, packed: Packed, bias: Sequence[Tensor] | None) -> Tensor:
        """[T, D] -> [T, D]; bias: per run [H, length, length]."""
        num_tokens, dim = x_TD.shape
        plan = packed.modality.plan
        qkv = self.qkv(x_TD, plan, self._qkv_bias()).view(num_tokens, 3, self.num_heads, -1)
        q_THC, k_THC, v_THC = qkv.unbind(dim=1)
        if packed.table is not None and isinstance(self.backend, TableBackend):
            y_THC = self.backend.attention_by_table(q_THC, k_THC, v_THC, packed.table)
        else:
            y_THC = self.backend.attention(q_THC, k_THC, v_THC, packed.attention_runs, bias)
        y_TD = y_THC.reshape(num_tokens, dim)
        if self.inner_norm is not None:
            y_TD = self.inner_norm(y_TD, packed.modality.onehot_TP)
        out: Tensor = self.out(y_TD, plan, self.out_bias)
        return out
