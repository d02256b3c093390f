"""The tiny model in each of its variants."""

import dataclasses

import pytest

from vlmoe_model.config import ModelConfig

# name: what is changed in the tiny configuration
VARIANTS = {
    "plain": {},
    "patch stem, dense": {"moe_blocks": (), "num_experts": 1},
    "two choices": {"top_k": 2, "moe_blocks": (0, 1)},
    "no vl pool": {"vl_start": None},
    "vl pool everywhere": {"vl_start": 0, "moe_blocks": (0, 1), "top_k": 2},
    "image first": {"order": "image_first"},
    "multiway attention": {"multiway_attention": True},
    "sub-norms": {"sub_ln": True},
    "multiway sub-norms": {"sub_ln": True, "multiway_attention": True, "vl_start": None},
    "layer scale": {"layer_scale": 0.1},
    "key bias": {"key_bias": True},
    "multiway key bias": {"key_bias": True, "multiway_attention": True},
    "types": {"type_embeddings": True},
    "text norm": {"text_embedding_norm": True, "type_embeddings": True},
    "position offset": {"position_offset": 2},
    "no positions": {"absolute_position": False},
    "relative positions": {"relative_position": True, "absolute_position": False},
    "relative positions, image first": {"relative_position": True, "order": "image_first"},
    "no final norm": {"final_norm": False},
    "drop path at rest": {"drop_path": 0.5, "capacity_train": 0.5},
    "conv stem": {"stem": "conv"},
    "gradient stem": {"stem": "gradient"},
    "pools": {"pools": ("mean", "flatten")},
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, config: ModelConfig) -> ModelConfig:
    changes = dict(VARIANTS[request.param])
    pools = changes.pop("pools", ("cls", "cls"))
    heads = []
    for head in config.heads:
        kind = {"shapes": pools[0], "matching": pools[1]}.get(head.name, "cls")
        heads.append(dataclasses.replace(head, pool=kind))
    return dataclasses.replace(config, heads=tuple(heads), num_layers=2, **changes)
