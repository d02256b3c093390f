"""A tiny model in every part but the network: configuration, tokenizer, labels, weights, checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.tokenizer import Tokenizer, train_wordpiece

TEXTS = ("what shape is in the image", "is there a red circle", "a pair of scissors", "two cats sleeping")


@pytest.fixture
def config() -> ModelConfig:
    image = ImageSpec(size=8)
    return ModelConfig(
        dim=8,
        num_layers=2,
        num_heads=2,
        ffn_dim=16,
        vocab_size=120,
        image_size=8,
        patch_size=4,
        max_text=12,
        moe_blocks=(1,),
        num_experts=4,
        vl_start=1,
        heads=(
            HeadConfig(name="questions", task="vqa", out_dim=3, image=image, max_text=12),
            HeadConfig(name="shapes", task="image_classification", out_dim=2, image=image, max_text=0),
            HeadConfig(name="entailment", task="text_classification", out_dim=2, image=None, max_text=12),
            HeadConfig(name="matching", task="contrastive", out_dim=6, image=image, max_text=8),
        ),
    )


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_wordpiece(TEXTS, 100)


@pytest.fixture
def labels() -> dict[str, list[str]]:
    return {"questions": ["yes", "no", "circle"], "shapes": ["round", "square"], "entailment": ["no", "yes"]}


@pytest.fixture
def state(config: ModelConfig) -> dict[str, Tensor]:
    """Weights under the names of the network, with the experts of block 1 on dim 0."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"embeddings.words": (120, 8), "encoder.norm.weight": (1, 8)}
    for block, pools in ((0, ("V", "T")), (1, ("V", "T", "VL"))):
        for pool in pools:
            experts = config.num_experts if block in config.moe_blocks and pool != "VL" else 1
            shapes[f"encoder.blocks.{block}.ffn.pools.{pool}.w1"] = (experts, 16, 8)
            shapes[f"encoder.blocks.{block}.ffn.pools.{pool}.b1"] = (experts, 16)
    shapes["encoder.blocks.1.ffn.routers.V.weight"] = (4, 8)
    shapes |= {f"heads.{head.name}.out.weight": (head.out_dim, 8) for head in config.heads}
    shapes["heads.matching.logit_scale"] = ()
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def saved(
    tmp_path: Path,
    config: ModelConfig,
    state: dict[str, Tensor],
    tokenizer: Tokenizer,
    labels: dict[str, list[str]],
) -> Callable[..., Path]:
    """saved(name, **changes): save the tiny checkpoint with some arguments of `save` changed; its path."""

    def build(name: str = "checkpoint", **changes: object) -> Path:
        arguments = {"config": config, "state": state, "tokenizer": tokenizer, "labels": labels, **changes}
        save(tmp_path / name, **arguments)  # type: ignore[arg-type]
        return tmp_path / name

    return build
