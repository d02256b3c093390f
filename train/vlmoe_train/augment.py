"""Augmentation of batches of images as tensors. Draws from torch's global generator, which the loop seeds a step."""

# N = images, S = side

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_train.config import Augment


def flip(images_N3SS: Tensor) -> Tensor:
    """Mirror half of the images, and shift each by up to 4 %."""
    flipped = torch.where(_coin(images_N3SS, 0.5), images_N3SS.flip(3), images_N3SS)
    return _warp(flipped, rotate=0.0, scale=0.04, shift=0.04, share=0.8)


def affine(images_N3SS: Tensor) -> Tensor:
    """Rotate by up to 10 degrees, scale by 10 %, shift by 5 %; a fifth stays as it is."""
    return _warp(images_N3SS, rotate=0.17, scale=0.1, shift=0.05, share=0.8)


def drawing(images_N3SS: Tensor) -> Tensor:
    """Affine, then what sets drawing styles apart: colour, contrast, softness, missing parts."""
    x = affine(images_N3SS)
    n = x.shape[0]
    # a random colour matrix near the identity, and a random contrast, for half of the images
    matrix = torch.eye(3) + 0.15 * torch.randn(n, 3, 3)
    coloured = torch.einsum("nij,njhw->nihw", matrix, x - 1.0) + 1.0
    x = torch.where(_coin(x, 0.5), coloured.clamp(-1.0, 1.0), x)
    x = torch.where(_coin(x, 0.1), x.mean(dim=1, keepdim=True).expand_as(x), x)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.where(_coin(x, 0.2), blurred, x)
    return _erase(x, share=0.2)


def _coin(images: Tensor, share: float) -> Tensor:
    return torch.rand(images.shape[0], 1, 1, 1) < share


def _warp(images: Tensor, *, rotate: float, scale: float, shift: float, share: float) -> Tensor:
    """A random similarity with a little unevenness between the axes, for `share` of the images."""
    n = images.shape[0]
    angle = (torch.rand(n) * 2 - 1) * rotate
    sx, sy = (1 + (torch.rand(2, n) * 2 - 1) * scale).unbind()
    tx, ty = ((torch.rand(2, n) * 2 - 1) * 2 * shift).unbind()
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [torch.stack([cos * sx, -sin * sy, tx], 1), torch.stack([sin * sx, cos * sy, ty], 1)], 1
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(_coin(images, share), warped, images)


def _erase(images: Tensor, *, share: float) -> Tensor:
    """Paint a rectangle of up to a third of each side white."""
    n, _, side, _ = images.shape
    start = torch.rand(2, n, 1, 1) * side
    extent = torch.rand(2, n, 1, 1) * side / 3
    line = torch.arange(side)
    rows = (line.view(1, side, 1) >= start[0]) & (line.view(1, side, 1) < start[0] + extent[0])
    columns = (line.view(1, 1, side) >= start[1]) & (line.view(1, 1, side) < start[1] + extent[1])
    hidden = (rows & columns).unsqueeze(1) & _coin(images, share)
    return torch.where(hidden, torch.ones(()), images)


AUGMENTS: Mapping[Augment, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "flip": flip,
    "affine": affine,
    "drawing": drawing,
}
