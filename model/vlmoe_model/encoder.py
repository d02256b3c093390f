"""The stack of blocks: shared attention, then the feed-forward layer of each token's pool. Pre-norm."""

# T = tokens, D = dim

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vlmoe_kernels import Backend
from vlmoe_model.attention import Attention
from vlmoe_model.config import ModelConfig
from vlmoe_model.feed_forward import FeedForward
from vlmoe_model.layers import GroupedNorm
from vlmoe_model.packing import Packed
from vlmoe_model.relative_position import RelativePosition
from vlmoe_model.routing import Routing


class Block(nn.Module):
    """x + s1 * attention(norm1(x)), then x + s2 * feed_forward(norm2(x)).

    The last sum is left to whoever norms it next: a block takes and gives x and what is still to be added to it.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.norm1 = GroupedNorm(config.dim, 2 if config.multiway_attention else 1, config.norm_eps)
        self.attn = Attention(config, index)
        self.ffn = FeedForward(config, index)
        self.norm2 = GroupedNorm(config.dim, len(self.ffn.pools), config.norm_eps)
        self.scale1, self.scale2 = _layer_scale(config), _layer_scale(config)
        # told the residual stream before a feed-forward layer, where somebody can tell from it what comes
        self.foresee: Callable[[Tensor, Packed], None] | None = None
        self.drop_path = config.drop_path * index / max(1, config.num_layers - 1)

    def pack(self, backend: Backend, dtype: torch.dtype) -> None:
        """Give all matrices up to a backend."""
        self.norm1.pack(backend, dtype)
        self.attn.pack(backend, dtype)
        # routers read float32
        self.norm2.pack(backend, dtype, exact=self.ffn.is_moe)
        self.ffn.pack(backend, dtype)

    def forward(
        self,
        x_TD: Tensor,
        y_TD: Tensor | None,
        packed: Packed,
        bias: Sequence[Tensor] | None,
        log: list[Routing] | None,
    ) -> tuple[Tensor, Tensor]:
        """One block over the packed tokens; None: nothing is to be added."""
        tokens = packed.fused if self.ffn.is_fused else packed.modality
        x_TD, _, normed_TD = self.norm1.add(x_TD, y_TD, packed.modality)
        y_TD = self._residual(self.attn(normed_TD, packed, bias), self.scale1, packed)
        x_TD, exact_TD, normed_TD = self.norm2.add(x_TD, y_TD, tokens)
        if self.foresee is not None:
            self.foresee(x_TD, packed)
        y_TD = self.ffn(exact_TD, tokens, log, packed.mode, normed_TD)
        return x_TD, self._residual(y_TD, self.scale2, packed)

    def _residual(self, y_TD: Tensor, scale: Tensor | None, packed: Packed) -> Tensor:
        if scale is not None:
            y_TD = y_TD * scale
        if self.training and self.drop_path > 0:
            kept = [
                (torch.rand(run.num_sequences, device=y_TD.device) >= self.drop_path).repeat_interleave(
                    run.length
                )
                for run in packed.runs
            ]
            y_TD = y_TD * torch.cat(kept).unsqueeze(1) / (1.0 - self.drop_path)
        return y_TD


def _layer_scale(config: ModelConfig) -> nn.Parameter | None:
    return None if config.layer_scale is None else nn.Parameter(torch.full((config.dim,), config.layer_scale))


class Encoder(nn.Module):
    """All blocks and the final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.num_layers))
        self.relative = RelativePosition(config) if config.relative_position else None
        groups = 2 if config.multiway_attention else 1
        self.norm = GroupedNorm(config.dim, groups, config.norm_eps) if config.final_norm else None
        # of what goes through matrices
        self.row_dtype = torch.float32

    def pack(self, backend: Backend, dtype: torch.dtype) -> None:
        """Give all matrices up to a backend."""
        self.row_dtype = dtype
        for block in self.blocks:
            if isinstance(block, Block):
                block.pack(backend, dtype)
        if self.norm is not None:
            self.norm.pack(backend, torch.float32)

    def forward(self, x_TD: Tensor, packed: Packed, log: list[Routing] | None = None) -> Tensor:
        """[T, D] -> [T, D]; packed, x is overwritten."""
        packed = packed.on(x_TD.device)
        biases = None if self.relative is None else [self.relative(run) for run in packed.runs]
        y_TD: Tensor | None = None
        for index, block in enumerate(self.blocks):
            x_TD, y_TD = block(
                x_TD, y_TD, packed, None if biases is None else [b[index] for b in biases], log
            )
        if self.norm is not None:
            return self.norm.add(x_TD, y_TD, packed.modality)[1]
        return x_TD if y_TD is None else x_TD + y_TD
