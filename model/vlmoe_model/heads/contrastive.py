"""Image and text into one space (image-text contrast, ITC)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmoe_model.config import HeadConfig, ModelConfig
from vlmoe_model.heads.base import Head, ImagePool, States
from vlmoe_model.layers import Linear


class ContrastiveHead(Head):
    """Bias-free projections of the pooled image and of [T_CLS], scaled to unit length.

    logit_scale: logarithm of the factor between cosine and logit, ln(1 / 0.07) at the start (CLIP).
    """

    def __init__(self, head: HeadConfig, config: ModelConfig) -> None:
        super().__init__()
        self.pool = ImagePool(head, config)
        self.image_proj = Linear(self.pool.out_dim, head.out_dim, bias=False)
        self.text_proj = Linear(config.dim, head.out_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, states: States) -> Tensor:
        """[N, out_dim], unit length: of the image if the run has one, of the text otherwise.

        Raises:
            ValueError: the run has both.
        """
        if states.run.num_image and states.run.num_text:
            raise ValueError(f"head {states.run.head!r} embeds an image or a text, not both at once")
        if states.run.num_image:
            return F.normalize(self.image_proj(self.pool(states)).float(), dim=-1)
        return F.normalize(self.text_proj(states.text.float()).float(), dim=-1)
