import dataclasses
import itertools

import pytest

from vlmoe_model.network import VLMoE
from vlmoe_model.presets import PRESETS
from vlmoe_train.config import load_recipe
from vlmoe_train.optim import freeze_experts, learning_rate, make_optimizer


@pytest.fixture
def network() -> VLMoE:
    return VLMoE(dataclasses.replace(PRESETS["demo"], dim=10, ffn_dim=8, vocab_size=20))


def test_the_rate_warms_up_then_falls_to_its_floor():
    config = dataclasses.replace(load_recipe("demo"), steps=100, warmup_steps=10, lr=1.0, final_lr_ratio=0.1)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.1)


def test_only_matrices_decay(network: VLMoE):
    optimizer = make_optimizer(load_recipe("demo"), [network])
    decayed = {id(p) for p in optimizer.param_groups[0]["params"]}
    names = {name for name, p in network.named_parameters() if id(p) in decayed}
    assert "encoder.blocks.1.ffn.pools.V.w1" in names
    assert "encoder.blocks.0.attn.qkv.weight" in names
    assert not [
        name for name in names if "norm" in name or "bias" in name or "words" in name or "positions" in name
    ]
    assert len(list(network.parameters())) == sum(len(g["params"]) for g in optimizer.param_groups)


def test_freezing_stops_experts_and_routers_alone(network: VLMoE):
    freeze_experts(network)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {
        name
        for name, _ in network.named_parameters()
        if name.startswith(
            tuple(f"encoder.blocks.{i}.ffn.{part}." for i in (1, 3, 5) for part in ("pools", "routers"))
        )
    }
    assert "encoder.blocks.1.ffn.pools.V.w1" in frozen
    assert "encoder.blocks.0.ffn.pools.V.w1" not in frozen
