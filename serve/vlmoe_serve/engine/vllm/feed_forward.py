"""A block's feed-forward layer on vLLM's layers: a mixture through its fused MoE, dense pools through its linears.

A mixture is one call for all pools. The experts of V and T stand in turns (V0, T0, V1, T1, ..., then VL), so that
ranks which share them equally have as many of one modality as of the other, and texts alone keep all of them busy.
"""

# T = tokens, D = dim, F = hidden width, E = experts of a pool, N = experts of all pools, P = tokens of a pool

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.model_executor.layers.fused_moe.layer import FusedMoEFactory
from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear
from vllm.platforms import current_platform

from vlmoe_model.config import ModelConfig
from vlmoe_model.packing import PAIR, POOLS
from vlmoe_serve.engine.vllm.settings import num_logical


class DensePool(nn.Module):
    """fc1, exact GELU, (LayerNorm), fc2 of one modality."""

    def __init__(self, config: ModelConfig, prefix: str) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.up = ColumnParallelLinear(config.dim, config.ffn_dim, bias=True, prefix=f"{prefix}.up")
        self.down = RowParallelLinear(config.ffn_dim, config.dim, bias=True, prefix=f"{prefix}.down")
        self.mid_weight = nn.Parameter(torch.ones(config.ffn_dim)) if config.sub_ln else None
        self.mid_bias = nn.Parameter(torch.zeros(config.ffn_dim)) if config.sub_ln else None

    def load(self, field: str, tensor: Tensor) -> None:
        """Take a tensor of the pool's one expert."""
        target = {
            "w1": self.up.weight,
            "b1": self.up.bias,
            "w2": self.down.weight,
            "b2": self.down.bias,
            "mid_weight": self.mid_weight,
            "mid_bias": self.mid_bias,
        }[field]
        assert target is not None
        load(target, tensor[0])

    def forward(self, x_PD: Tensor) -> Tensor:
        """[P, D] -> [P, D]."""
        h_PF = F.gelu(self.up(x_PD)[0])
        if self.mid_weight is not None:
            h_PF = F.layer_norm(h_PF, h_PF.shape[1:], self.mid_weight, self.mid_bias, self.eps)
        y_PD: Tensor = self.down(h_PF)[0]
        return y_PD


class DenseFeedForward(nn.Module):
    """One pool a modality; every token goes through its own."""

    def __init__(self, config: ModelConfig, is_fused: bool, prefix: str) -> None:
        super().__init__()
        self.pools = nn.ModuleDict({name: DensePool(config, f"{prefix}.{name}") for name in _names(is_fused)})

    def load(self, name: str, tensor: Tensor) -> None:
        """Take `pools.POOL.FIELD` of the checkpoint."""
        _, pool, field = name.split(".")
        of_modality = self.pools[pool]
        assert isinstance(of_modality, DensePool)
        of_modality.load(field, tensor)

    def forward(self, x_TD: Tensor, pool_T: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """[T, D] -> [T, D]; rows: the tokens of each pool."""
        y_TD = torch.empty_like(x_TD)
        for pool, rows_P in zip(self.pools.values(), rows, strict=True):
            if len(rows_P) == len(x_TD):
                alone: Tensor = pool(x_TD)
                return alone
            if len(rows_P):
                y_TD[rows_P] = pool(x_TD[rows_P])
        return y_TD


class MixtureFeedForward(nn.Module):
    """Experts of all pools in one call.

    On CPU vLLM's experts are gated ones, gelu(fc1(x)) * fc3(x): with zeros for the matrix of fc3 and ones for its bias
    that is ours, exactly, at twice the cost of the first product. And its kernel takes experts for those of its own
    rank: where ranks share them, a choice that is another rank's is made one of weight zero.
    """

    def __init__(self, config: ModelConfig, is_fused: bool, prefix: str, vllm_config: VllmConfig) -> None:
        super().__init__()
        self.num_experts, self.top_k = config.num_experts, config.top_k
        self.routers = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(config.num_experts, config.dim)) for name in POOLS[:2]}
        )
        parallel = vllm_config.parallel_config
        self.num_logical = num_logical(config, is_fused or parallel.enable_eplb)
        self.num_redundant = parallel.eplb_config.num_redundant_experts if parallel.enable_eplb else 0
        # which pool each expert is of: int64 [N]
        pool_N = torch.arange(self.num_logical) % 2
        if self.num_logical % 2:
            pool_N[-1] = PAIR
        self.pool_N: Tensor
        self.register_buffer("pool_N", pool_N, persistent=False)
        self.is_gated = current_platform.is_cpu()
        self.experts = FusedMoEFactory(
            num_experts=self.num_logical,
            top_k=config.top_k,
            hidden_size=config.dim,
            intermediate_size=config.ffn_dim,
            renormalize=False,
            activation="gelu" if self.is_gated else "gelu_no_mul",
            has_bias=True,
            custom_routing_function=self._choose,
            router_logits_dtype=torch.float32,
            enable_eplb=parallel.enable_eplb,
            num_redundant_experts=self.num_redundant,
            prefix=f"{prefix}.experts",
        )
        for name, weights in self.experts.routed_experts.named_parameters():
            if name.startswith(("w13_", "w2_")):
                # an expert that no token goes to has to be there all the same where all layers must have as many
                nn.init.zeros_(weights)

    def load(self, name: str, tensor: Tensor) -> None:
        """Take `routers.POOL.weight` or `pools.POOL.FIELD` of the checkpoint."""
        kind, pool, field = name.split(".")
        if kind == "routers":
            self.routers[pool].copy_(tensor)
            return
        for expert in range(tensor.shape[0]):
            logical = self.num_logical - 1 if pool == "VL" else 2 * expert + POOLS.index(pool)
            # copies, where there are any, start as those of the first experts
            for place in range(logical, self.num_logical + self.num_redundant, self.num_logical):
                self._load_expert(place, field, tensor[expert])

    def _load_expert(self, place: int, field: str, tensor: Tensor) -> None:
        routed = self.experts.routed_experts
        matrix, is_bias = field[1], field[0] == "b"
        kind = "bias" if is_bias else "weight"
        if matrix == "2":
            shares_experts = routed.moe_config.moe_parallel_config.use_ep
            if is_bias and not shares_experts and get_tensor_model_parallel_rank() > 0:
                # ranks that share an expert add up what they make of it: the bias once
                tensor = torch.zeros_like(tensor)
            target = getattr(routed, f"w2_{kind}")
            routed.weight_loader(target, tensor, f"w2_{kind}", shard_id="w2", expert_id=place)
            return
        target = getattr(routed, f"w13_{kind}")
        routed.weight_loader(target, tensor, f"w13_{kind}", shard_id="w1", expert_id=place)
        if self.is_gated:
            open_gate = torch.ones_like(tensor) if is_bias else torch.zeros_like(tensor)
            routed.weight_loader(target, open_gate, f"w13_{kind}", shard_id="w3", expert_id=place)

    def forward(self, x_TD: Tensor, pool_T: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """[T, D] -> [T, D]."""
        y_TD: Tensor = self.experts(x_TD, self.scores(x_TD, pool_T))
        return y_TD

    def _choose(
        self, hidden_states: Tensor, gating_output: Tensor, topk: int, renormalize: bool
    ) -> tuple[Tensor, Tensor]:
        """Gates and experts [T, K]: softmax over the pool, the k best, ties to the lowest index. vLLM calls it."""
        probs_TN = gating_output.float().softmax(dim=-1)
        gates_TN, experts_TN = probs_TN.sort(dim=-1, descending=True, stable=True)
        gates_TK, experts_TK = gates_TN[:, :topk].contiguous(), experts_TN[:, :topk].contiguous()
        place_N = self.experts.routed_experts.expert_map
        if self.is_gated and place_N is not None:
            experts_TK = place_N[experts_TK]
            gates_TK = gates_TK.masked_fill(experts_TK < 0, 0.0)
            experts_TK = experts_TK.clamp(min=0)
        return gates_TK, experts_TK

    def scores(self, x_TD: Tensor, pool_T: Tensor) -> Tensor:
        """float32 [T, N]: of the experts of each token's pool; the others have none."""
        weights_ED = torch.stack([self.routers["V"], self.routers["T"]], dim=1).flatten(0, 1)
        scores_TN = F.linear(x_TD.float(), weights_ED.float())
        if self.num_logical > len(weights_ED):
            # VL: the only one of its pool
            scores_TN = F.pad(scores_TN, (0, 1))
        is_other_TN = pool_T[:, None].ne(self.pool_N)
        return scores_TN.masked_fill(is_other_TN, torch.finfo(torch.float32).min)


def load(target: nn.Parameter, tensor: Tensor) -> None:
    """Hand a tensor to a parameter, which keeps its rank's part."""
    loader = getattr(target, "weight_loader", None)
    if loader is None:
        target.copy_(tensor)
    else:
        loader(target, tensor)


def _names(is_fused: bool) -> tuple[str, ...]:
    return POOLS if is_fused else POOLS[:-1]
