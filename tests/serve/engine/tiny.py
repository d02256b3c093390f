"""A tiny model with mixtures, a checkpoint of it, and jobs for it."""

from pathlib import Path

import numpy as np
import torch

from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.tokenizer import train_wordpiece

IMAGE = ImageSpec(size=16)
CONFIG = ModelConfig(
    dim=16,
    num_layers=3,
    num_heads=2,
    ffn_dim=32,
    vocab_size=120,
    image_size=16,
    patch_size=4,
    max_text=12,
    moe_blocks=(0, 2),
    num_experts=4,
    vl_start=2,
    heads=(
        HeadConfig(name="questions", task="vqa", out_dim=3, image=IMAGE, max_text=12),
        HeadConfig(name="matching", task="contrastive", out_dim=6, image=IMAGE, max_text=8),
    ),
)


def save_tiny(path: Path, seed: int) -> None:
    """A checkpoint with random weights."""
    torch.manual_seed(seed)
    tokenizer = train_wordpiece(["what shape is in the image", "is there a red circle"], 100)
    save(path, CONFIG, VLMoE(CONFIG).state_dict(), tokenizer, {"questions": ["yes", "no", "circle"]})


def jobs(num: int) -> list[Job]:
    """Pairs, images and texts of several lengths."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(num):
        image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        text = np.array([2, *rng.integers(5, 60, index % 5), 3], np.int32)
        made.append(
            (
                Job("questions", Example(image, text)),
                Job("matching", Example(image=image)),
                Job("matching", Example(tokens=text)),
            )[index % 3]
        )
    return made
