"""Where a mixture and a dense layer are the same."""

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F

from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import pack

from .asking import answers


@torch.no_grad()
def test_one_expert_is_the_dense_layer(
    config: ModelConfig, build_network: Callable[..., VLMoE], mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    """A softmax over one expert is a gate of 1."""
    mixture = build_network(dataclasses.replace(config, num_experts=1))
    dense = VLMoE(config.dense_twin()).eval()
    missing = dense.load_state_dict(mixture.state_dict(), strict=False)
    assert missing.missing_keys == []
    assert all(".routers." in name for name in missing.unexpected_keys)
    jobs = mixed_jobs(config)
    assert all(torch.equal(a, b) for a, b in zip(answers(mixture, jobs), answers(dense, jobs), strict=True))


@torch.no_grad()
def test_equal_experts_are_the_dense_layer_scaled_by_the_gate(
    config: ModelConfig, build_network: Callable[..., VLMoE], build_job: Callable[..., Job]
) -> None:
    config = dataclasses.replace(config, num_layers=1, moe_blocks=(0,), vl_start=None)
    network = build_network(config)
    for pool in network.encoder.blocks[0].ffn.pools.values():
        for parameter in pool.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    packed = pack([build_job(config, "questions", 7)], config)
    x_TD, log = torch.randn(packed.num_tokens, config.dim), []
    ffn = network.encoder.blocks[0].ffn
    y_TD = ffn(x_TD, packed.modality, log)
    for rows, routing, pool in zip(packed.modality.rows, log, ffn.pools.values(), strict=True):
        hidden = F.gelu(F.linear(x_TD[rows], pool.w1[0], pool.b1[0]))
        dense = F.linear(hidden, pool.w2[0], pool.b2[0])
        torch.testing.assert_close(y_TD[rows], routing.gates_TK * dense)
