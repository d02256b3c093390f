"""A checkpoint of a preset with random weights, for benches: what is served costs the same whatever it answers."""

import dataclasses
from pathlib import Path

import torch

from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec
from vlmoe_model.network import VLMoE
from vlmoe_model.presets import PRESETS
from vlmoe_model.tokenizer import train_wordpiece
from vlmoe_serve.bench.weights import Weights

ANSWERS = 100


def random_checkpoint(preset: str, directory: Path) -> Path:
    """A checkpoint of a preset with a head for pairs and one for images and texts, stored as bf16."""
    config = PRESETS[preset]
    image = ImageSpec(size=config.image_size)
    heads = (
        HeadConfig(name="vqa", task="vqa", out_dim=ANSWERS, image=image, max_text=config.max_text),
        HeadConfig(name="itc", task="contrastive", out_dim=256, image=image, max_text=config.max_text),
    )
    config = dataclasses.replace(config, heads=heads)
    with torch.device("meta"):
        network = VLMoE(config)
    # one block's tensors serve all: to draw two billion numbers takes minutes
    Weights(torch.bfloat16).fill(network)
    tokenizer = train_wordpiece(["what is in the picture", "how many bananas are there"], 100)
    labels = {"vqa": [str(i) for i in range(ANSWERS)]}
    save(directory / preset, config, network.state_dict(), tokenizer, labels, dtype=torch.bfloat16)
    return directory / preset
