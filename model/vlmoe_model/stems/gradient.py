"""Fixed gradient-orientation and colour features per patch, then one matrix.

Histograms of oriented gradients (Dalal and Triggs 2005) describe shape independently of drawing style and need no
training, so a small encoder learns from few images. Each patch has 4 x 4 cells; a cell has 9 unsigned orientations,
soft-binned, normalised by the energy around it and square-rooted, and its mean colour.
"""

# N = images, S = side, B = orientation bins, c = cells along a side

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmoe_kernels import Backend
from vlmoe_kernels.ops import CellBackend
from vlmoe_model.layers import Linear
from vlmoe_model.stems.patch import unfold_cells

BINS = 9
CELLS = 4
EPSILON = 1e-2


class GradientStem(nn.Module):
    """Features of 4 x 4 cells per patch, through a linear map."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        if patch_size % CELLS:
            raise ValueError(
                f"a gradient stem needs a patch_size that is a multiple of {CELLS}, got {patch_size}"
            )
        self.patch_size = patch_size
        self.proj = Linear((BINS + 3) * CELLS**2, dim)
        self._cells: Callable[[Tensor, int], Tensor] = gradient_cells

    def pack(self, backend: Backend) -> None:
        """Have the cells computed by a backend that can, for inference."""
        if isinstance(backend, CellBackend):
            self._cells = partial(backend.gradient_cells, epsilon=EPSILON)

    def forward(self, images_N3SS: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, G * G, D]."""
        grid = images_N3SS.shape[-1] // self.patch_size
        with torch.no_grad(), torch.autocast(images_N3SS.device.type, enabled=False):
            cells = self._cells(images_N3SS.float(), self.patch_size // CELLS)
        rows: Tensor = self.proj(unfold_cells(cells, grid))
        return rows.view(images_N3SS.shape[0], grid * grid, -1)


def gradient_cells(images_N3SS: Tensor, cell: int) -> Tensor:
    """[N, 3, S, S] -> [N, B + 3, S / cell, S / cell]: orientation histograms and mean colours."""
    padded = F.pad(images_N3SS, (1, 1, 1, 1), mode="replicate")
    dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    # the channel with the strongest gradient speaks for the pixel
    energy, channel = (dx.square() + dy.square()).max(dim=1, keepdim=True)
    dx, dy = dx.gather(1, channel), dy.gather(1, channel)
    # image by image: the vectorised atan2 has other bits than the scalar one that handles the end of a tensor
    angle = torch.stack([torch.atan2(*of_image) for of_image in zip(dy, dx, strict=True)])
    position = (angle / math.pi % 1.0) * BINS
    magnitude = energy.sqrt()
    centres = torch.arange(BINS, device=images_N3SS.device).view(1, BINS, 1, 1)
    # 1 - circular distance, where positive; in place, because these nine maps are the stem's whole cost
    share = (position - centres).abs_().sub_(BINS / 2).abs_().sub_(BINS / 2 - 1.0).clamp_min_(0.0)
    histogram = F.avg_pool2d(share.mul_(magnitude), cell)
    around = F.avg_pool2d(histogram.sum(1, keepdim=True), 3, stride=1, padding=1, count_include_pad=False)
    return torch.cat([(histogram / (around + EPSILON)).sqrt(), F.avg_pool2d(images_N3SS, cell)], dim=1)
