import dataclasses
from collections.abc import Callable

import pytest
import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.encoder import Block, Encoder
from vlmoe_model.inputs import Job
from vlmoe_model.packing import Packed, pack


@pytest.fixture
def packed(config: ModelConfig, mixed_jobs: Callable[[ModelConfig], list[Job]]) -> Packed:
    return pack(mixed_jobs(config), config)


def test_drop_path_drops_whole_sequences_and_scales_the_rest(config: ModelConfig, packed: Packed) -> None:
    block = Block(dataclasses.replace(config, drop_path=0.5), 1).train()
    y_TD = torch.ones(packed.num_tokens, config.dim)
    total = torch.zeros_like(y_TD)
    for _ in range(200):
        dropped = block._residual(y_TD, None, packed)
        assert set(dropped.unique().tolist()) <= {0.0, 2.0}
        for sequence in torch.split(dropped, [r.length for r in packed.runs for _ in range(r.num_sequences)]):
            assert len(sequence.unique()) == 1
        total += dropped
    assert total.mean().item() / 200 == pytest.approx(1.0, abs=0.1)
    assert torch.equal(block.eval()._residual(y_TD, None, packed), y_TD)


def test_drop_path_grows_with_depth(config: ModelConfig) -> None:
    encoder = Encoder(dataclasses.replace(config, num_layers=5, drop_path=0.4))
    assert [block.drop_path for block in encoder.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_layer_scale_starts_where_it_is_told(config: ModelConfig) -> None:
    block = Block(dataclasses.replace(config, layer_scale=0.25), 0)
    assert block.scale1.tolist() == block.scale2.tolist() == [0.25] * config.dim
    assert block.scale1 is not block.scale2
    assert Block(config, 0).scale1 is None


def test_a_layer_scale_of_zero_leaves_the_residual(config: ModelConfig, packed: Packed) -> None:
    encoder = Encoder(dataclasses.replace(config, layer_scale=0.0, final_norm=False)).eval()
    x_TD = torch.randn(packed.num_tokens, config.dim)
    assert torch.equal(encoder(x_TD, packed), x_TD)


def test_the_final_norm_may_be_left_out(config: ModelConfig) -> None:
    assert Encoder(config).norm is not None
    assert Encoder(dataclasses.replace(config, final_norm=False)).norm is None
