"""The states of one run as heads see them, and the pooling they share."""

# N = sequences, L = tokens of a sequence, G = patches, D = dim

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlmoe_model.config import HeadConfig, ModelConfig
from vlmoe_model.packing import SequenceRun


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """x_NLD: the encoder's output for one run. patches_NGD: the stem's output, where there is an image."""

    run: SequenceRun
    x_NLD: Tensor
    patches_NGD: Tensor | None

    @property
    def first(self) -> Tensor:
        """[N, D]: the sequence's first token."""
        return self.x_NLD[:, 0]

    @property
    def text(self) -> Tensor:
        """[N, D]: [T_CLS].

        Raises:
            ValueError: the run has no text.
        """
        if not self.run.num_text:
            raise ValueError(f"head {self.run.head!r} needs a text")
        return self.x_NLD[:, self.run.text_start]

    @property
    def image(self) -> Tensor:
        """[N, 1 + G, D]: [I_CLS] and the patches.

        Raises:
            ValueError: the run has no image.
        """
        if not self.run.num_image:
            raise ValueError(f"head {self.run.head!r} needs an image")
        return self.x_NLD[:, self.run.image_start :][:, : self.run.num_image]


class Head(nn.Module, ABC):
    """One head. Its parameters are small; they run in float32 in every serving precision."""

    @abstractmethod
    def forward(self, states: States) -> Tensor:
        """[N, out_dim]."""


class ImagePool(nn.Module):
    """The image outputs as one vector, by `HeadConfig.pool`.

    `flatten` keeps the position: all patches side by side, the stem's patches with them, which gives the head a
    linear path from the stem's features. `cls` is normed by the encoder where that has a final norm.
    """

    def __init__(self, head: HeadConfig, config: ModelConfig) -> None:
        super().__init__()
        self.kind = head.pool
        side = 0 if head.image is None else head.image.size
        self.num_patches = (side // config.patch_size) ** 2
        self.out_dim = config.dim * (2 * self.num_patches if self.kind == "flatten" else 1)
        is_normed = self.kind == "cls" and config.final_norm
        self.norm = nn.Identity() if is_normed else nn.LayerNorm(self.out_dim, eps=config.norm_eps)

    def forward(self, states: States) -> Tensor:
        """[N, out_dim], normalised.

        Raises:
            ValueError: `flatten` got an image of another size than the head's.
        """
        image = states.image.float()
        if self.kind == "cls":
            pooled = image[:, 0]
        elif self.kind == "mean":
            pooled = image[:, 1:].mean(dim=1)
        else:
            if image.shape[1] != 1 + self.num_patches or states.patches_NGD is None:
                raise ValueError(f"head {states.run.head!r} needs images of {self.num_patches} patches")
            pooled = torch.cat([image[:, 1:].flatten(1), states.patches_NGD.float().flatten(1)], dim=1)
        out: Tensor = self.norm(pooled)
        return out
