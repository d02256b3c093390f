"""The weights of a pool of experts, as they are trained and stored. A dense layer is a pool of one."""

import torch
from torch import nn

from vlmoe_kernels import Pool
from vlmoe_kernels.int8 import Int8Pool
from vlmoe_model.layers import init_weight


class ExpertPool(nn.Module):
    """Weights of E experts, each fc1, exact GELU, (LayerNorm), fc2; std: of the initial fc1 and fc2."""

    def __init__(
        self, num_experts: int, dim: int, ffn_dim: int, *, sub_ln: bool, std: tuple[float, float]
    ) -> None:
        super().__init__()
        self.w1 = init_weight(num_experts, ffn_dim, dim, std=std[0])
        self.b1 = nn.Parameter(torch.zeros(num_experts, ffn_dim))
        self.w2 = init_weight(num_experts, dim, ffn_dim, std=std[1])
        self.b2 = nn.Parameter(torch.zeros(num_experts, dim))
        self.mid_weight = nn.Parameter(torch.ones(num_experts, ffn_dim)) if sub_ln else None
        self.mid_bias = nn.Parameter(torch.zeros(num_experts, ffn_dim)) if sub_ln else None

    def value(self, dtype: torch.dtype | None = None) -> Pool:
        """The weights as the kernels take them."""
        pool = Pool(self.w1, self.b1, self.w2, self.b2, self.mid_weight, self.mid_bias)
        return pool if dtype is None else cast(pool, dtype)


class Int8ExpertPool(nn.Module):
    """Weights of E experts with int8 matrices, for inference alone."""

    def __init__(self, num_experts: int, dim: int, ffn_dim: int, *, sub_ln: bool) -> None:
        super().__init__()

        def matrix(outputs: int, inputs: int) -> nn.Parameter:
            return nn.Parameter(
                torch.zeros(num_experts, outputs, inputs, dtype=torch.int8), requires_grad=False
            )

        self.w1, self.scale1 = matrix(ffn_dim, dim), nn.Parameter(torch.ones(num_experts, ffn_dim))
        self.b1 = nn.Parameter(torch.zeros(num_experts, ffn_dim))
        self.w2, self.scale2 = matrix(dim, ffn_dim), nn.Parameter(torch.ones(num_experts, dim))
        self.b2 = nn.Parameter(torch.zeros(num_experts, dim))
        self.mid_weight = nn.Parameter(torch.ones(num_experts, ffn_dim)) if sub_ln else None
        self.mid_bias = nn.Parameter(torch.zeros(num_experts, ffn_dim)) if sub_ln else None

    def value(self) -> Int8Pool:
        """The weights as the kernels take them."""
        return Int8Pool(*(getattr(self, name) for name in Int8Pool._fields))


def cast(pool: Pool, dtype: torch.dtype) -> Pool:
    """All weights of a pool in one dtype."""
    return Pool._make(t if t is None else t.to(dtype) for t in pool)


def only(pool: Pool, index: int) -> Pool:
    """A pool of one of its experts."""
    return Pool._make(t if t is None else t[index : index + 1] for t in pool)
