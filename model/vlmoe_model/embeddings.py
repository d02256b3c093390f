"""Tokens and patches to the vectors that enter the first block."""

# N = sequences, L = text tokens, G = patches along a side, D = dim

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmoe_model.config import ModelConfig
from vlmoe_model.layers import init_weight
from vlmoe_model.packing import SequenceRun
from vlmoe_model.stems import STEMS

# of BERT, whose text embeddings VLMo took over
TEXT_NORM_EPS = 1e-12


class Embeddings(nn.Module):
    """Word and patch embeddings, [I_CLS], absolute positions, types (VLMo: T 0, V 1).

    VLMo's text embeddings carry a type of their own inside the norm, always the same one: a row to add to `words`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = STEMS[config.stem](config)
        self.words = init_weight(config.vocab_size, config.dim)
        self.image_cls = init_weight(1, config.dim)
        if config.absolute_position:
            self.text_positions = init_weight(
                config.position_offset + config.max_text, config.dim, std=config.position_std
            )
            self.image_positions = init_weight(
                config.position_offset + 1 + config.grid**2, config.dim, std=config.position_std
            )
        if config.type_embeddings:
            self.types = init_weight(2, config.dim)
        if config.text_embedding_norm:
            self.text_norm = nn.LayerNorm(config.dim, eps=TEXT_NORM_EPS)

    def forward(self, run: SequenceRun) -> tuple[Tensor, Tensor | None]:
        """One run to [N * length, D], and the stem's patches [N, G * G, D] where there is an image."""
        parts, patches = [], None
        if run.tokens is not None:
            parts.append(self.text(run.tokens))
        if run.images is not None:
            patches = self.stem(run.images)
            parts.append(self.image(patches))
        x_NLD = torch.cat(parts if run.text_first else parts[::-1], dim=1)
        return x_NLD.reshape(-1, self.config.dim), patches

    def text(self, tokens_NL: Tensor) -> Tensor:
        """[N, L] -> [N, L, D]."""
        x = F.embedding(tokens_NL, self.words)
        if self.config.absolute_position:
            offset = self.config.position_offset
            x = x + self.text_positions[offset : offset + tokens_NL.shape[1]]
        if self.config.text_embedding_norm:
            x = self.text_norm(x)
        if self.config.type_embeddings:
            x = x + self.types[0]
        return x

    def image(self, patches_NGD: Tensor) -> Tensor:
        """[N, G * G, D] -> [N, 1 + G * G, D], with [I_CLS] in front."""
        n, num_patches, _ = patches_NGD.shape
        x = torch.cat([self.image_cls.expand(n, 1, -1).to(patches_NGD.dtype), patches_NGD], dim=1)
        if self.config.absolute_position:
            x = x + self.positions_for(round(num_patches**0.5))
        if self.config.type_embeddings:
            x = x + self.types[1]
        return x

    def positions_for(self, grid: int) -> Tensor:
        """Image positions [1 + grid^2, D], interpolated (bicubic) where the grid is not the trained one."""
        used = self.image_positions[self.config.position_offset :]
        if grid == self.config.grid:
            return used
        table = used[1:].T.reshape(1, -1, self.config.grid, self.config.grid)
        resized = F.interpolate(table.float(), size=(grid, grid), mode="bicubic", align_corners=False)
        return torch.cat([used[:1], resized.flatten(2)[0].T.to(used.dtype)])
