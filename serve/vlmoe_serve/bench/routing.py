"""Routing that gives every expert the same share of the tokens.

A router of random weights sends everything to a few experts, and so measures a model that nobody trains: balance is
what training is made to reach.
"""

# T = tokens of one pool, K = choices per token

import dataclasses
import functools

import torch
from torch import Tensor

from vlmoe_model.config import ModelConfig
from vlmoe_model.feed_forward import FeedForward
from vlmoe_model.network import VLMoE
from vlmoe_model.routing import Router, Routing
from vlmoe_model.routing_mode import DEFAULT, RoutingMode


class EvenRouter(Router):
    """Scores and gates as ever, and their cost; experts in turn, in an order that looks random."""

    def forward(self, x_TD: Tensor, mode: RoutingMode = DEFAULT) -> Routing:
        """Route the rows of one pool."""
        routing = super().forward(x_TD, mode)
        top_k = routing.experts_TK.shape[1]
        return dataclasses.replace(routing, experts_TK=even(x_TD.shape[0], top_k, self.num_experts))


@functools.lru_cache(maxsize=256)
def even(num_tokens: int, top_k: int, num_experts: int) -> Tensor:
    """int64 [T, K]: every expert equally often, or once more; a token's choices differ."""
    first_T = torch.randperm(num_tokens, generator=torch.Generator().manual_seed(0)) % num_experts
    return (first_T.unsqueeze(1) + torch.arange(top_k)) % num_experts


def balance(network: VLMoE, config: ModelConfig) -> None:
    """Replace all routers of a network, before it has its weights."""
    for layer in network.modules():
        if not isinstance(layer, FeedForward):
            continue
        for name in layer.routers:
            layer.routers[name] = EvenRouter(
                config.dim,
                config.num_experts,
                top_k=config.top_k,
                capacity_train=None,
                capacity_eval=None,
                noise=config.router_noise,
            )
