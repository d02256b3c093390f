"""From a placement to what the model takes: which rank holds which experts, and the split of tokens over copies."""

import numpy as np

from vlmoe_model.config import ModelConfig
from vlmoe_model.dispatch.expert_parallel import Split
from vlmoe_model.dispatch.holdings import Held, Holdings
from vlmoe_serve.placement.dispatch import Hosts
from vlmoe_serve.placement.machines import Sizes
from vlmoe_serve.placement.native import Flow, flow_by_counts
from vlmoe_serve.placement.placement import EMPTY, Placement, Slots


def holdings_of(placement: Placement) -> Holdings:
    """The same, in the model's words."""
    return Holdings(
        {
            layer: tuple(_held(slots_K, placement.pools[0]) for slots_K in slots_GK)
            for layer, slots_GK in zip(placement.layers, placement.slots_LGK, strict=True)
        }
    )


def _held(slots_K: Slots, first_text: int) -> Held:
    experts = sorted(int(expert) for expert in slots_K if expert != EMPTY)
    image = tuple(expert for expert in experts if expert < first_text)
    text = tuple(expert - first_text for expert in experts if expert >= first_text)
    return image, text


def sizes_of(config: ModelConfig, weight_bytes: int, num_parameters: int) -> Sizes:
    """What constants for other machines follow from. num_parameters: of the whole model."""
    one = 2 * config.dim * config.ffn_dim + config.dim + config.ffn_dim
    in_experts = 2 * len(config.moe_blocks) * config.num_experts * one
    return Sizes(
        dim=config.dim,
        ffn_dim=config.ffn_dim,
        weight_bytes=weight_bytes,
        shared_parameters=max(0, num_parameters - in_experts),
    )


def split_by_counts(num_ranks: int, per_node: int, stream: int) -> Split:
    """By what there is in a batch.

    Args:
        num_ranks: of the group.
        per_node: that share a host; those of one host come one after the other.
        stream: cost of an active copy, in tokens.
    """
    node_G = np.arange(num_ranks, dtype=np.int32) // per_node

    def split(counts_XW: Flow, hosts_XW: Hosts) -> Flow:
        return flow_by_counts(counts_XW, hosts_XW, stream=stream, node_G=node_G)

    return split
