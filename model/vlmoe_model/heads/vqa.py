"""Visual question answering: one label per known answer (VLMo, BEiT-3)."""

from torch import Tensor, nn

from vlmoe_model.config import HeadConfig, ModelConfig
from vlmoe_model.heads.base import Head, States
from vlmoe_model.layers import Linear


class VQAHead(Head):
    """tanh pooler on the first token, then Linear, LayerNorm, GELU, Linear."""

    def __init__(self, head: HeadConfig, config: ModelConfig) -> None:
        super().__init__()
        hidden = head.hidden or 2 * config.dim
        self.pooler = Linear(config.dim, config.dim, std=config.init_std)
        self.up = Linear(config.dim, hidden, std=config.init_std)
        self.norm = nn.LayerNorm(hidden, eps=config.norm_eps)
        self.out = Linear(hidden, head.out_dim, std=config.init_std)

    def forward(self, states: States) -> Tensor:
        """[N, answers] logits.

        Raises:
            ValueError: the run lacks an image or a text.
        """
        if not states.run.num_image or not states.run.num_text:
            raise ValueError(f"head {states.run.head!r} needs an image and a text")
        pooled = self.pooler(states.first.float()).tanh()
        out: Tensor = self.out(nn.functional.gelu(self.norm(self.up(pooled))))
        return out
