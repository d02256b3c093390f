"""A small network with everything that the benchmark's networks have."""

import pytest
import torch

from vlmoe_model.config import ModelConfig


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig(
        dim=32,
        num_layers=4,
        num_heads=2,
        ffn_dim=48,
        vocab_size=50,
        image_size=32,
        patch_size=8,
        max_text=12,
        moe_blocks=(1, 3),
        num_experts=4,
        vl_start=3,
        top_k=2,
    )


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
