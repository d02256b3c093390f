"""One label per image, or per text."""

from torch import Tensor, nn

from vlmoe_model.config import HeadConfig, ModelConfig
from vlmoe_model.heads.base import Head, ImagePool, States
from vlmoe_model.layers import Linear


class ImageClassificationHead(Head):
    """Pooled image, LayerNorm, Linear."""

    def __init__(self, head: HeadConfig, config: ModelConfig) -> None:
        super().__init__()
        self.pool = ImagePool(head, config)
        self.out = Linear(self.pool.out_dim, head.out_dim)

    def forward(self, states: States) -> Tensor:
        """[N, labels] logits."""
        out: Tensor = self.out(self.pool(states))
        return out


class TextClassificationHead(Head):
    """[T_CLS], LayerNorm, Linear. A text pair is one text: [T_CLS] a [T_SEP] b [T_SEP]."""

    def __init__(self, head: HeadConfig, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.out = Linear(config.dim, head.out_dim)

    def forward(self, states: States) -> Tensor:
        """[N, labels] logits."""
        out: Tensor = self.out(self.norm(states.text.float()))
        return out
