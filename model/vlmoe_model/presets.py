"""Named configurations. Heads are added by the recipe that trains them."""

import dataclasses
from collections.abc import Mapping

from vlmoe_model.config import ModelConfig

# Shen et al. 2023, BASE/32E: expert pools in every second block, VL layer in the top two. 1.93 B parameters stored,
# 175 M in the dense twin. Eval is dropless; the paper's capacity is 1.0.
_BASE = ModelConfig(
    dim=768,
    num_layers=12,
    num_heads=12,
    ffn_dim=3072,
    vocab_size=30522,
    image_size=224,
    patch_size=16,
    max_text=96,
    moe_blocks=(1, 3, 5, 7, 9, 11),
    num_experts=32,
    vl_start=10,
    router="batch_priority",
    capacity_train=1.05,
    drop_path=0.1,
)

_SMALL = dataclasses.replace(
    _BASE, dim=384, num_layers=8, num_heads=6, ffn_dim=1536, moe_blocks=(1, 3, 5, 7), vl_start=7
)

# small enough for the repository and two CPU cores
_DEMO = ModelConfig(
    dim=160,
    num_layers=6,
    num_heads=5,
    ffn_dim=320,
    vocab_size=2500,
    image_size=96,
    patch_size=16,
    max_text=32,
    moe_blocks=(1, 3, 5),
    num_experts=4,
    vl_start=4,
    router="batch_priority",
    stem="gradient",
    init_std=0.07,
    position_std=0.2,
)

PRESETS: Mapping[str, ModelConfig] = {
    "vlmoe_base_32e": _BASE,
    "vlmo_dense_base": _BASE.dense_twin(),
    "vlmoe_small_32e": _SMALL,
    "vlmo_dense_small": _SMALL.dense_twin(),
    "demo": _DEMO,
}
