"""The columns of the table: networks over the same weights, each packed for one backend."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vlmoe_kernels import Backend
from vlmoe_model.config import ModelConfig
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import Packed
from vlmoe_model.routing import Routing
from vlmoe_serve.bench.padded import Masked, encode_padded
from vlmoe_serve.bench.routing import balance
from vlmoe_serve.bench.stock import GroupedMM, Loop, Sorted, has_grouped_mm
from vlmoe_serve.bench.weights import Weights

# a batch to the states of its tokens
Encode = Callable[[Packed], Tensor]


@dataclass(frozen=True, slots=True)
class Model:
    """What is measured: the configuration, without heads, and tensors that are not random; balanced: see `routing`."""

    config: ModelConfig
    given: Mapping[str, Tensor] | None
    balanced: bool

    def network(
        self, backend: Backend, dtype: torch.dtype, weights: Weights, *, dense: bool = False
    ) -> VLMoE:
        """The network, or its dense twin, packed."""
        config = self.config.dense_twin() if dense else self.config
        with torch.device("meta"):
            network = VLMoE(config)
            if self.balanced:
                balance(network, config)
        weights.fill(network)
        network.pack(backend, dtype)
        return network

    def weights(self, dtype: torch.dtype) -> Weights:
        """Tensors for networks of that dtype."""
        return Weights(dtype, self.given)


def stock_columns(model: Model, dtype: torch.dtype, weights: Weights, *, more: bool) -> dict[str, Encode]:
    """By name; more: also other ways to write the mixture in stock torch, where they can be had."""
    networks = {
        "stock_moe": model.network(Sorted(), dtype, weights),
        "stock_dense": model.network(Sorted(), dtype, weights, dense=True),
    }
    if more:
        networks["loop"] = model.network(Loop(), dtype, weights)
    if more and has_grouped_mm() and not model.config.sub_ln:
        networks["grouped_mm"] = model.network(GroupedMM(), dtype, weights)
    columns: dict[str, Encode] = {name: partial(encode, network) for name, network in networks.items()}
    if more and not model.config.relative_position:
        backend = Masked()
        columns["padded"] = partial(encode_padded, model.network(backend, dtype, weights), backend)
    return columns


def encode(network: VLMoE, packed: Packed, log: list[Routing] | None = None) -> Tensor:
    """The encoder's states of all tokens, [T, D]: everything but the heads."""
    return torch.cat([states.x_NLD.flatten(0, 1) for states in network.encode(packed, log)])
