"""One number a token that says all that the network must know of it.

vLLM batches tokens of many sequences and hands the model their ids and positions, no more. So an id tells a text token
from an image token, which row of the words or of the image positions it is, and whether its sequence is a pair:

    words | [I_CLS] and patches, grid by grid | words of a pair | [I_CLS] and patches of a pair

A sequence is always its text and then its image. Attention has no order but that of the positions, which are ours.
"""

# T = tokens of a sequence

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmoe_model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class TokenIds:
    """The numbering of one network. grids: patches along a side, of every size of image that a head takes."""

    vocab_size: int
    grids: tuple[int, ...]

    @classmethod
    def of(cls, config: ModelConfig) -> "TokenIds":
        """The numbering of a network with these heads."""
        sizes = {head.image.size for head in config.heads if head.image is not None}
        return cls(config.vocab_size, tuple(sorted(size // config.patch_size for size in sizes)))

    @property
    def num_image_rows(self) -> int:
        """Rows of image positions: one [I_CLS] and the patches of each grid."""
        return sum(num_image_tokens(grid) for grid in self.grids)

    @property
    def half(self) -> int:
        """Where the ids of pairs begin."""
        return self.vocab_size + self.num_image_rows

    @property
    def size(self) -> int:
        """All ids lie below."""
        return 2 * self.half

    def first_row(self, grid: int) -> int:
        """The image row of a grid's [I_CLS].

        Raises:
            ValueError: no head takes images of this grid.
        """
        if grid not in self.grids:
            raise ValueError(
                f"images have {' or '.join(map(str, self.grids))} patches along a side, got {grid}"
            )
        return sum(num_image_tokens(smaller) for smaller in self.grids if smaller < grid)

    def prompt(self, tokens: npt.NDArray[np.int32] | None, grid: int | None) -> list[int]:
        """The ids of one sequence: its text, its image, or both."""
        ids: list[int] = [] if tokens is None else tokens.tolist()
        if grid is not None:
            first = self.vocab_size + self.first_row(grid)
            ids += range(first, first + num_image_tokens(grid))
        if tokens is not None and grid is not None:
            ids = [one + self.half for one in ids]
        return ids


def num_image_tokens(grid: int) -> int:
    """[I_CLS] and the patches."""
    return 1 + grid * grid


def longest(config: ModelConfig) -> int:
    """Tokens of the longest sequence that a head takes."""
    lengths = [
        head.max_text + (0 if head.image is None else num_image_tokens(head.image.size // config.patch_size))
        for head in config.heads
    ]
    return max(lengths, default=1)


def normalisations(config: ModelConfig) -> Sequence[str]:
    """One head for each way in which images are normalised; an image travels with its place in this list."""
    names: dict[tuple[object, ...], str] = {}
    for head in config.heads:
        if head.image is not None:
            names.setdefault((head.image.mean, head.image.std), head.name)
    return list(names.values())


def normalisation(config: ModelConfig, head: str) -> int:
    """The place of a head's normalisation in `normalisations`."""
    wanted = config.head(head).image
    for place, name in enumerate(normalisations(config)):
        image = config.head(name).image
        if wanted is not None and image is not None and (image.mean, image.std) == (wanted.mean, wanted.std):
            return place
    raise ValueError(f"head {head!r} takes no images")
