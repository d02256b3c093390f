"""A tiny checkpoint with mixtures, jobs for it, and free ports."""

import socket
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


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    def make(seed: int) -> Path:
        path = tmp_path_factory.mktemp("checkpoint") / "tiny"
        torch.manual_seed(seed)
        tokenizer = train_wordpiece(["what shape is in the image", "is there a red circle"], 100)
        labels = {"questions": ["yes", "no", "circle"]}
        save(path, CONFIG, VLMoE(CONFIG).state_dict(), tokenizer, labels)
        return path

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[[int], Path]) -> Path:
    return make_checkpoint(0)


@pytest.fixture
def jobs() -> Callable[[int], list[Job]]:
    """Pairs, images and texts of several lengths."""

    def make(num: int) -> list[Job]:
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

    return make


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
            return port

    return find
