"""VLMo's learned relative-position bias for packed text and image tokens.

One table row a relative distance: (2g - 1)^2 between patches, 3 with [I_CLS], one text-to-image, one image-to-text,
then the distances between text tokens, the last three of them with [T_CLS]. One column a (block, head).
Formula: VLMo, `build_relative_position_embed`, re-implemented.
"""

import functools

import torch
from torch import Tensor, nn

from vlmoe_model.config import ModelConfig
from vlmoe_model.packing import SequenceRun


class RelativePosition(nn.Module):
    """The table, and the bias of each block for one run."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        num_rows = num_image_distances(config.grid) + 2 * config.max_text + 2
        self.table = nn.Parameter(torch.zeros(num_rows, config.num_layers * config.num_heads))

    def forward(self, run: SequenceRun) -> Tensor:
        """[blocks, heads, length, length].

        Raises:
            ValueError: the image's grid is not the one of the table.
        """
        grid = self.config.grid
        if run.num_image not in (0, grid**2 + 1):
            raise ValueError(f"relative positions are for images of {self.config.image_size} pixels")
        index = distance_index(run.num_text, run.num_image, grid, self.config.max_text, run.text_first)
        bias = self.table[index.to(self.table.device)].permute(2, 0, 1)
        return bias.reshape(self.config.num_layers, self.config.num_heads, run.length, run.length)


def num_image_distances(grid: int) -> int:
    """Distances between patches, and three for [I_CLS]."""
    return (2 * grid - 1) ** 2 + 3


@functools.lru_cache(maxsize=256)
def distance_index(num_text: int, num_image: int, grid: int, max_text: int, text_first: bool) -> Tensor:
    """int64 [length, length]: the table row of every pair of tokens."""
    # cached for training as well, whoever asks first
    with torch.inference_mode(False):
        return _distance_index(num_text, num_image, grid, max_text, text_first)


def _distance_index(num_text: int, num_image: int, grid: int, max_text: int, text_first: bool) -> Tensor:
    num_image_rows = num_image_distances(grid)
    total = num_image_rows + 2 * max_text + 2
    text, image = torch.arange(num_text), torch.arange(num_image)
    of_text = text[None, :] - text[:, None] + (max_text - 2) + num_image_rows + 2
    of_image = torch.zeros(num_image, num_image, dtype=torch.int64)
    if num_image:
        coords = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")).flatten(1)
        delta = coords[:, :, None] - coords[:, None, :] + grid - 1
        of_image[1:, 1:] = delta[0] * (2 * grid - 1) + delta[1]
    for table, rows in ((of_text, total), (of_image, num_image_rows)):
        table[:1, :] = rows - 3
        table[:, :1] = rows - 2
        table[:1, :1] = rows - 1
    to_image = torch.full((len(text), len(image)), num_image_rows)
    to_text = torch.full((len(image), len(text)), num_image_rows + 1)
    if text_first:
        return torch.cat([torch.cat([of_text, to_image], 1), torch.cat([to_text, of_image], 1)])
    return torch.cat([torch.cat([of_image, to_text], 1), torch.cat([to_image, of_text], 1)])
