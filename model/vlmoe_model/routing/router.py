"""Token choice: every token takes its k best experts, as far as they have room."""

# T = tokens of one pool, D = model dim, E = experts, K = experts per token

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmoe_kernels import Backend
from vlmoe_kernels.ops import LinearOp
from vlmoe_model.layers import give_up, init_weight


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """The choice for each token of one pool.

    gates_TK: float32, factor of each choice's output. experts_TK: int64, -1 for a choice that found no room.
    logits_TE: clean router scores. noisy_TE: the scores that chose (equal to the clean ones outside training).
    noise_std: deviation of the noise between them.
    """

    gates_TK: Tensor
    experts_TK: Tensor
    logits_TE: Tensor
    noisy_TE: Tensor
    noise_std: float


class Router(nn.Module):
    """Scores, noise in training, softmax over all experts, then the k best, then capacity.

    capacity_train, capacity_eval: slots per expert, as a factor of an even share; None is dropless.
    claims_by_score: how a backend that routes by itself orders claims on slots, as `priority` does (by score or by
    place in the batch); None where only this class knows how to choose.
    """

    claims_by_score: bool | None = None

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        top_k: int,
        capacity_train: float | None,
        capacity_eval: float | None,
        noise: float,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k must be in [1, {num_experts}], got {top_k}")
        self.weight = init_weight(num_experts, dim)
        self.num_experts = num_experts
        self.top_k = top_k
        self.capacity_train, self.capacity_eval = capacity_train, capacity_eval
        self.noise_std = noise / num_experts
        self.op: LinearOp | None = None

    def pack(self, backend: Backend) -> None:
        """Scores stay in float32: bf16 logits tie often, and a tie flips an expert between devices."""
        self.op = backend.linear(self.weight.float(), None)
        give_up(self, "weight")

    def forward(self, x_TD: Tensor) -> Routing:
        """Route the rows of one pool."""
        with torch.autocast(x_TD.device.type, enabled=False):
            x_TD = x_TD.float()
            logits_TE = F.linear(x_TD, self.weight.float()) if self.op is None else self.op(x_TD)
            noise_std = self.noise_std if self.training else 0.0
            noisy_TE = logits_TE + torch.randn_like(logits_TE) * noise_std if noise_std else logits_TE
            # stable sort, not topk: equal scores go to the lowest index everywhere
            gates_TE, experts_TE = noisy_TE.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        # the gate is not renormalised: at k = 1 that would cut the router's task gradient to zero
        gates_TK, experts_TK = gates_TE[:, : self.top_k], experts_TE[:, : self.top_k]
        factor = self.capacity_train if self.training else self.capacity_eval
        if factor is not None:
            limit = capacity(factor, experts_TK.numel(), self.num_experts)
            experts_TK = drop_over_capacity(experts_TK, self.priority(gates_TK), limit)
        return Routing(gates_TK, experts_TK, logits_TE, noisy_TE, noise_std)

    def priority(self, gates_TK: Tensor) -> Tensor:
        """Order in which tokens claim slots: int64 [T], first token first."""
        raise TypeError(f"{type(self).__name__} does not say who claims slots first")


class TopKRouter(Router):
    """Tokens claim slots in the order in which they stand in the batch."""

    claims_by_score = False

    def priority(self, gates_TK: Tensor) -> Tensor:
        """First come, first served."""
        return torch.arange(gates_TK.shape[0], device=gates_TK.device)


class BatchPriorityRouter(Router):
    """Tokens claim slots by the score of their first choice (V-MoE's Batch Priority Routing, Riquelme et al. 2021)."""

    claims_by_score = True

    def priority(self, gates_TK: Tensor) -> Tensor:
        """Highest score first; ties in order of the batch."""
        return gates_TK[:, 0].argsort(descending=True, stable=True)


def capacity(factor: float, num_choices: int, num_experts: int) -> int:
    """Slots of each expert: ceil(factor * choices / experts), at least one (DeepSpeed's convention)."""
    return max(1, math.ceil(factor * num_choices / num_experts - 1e-9))


def drop_over_capacity(experts_TK: Tensor, priority_T: Tensor, limit: int) -> Tensor:
    """Set choices beyond `limit` per expert to -1. All first choices claim their slots before any second one."""
    num_tokens, num_choices = experts_TK.shape
    claims = experts_TK[priority_T].T.flatten()
    # rank of each claim among the claims on its expert: its place in a stable sort, less where its expert starts
    order = claims.argsort(stable=True)
    starts = torch.searchsorted(claims[order], claims)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    kept = torch.where(places - starts < limit, claims, -1).view(num_choices, num_tokens).T
    out = torch.empty_like(experts_TK)
    out[priority_T] = kept
    return out
