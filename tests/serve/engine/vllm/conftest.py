"""Checkpoints that between them have everything that engine vllm supports, and jobs of every kind for them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.tokenizer import train_wordpiece

SMALL, LARGE = ImageSpec(size=16), ImageSpec(size=24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
HEADS = (
    HeadConfig(name="questions", task="vqa", out_dim=5, image=LARGE, max_text=12),
    HeadConfig(
        name="shapes", task="image_classification", out_dim=4, image=SMALL, max_text=0, pool="flatten"
    ),
    HeadConfig(name="colours", task="image_classification", out_dim=3, image=LARGE, max_text=0, pool="mean"),
    HeadConfig(name="tones", task="text_classification", out_dim=2, image=None, max_text=9),
    HeadConfig(name="matching", task="contrastive", out_dim=8, image=SMALL, max_text=12),
)
# two choices a token, an odd number of experts, every embedding there is, the image in front
MIXTURE = ModelConfig(
    dim=64,
    num_layers=4,
    num_heads=2,
    ffn_dim=80,
    vocab_size=120,
    image_size=24,
    patch_size=8,
    max_text=12,
    moe_blocks=(0, 2, 3),
    num_experts=5,
    top_k=2,
    vl_start=2,
    order="image_first",
    type_embeddings=True,
    text_embedding_norm=True,
    layer_scale=0.5,
    key_bias=True,
    heads=HEADS,
)
# BEiT-3's: projections and norms a modality, norms inside the layers, unused rows of positions
DENSE = ModelConfig(
    dim=64,
    num_layers=3,
    num_heads=2,
    ffn_dim=96,
    vocab_size=120,
    image_size=24,
    patch_size=8,
    max_text=12,
    vl_start=1,
    sub_ln=True,
    multiway_attention=True,
    position_offset=2,
    key_bias=True,
    heads=HEADS,
)
CONFIGS = {"mixture": MIXTURE, "dense": DENSE}
LABELS = {head.name: [f"{head.name}{i}" for i in range(head.out_dim)] for head in HEADS[:4]}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """checkpoint(name): the directory of one of `CONFIGS`, with weights none of which is a zero or a one."""

    def make(name: str) -> Path:
        directory = tmp_path_factory.mktemp("checkpoints") / name
        generator = torch.Generator().manual_seed(0)
        network = VLMoE(CONFIGS[name])
        state = {}
        for key, tensor in network.state_dict().items():
            # routers that are sure, as trained ones are: an expert must not hang on the last bit
            width = 1.0 if ".routers." in key else 0.1
            is_scale = key.endswith("logit_scale")
            noise = torch.randn(tensor.shape, generator=generator)
            state[key] = tensor if is_scale else tensor + width * noise
        tokenizer = train_wordpiece(["what shape is in the image", "is there a red circle"], 100)
        save(directory, CONFIGS[name], state, tokenizer, LABELS)
        return directory

    return make


@pytest.fixture(scope="session")
def mixture() -> ModelConfig:
    return MIXTURE


@pytest.fixture(scope="session")
def ragged_jobs() -> Callable[[ModelConfig], list[Job]]:
    """Texts, images and pairs of many lengths for all heads, in no order."""

    def make(config: ModelConfig, num: int = 5) -> list[Job]:
        rng = np.random.default_rng(0)
        jobs = []
        for head in config.heads:
            for index in range(num):
                image = tokens = None
                if head.image is not None and not (head.task == "contrastive" and index % 2):
                    image = rng.integers(0, 256, (head.image.size, head.image.size, 3), dtype=np.uint8)
                if head.max_text and not (head.task == "contrastive" and image is not None):
                    length = int(rng.integers(2, head.max_text + 1))
                    tokens = rng.integers(0, config.vocab_size, length, dtype=np.int32)
                jobs.append(Job(head.name, Example(image, tokens)))
        rng.shuffle(jobs)
        return jobs

    return make
