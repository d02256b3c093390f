"""What every data set turns into: prepared images, texts, targets. Numpy only.

images [M] <- image_index [N] -- texts [N], targets [N], groups [N] -- targets index into labels
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Split = Literal["train", "val", "test"]


class DataError(ValueError):
    """A data set's file is missing, broken, or not what its table says: one clear line."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """One split of one data set; rows may share an image.

    images: uint8 [M, S, S, 3], already cropped and resized for the head.
    image_index: int64 [N], row -> image, -1 for a row without one.
    texts: question or caption a row, "" for none.
    targets: int64 [N], index into `labels`; -1 (an answer that is no label) only outside train.
    labels: classes, answers or captions; the same tuple for every split and image size of a data set.
    groups: kind of question or style of drawing a row, "" for none.
    """

    images: npt.NDArray[np.uint8]
    image_index: npt.NDArray[np.int64]
    texts: tuple[str, ...]
    targets: npt.NDArray[np.int64]
    labels: tuple[str, ...]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        num_rows = len(self.texts)
        if not num_rows == len(self.image_index) == len(self.targets) == len(self.groups):
            raise ValueError(
                f"rows disagree: {num_rows} texts, {len(self.image_index)} image indices, "
                f"{len(self.targets)} targets, {len(self.groups)} groups"
            )
        if num_rows and not -1 <= self.image_index.min() <= self.image_index.max() < len(self.images):
            raise ValueError(f"image_index must lie in [-1, {len(self.images) - 1}]")
        if num_rows and not -1 <= self.targets.min() <= self.targets.max() < len(self.labels):
            raise ValueError(f"targets must lie in [-1, {len(self.labels) - 1}]")

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, chosen: npt.NDArray[np.int64]) -> "Samples":
        """The same samples with only the chosen rows, in that order; images are shared, not copied."""
        return Samples(
            images=self.images,
            image_index=self.image_index[chosen],
            texts=tuple(self.texts[i] for i in chosen),
            targets=self.targets[chosen],
            labels=self.labels,
            groups=tuple(self.groups[i] for i in chosen),
        )
