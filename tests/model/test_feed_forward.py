import dataclasses
from collections.abc import Callable

import pytest
import torch

from vlmoe_kernels import RoutePlan, backend
from vlmoe_kernels.ops import GroupedOp
from vlmoe_model.config import ModelConfig
from vlmoe_model.feed_forward import FeedForward
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import PAIR, TEXT, VISION, Tokens

# pools of 9 tokens, and of 9 others of which some belong to pairs
MODALITY = torch.tensor([VISION, VISION, TEXT, VISION, TEXT, TEXT, TEXT, VISION, VISION])
FUSED = torch.tensor([VISION, PAIR, PAIR, TEXT, TEXT, PAIR, VISION, PAIR, TEXT])


def plan_of(ffn: FeedForward, tokens: Tokens) -> RoutePlan:
    return ffn.route(torch.randn(9, 8), tokens, None)


@pytest.mark.parametrize("top_k", [1, 2])
def test_groups_run_through_the_pools_in_order(
    config: ModelConfig, build_network: Callable[..., VLMoE], top_k: int
) -> None:
    config = dataclasses.replace(config, moe_blocks=(0, 1), top_k=top_k)
    below, fused = (block.ffn for block in build_network(config).encoder.blocks)
    plan = plan_of(below, Tokens.of(MODALITY, 2))
    assert len(plan.sizes) == 4 + 4
    assert (sum(plan.sizes[:4]), sum(plan.sizes[4:])) == (5 * top_k, 4 * top_k)
    plan = plan_of(fused, Tokens.of(FUSED, 3))
    assert len(plan.sizes) == 4 + 4 + 1
    # a pair's token has one ungated row, however many choices others have
    assert (sum(plan.sizes[:4]), sum(plan.sizes[4:8]), plan.sizes[8]) == (2 * top_k, 3 * top_k, 4)
    assert plan.order_R[-4:].tolist() == (FUSED == PAIR).nonzero()[:, 0].tolist()
    assert plan.gates_R is not None
    assert plan.gates_R[-4:].tolist() == [1.0] * 4


def test_a_dense_layer_has_no_router(config: ModelConfig, build_network: Callable[..., VLMoE]) -> None:
    dense = build_network(config).encoder.blocks[0].ffn
    assert not dense.is_moe
    assert list(dense.routers) == []
    assert [len(pool.w1) for pool in dense.pools.values()] == [1, 1]


@torch.no_grad()
@pytest.mark.parametrize("name", ["eager", "cpu"])
def test_a_dropped_token_is_its_residual_alone(
    config: ModelConfig, build_network: Callable[..., VLMoE], name: str
) -> None:
    config = dataclasses.replace(config, moe_blocks=(0,), capacity_eval=0.5)
    ffn = build_network(config).encoder.blocks[0].ffn.requires_grad_(False)
    ffn.pack(backend(name), torch.float32)
    x_TD, log = torch.randn(9, 8), []
    y_TD = ffn(x_TD, Tokens.of(MODALITY, 2), log)
    dropped = torch.cat([routing.experts_TK[:, 0] < 0 for routing in log])
    rows = torch.cat(Tokens.of(MODALITY, 2).rows)
    assert dropped.any()
    assert not dropped.all()
    assert (y_TD[rows[dropped]] == 0).all()
    assert (y_TD[rows[~dropped]] != 0).any(dim=1).all()


@torch.no_grad()
def test_the_dispatcher_carries_tokens_to_the_experts(
    config: ModelConfig, build_network: Callable[..., VLMoE]
) -> None:
    ffn = build_network(config).encoder.blocks[1].ffn
    seen: list[RoutePlan] = []

    def dispatch(x_TD: torch.Tensor, plan: RoutePlan, experts: GroupedOp) -> torch.Tensor:
        seen.append(plan)
        return -experts(x_TD, plan)

    x_TD, tokens = torch.randn(9, 8), Tokens.of(FUSED, 3)
    plain = ffn(x_TD, tokens, None)
    ffn.dispatch = dispatch
    assert torch.equal(ffn(x_TD, tokens, None), -plain)
    assert len(seen) == 1
