"""How an image becomes patch tokens. A stem maps float32 [N, 3, S, S] to [N, (S / patch)^2, dim]."""

from collections.abc import Callable, Mapping

from torch import nn

from vlmoe_model.config import ModelConfig
from vlmoe_model.stems.conv import ConvStem
from vlmoe_model.stems.gradient import GradientStem
from vlmoe_model.stems.patch import PatchStem

STEMS: Mapping[str, Callable[[ModelConfig], nn.Module]] = {
    "patch": lambda config: PatchStem(config.dim, config.patch_size),
    "conv": lambda config: ConvStem(config.dim, config.patch_size),
    "gradient": lambda config: GradientStem(config.dim, config.patch_size),
}
