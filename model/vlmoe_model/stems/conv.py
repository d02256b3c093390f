"""A stack of strided convolutions: a softer start than one matrix (Xiao et al. 2021, "Early convolutions")."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvStem(nn.Module):
    """log2(patch) convolutions 3x3 of stride 2 with GELU, then one 1x1."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        depth = patch_size.bit_length() - 1
        if patch_size != 1 << depth or depth < 1:
            raise ValueError(f"a conv stem needs a patch_size that is a power of two, got {patch_size}")
        widths = [3] + [max(8, dim >> (depth - i)) for i in range(1, depth + 1)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.proj = nn.Conv2d(widths[-1], dim, 1)

    def forward(self, images_N3SS: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, G * G, D]."""
        if self.training:
            return self._patches(images_N3SS)
        # image by image: a convolution's kernel, and with it its bits, depend on how many images there are
        return torch.cat([self._patches(image_13SS) for image_13SS in torch.split(images_N3SS, 1)])

    def _patches(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.gelu(conv(x))
        y: Tensor = self.proj(x)
        return y.flatten(2).transpose(1, 2)
