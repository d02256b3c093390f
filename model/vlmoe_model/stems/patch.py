"""One matrix per patch: ViT's stem."""

# N = images, S = side, P = patch side, G = patches along a side, D = dim

import torch
from torch import Tensor, nn

from vlmoe_model.layers import Linear


class PatchStem(nn.Module):
    """A linear map of each patch's pixels, channels outermost as in a convolution's weight."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = Linear(3 * patch_size**2, dim)

    def forward(self, images_N3SS: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, G * G, D]."""
        n, channels, side, _ = images_N3SS.shape
        p, g = self.patch_size, side // self.patch_size
        patches = images_N3SS.view(n, channels, g, p, g, p).permute(0, 2, 4, 1, 3, 5)
        rows: Tensor = self.proj(patches.reshape(n * g * g, channels * p * p))
        return rows.view(n, g * g, -1)


def unfold_cells(maps_NCHW: Tensor, grid: int) -> Tensor:
    """[N, C, G * c, G * c] -> [N * G * G, C * c * c]: the cells of each patch side by side."""
    n, channels, height, _ = maps_NCHW.shape
    c = height // grid
    cells = maps_NCHW.view(n, channels, grid, c, grid, c).permute(0, 2, 4, 1, 3, 5)
    return torch.reshape(cells, (n * grid * grid, channels * c * c))
