"""Orientation histograms of images, in one pass."""

import torch
from torch import Tensor

from vlmoe_kernels.native.library import library

# orientations and colours, as `src/cells.h` has them
NUM_MAPS = 9 + 3


def gradient_cells(images_N3SS: Tensor, cell: int, epsilon: float) -> Tensor:
    """See `ops.CellBackend.gradient_cells`.

    Raises:
        ValueError: no float32 [N, 3, S, S], or a side that does not split into cells.
    """
    num, channels, side, width = images_N3SS.shape
    if images_N3SS.dtype != torch.float32 or channels != 3 or side != width or side % cell:
        raise ValueError(
            f"images must be float32 [N, 3, S, S] with S a multiple of {cell}, "
            f"got {images_N3SS.dtype} {list(images_N3SS.shape)}"
        )
    images_N3SS = images_N3SS.contiguous()
    cells = images_N3SS.new_empty(num, NUM_MAPS, side // cell, side // cell)
    library().call(
        "gradient_cells",
        torch.float32,
        images_N3SS.data_ptr(),
        num,
        side,
        cell,
        epsilon,
        out=cells.data_ptr(),
    )
    return cells
