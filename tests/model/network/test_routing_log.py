"""What a forward pass notes of its routings, and the loss that follows from it."""

import dataclasses
from collections.abc import Callable

import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import pack


def test_the_log_has_v_then_t_of_every_mixture(
    config: ModelConfig, build_network: Callable[..., VLMoE], mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    config = dataclasses.replace(config, moe_blocks=(0, 1))
    packed, log = pack(mixed_jobs(config), config), []
    build_network(config)(packed, log)
    counts = [routing.logits_TE.shape[0] for routing in log]
    below, fused = ([len(rows) for rows in tokens.rows] for tokens in (packed.modality, packed.fused))
    assert counts == [*below, *fused[:2]]


def test_aux_loss_is_weighted_and_ignores_pools_without_tokens(
    config: ModelConfig, build_network: Callable[..., VLMoE], build_job: Callable[..., Job]
) -> None:
    network = build_network(dataclasses.replace(config, aux_loss="z", aux_weight=0.5))
    log = []
    network(pack([build_job(config, "shapes")], config), log)
    expected = 0.5 * log[0].logits_TE.logsumexp(1).square().mean()
    torch.testing.assert_close(network.aux_loss(log), expected)
    assert network.aux_loss([]) == 0
    assert build_network(dataclasses.replace(config, aux_loss="none")).aux_loss(log) == 0
