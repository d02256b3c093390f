import dataclasses
from collections.abc import Callable

import pytest
import torch

from vlmoe_kernels import backend
from vlmoe_model.attention import Attention
from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.packing import pack


def test_keys_have_a_bias_only_on_request(config: ModelConfig) -> None:
    assert Attention(config, 0).k_bias is None
    assert Attention(dataclasses.replace(config, key_bias=True), 0).k_bias is not None


@torch.no_grad()
def test_a_key_bias_shared_by_all_tokens_changes_nothing(
    config: ModelConfig, mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    """It adds the same number to all logits of a query; BEiT-3 has one per modality, where it does matter."""
    packed = pack(mixed_jobs(config), config)
    x_TD = torch.randn(packed.num_tokens, config.dim)
    for multiway, matters in ((False, False), (True, True)):
        attention = Attention(dataclasses.replace(config, key_bias=True, multiway_attention=multiway), 0)
        before = attention(x_TD, packed, None)
        attention.k_bias.normal_(std=30.0)
        assert torch.allclose(attention(x_TD, packed, None), before, atol=1e-5) != matters


@torch.no_grad()
@pytest.mark.parametrize("multiway", [False, True])
def test_packed_attention_is_the_attention(
    config: ModelConfig, mixed_jobs: Callable[[ModelConfig], list[Job]], multiway: bool
) -> None:
    packed = pack(mixed_jobs(config), config)
    x_TD = torch.randn(packed.num_tokens, config.dim)
    attention = Attention(dataclasses.replace(config, multiway_attention=multiway, sub_ln=True), 0)
    before = attention(x_TD, packed, None)
    attention.pack(backend("cpu"), torch.float32)
    torch.testing.assert_close(attention(x_TD, packed, None), before)


def test_deeper_blocks_start_smaller(config: ModelConfig) -> None:
    config = dataclasses.replace(config, dim=64, heads=())
    first, last = (Attention(config, index).out.weight.std().item() for index in (0, 7))
    assert first / last == pytest.approx(8**0.5, rel=0.1)
