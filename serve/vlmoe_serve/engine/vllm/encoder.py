"""The stack of blocks as vLLM runs it: our norms around vLLM's attention, linears and experts."""

# T = tokens of the batch, D = dim

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import EncoderOnlyAttention
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.utils.torch_utils import set_default_torch_dtype

from vlmoe_model.config import ModelConfig
from vlmoe_model.layers import GroupedNorm
from vlmoe_model.packing import PAIR, TEXT, VISION
from vlmoe_serve.engine.vllm.feed_forward import DenseFeedForward, MixtureFeedForward, load


class Groups:
    """Which pool each token is of, below the first block that has a VL pool and from there on."""

    def __init__(self, is_image_T: Tensor, is_pair_T: Tensor) -> None:
        self.modality_T = torch.where(is_image_T, VISION, TEXT)
        self.fused_T = torch.where(is_pair_T, PAIR, self.modality_T)
        self.modality_rows = _rows(self.modality_T, PAIR)
        self.fused_rows = _rows(self.fused_T, PAIR + 1)

    def onehot(self, pool_T: Tensor, num_groups: int) -> Tensor:
        """float32 [T, groups], as norms take it; not read where there is one group."""
        return F.one_hot(pool_T, num_groups).float() if num_groups > 1 else pool_T


def _rows(pool_T: Tensor, num_pools: int) -> tuple[Tensor, ...]:
    return tuple((pool_T == pool).nonzero()[:, 0] for pool in range(num_pools))


class Attention(nn.Module):
    """Attention inside each sequence; projections are shared, or one set a modality."""

    def __init__(self, config: ModelConfig, prefix: str) -> None:
        super().__init__()
        num_groups = 2 if config.multiway_attention else 1
        shares = get_tensor_model_parallel_world_size()
        self.qkv = nn.ModuleList(
            QKVParallelLinear(
                config.dim, config.head_dim, config.num_heads, bias=True, prefix=f"{prefix}.qkv.{group}"
            )
            for group in range(num_groups)
        )
        for qkv in self.qkv:
            # keys have a bias in some checkpoints only
            nn.init.zeros_(qkv.get_parameter("bias"))
        self.out = nn.ModuleList(
            RowParallelLinear(config.dim, config.dim, bias=True, prefix=f"{prefix}.out.{group}")
            for group in range(num_groups)
        )
        with set_default_torch_dtype(torch.float32):
            self.inner_norm = GroupedNorm(config.dim, num_groups, config.norm_eps) if config.sub_ln else None
        self.attend = EncoderOnlyAttention(
            config.num_heads // shares, config.head_dim, config.head_dim**-0.5, prefix=f"{prefix}.attend"
        )

    def load(self, name: str, tensor: Tensor) -> None:
        """Take a tensor of the checkpoint; its first dimension counts the groups."""
        for group, part in enumerate(tensor):
            qkv: Any = self.qkv[group]
            out: Any = self.out[group]
            if name == "qkv.weight":
                for third, which in zip(part.chunk(3), "qkv", strict=True):
                    qkv.weight.weight_loader(qkv.weight, third, which)
            elif name in ("q_bias", "k_bias", "v_bias"):
                qkv.bias.weight_loader(qkv.bias, part, name[0])
            elif name == "out.weight":
                load(out.weight, part)
            elif name == "out_bias":
                load(out.bias, part)
            else:
                self.get_parameter(name)[group].copy_(part)

    def forward(self, x_TD: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
        """[T, D] -> [T, D]."""
        q, k, v = self._project(self.qkv, x_TD.to(dtype), groups).chunk(3, dim=-1)
        y_TD = self.attend(q, k, v)
        if self.inner_norm is not None:
            onehot = groups.onehot(groups.modality_T, len(self.qkv))
            y_TD = self.inner_norm(y_TD.float(), onehot).to(dtype)
        return self._project(self.out, y_TD, groups)

    def _project(self, layers: nn.ModuleList, x_TD: Tensor, groups: Groups) -> Tensor:
        first: Tensor = layers[VISION](x_TD)[0]
        if len(layers) == 1:
            return first
        is_image = (groups.modality_T == VISION)[:, None]
        return torch.where(is_image, first, layers[TEXT](x_TD)[0])


class Block(nn.Module):
    """x + s1 * attention(norm1(x)), then x + s2 * feed_forward(norm2(x)). What runs along is float32."""

    def __init__(self, config: ModelConfig, index: int, prefix: str, vllm_config: VllmConfig) -> None:
        super().__init__()
        self.is_fused = config.vl_start is not None and index >= config.vl_start
        num_groups = 2 if config.multiway_attention else 1
        self.attn = Attention(config, f"{prefix}.attn")
        self.ffn: DenseFeedForward | MixtureFeedForward
        if index in config.moe_blocks:
            self.ffn = MixtureFeedForward(config, self.is_fused, f"{prefix}.ffn", vllm_config)
        else:
            self.ffn = DenseFeedForward(config, self.is_fused, f"{prefix}.ffn")
        with set_default_torch_dtype(torch.float32):
            self.norm1 = GroupedNorm(config.dim, num_groups, config.norm_eps)
            self.norm2 = GroupedNorm(config.dim, 3 if self.is_fused else 2, config.norm_eps)
            has_scale = config.layer_scale is not None
            self.scale1 = nn.Parameter(torch.empty(config.dim)) if has_scale else None
            self.scale2 = nn.Parameter(torch.empty(config.dim)) if has_scale else None

    def load(self, name: str, tensor: Tensor) -> None:
        """Take a tensor of the checkpoint."""
        part, _, rest = name.partition(".")
        if part in ("attn", "ffn"):
            getattr(self, part).load(rest, tensor)
        else:
            self.get_parameter(name).copy_(tensor)

    def forward(self, x_TD: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
        """[T, D] -> [T, D]."""
        onehot = groups.onehot(groups.modality_T, self.norm1.weight.shape[0])
        y_TD = self.attn(self.norm1(x_TD, onehot), groups, dtype)
        x_TD = x_TD + (y_TD if self.scale1 is None else y_TD * self.scale1)
        pool_T = groups.fused_T if self.is_fused else groups.modality_T
        rows = groups.fused_rows if self.is_fused else groups.modality_rows
        onehot = groups.onehot(pool_T, self.norm2.weight.shape[0])
        y_TD = self.ffn(self.norm2(x_TD, onehot).to(dtype), pool_T, rows)
        out_TD: Tensor = x_TD + (y_TD if self.scale2 is None else y_TD * self.scale2)
        return out_TD


class Encoder(nn.Module):
    """All blocks and the final norm."""

    def __init__(self, config: ModelConfig, prefix: str, vllm_config: VllmConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(config, index, f"{prefix}.blocks.{index}", vllm_config)
            for index in range(config.num_layers)
        )
        with set_default_torch_dtype(torch.float32):
            groups = 2 if config.multiway_attention else 1
            self.norm = GroupedNorm(config.dim, groups, config.norm_eps) if config.final_norm else None

    def forward(self, x_TD: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
        """[T, D] -> [T, D]."""
        for block in self.blocks:
            x_TD = block(x_TD, groups, dtype)
        if self.norm is None:
            return x_TD
        y_TD: Tensor = self.norm(x_TD, groups.onehot(groups.modality_T, self.norm.weight.shape[0]))
        return y_TD
