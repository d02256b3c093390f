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
from vlmoe_model.routing_mode import DEFAULT, RoutingMode

# how many experts beside its own choices a token may try: each try is a sort, and the liking falls off fast
MAX_REROUTES = 3


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

    def forward(self, x_TD: Tensor, mode: RoutingMode = DEFAULT) -> Routing:
        """Route the rows of one pool; `mode` is for inference."""
        with torch.autocast(x_TD.device.type, enabled=False):
            x_TD = x_TD.float()
            logits_TE = F.linear(x_TD, self.weight.float()) if self.op is None else self.op(x_TD)
            noise_std = self.noise_std if self.training else 0.0
            noisy_TE = logits_TE + torch.randn_like(logits_TE) * noise_std if noise_std else logits_TE
            top_k = self.top_k if mode.top_k is None else min(self.top_k, mode.top_k)
            tries_more = mode.capacity is not None and mode.overflow == "reroute"
            gates_TE, experts_TE = best(noisy_TE.softmax(dim=-1), self.num_experts if tries_more else top_k)
        # the gate is not renormalised: at k = 1 that would cut the router's task gradient to zero
        gates_TK, experts_TK = gates_TE[:, :top_k], experts_TE[:, :top_k]
        if mode.capacity is not None:
            limit = capacity(mode.capacity, experts_TK.numel(), self.num_experts)
            first_T = in_order(gates_TK) if mode.overflow == "drop" else by_score(gates_TK)
            if mode.overflow == "reroute":
                ranks_TK = reroute(experts_TE, top_k, first_T, limit)
                taken_TK = ranks_TK.clamp_min(0)
                gates_TK = gates_TE.gather(1, taken_TK)
                experts_TK = torch.where(ranks_TK < 0, -1, experts_TE.gather(1, taken_TK))
            else:
                experts_TK = drop_over_capacity(experts_TK, first_T, limit)
            return Routing(gates_TK, experts_TK, logits_TE, noisy_TE, noise_std)
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
        return in_order(gates_TK)


class BatchPriorityRouter(Router):
    """Tokens claim slots by the score of their first choice (V-MoE's Batch Priority Routing, Riquelme et al. 2021)."""

    claims_by_score = True

    def priority(self, gates_TK: Tensor) -> Tensor:
        """Highest score first; ties in order of the batch."""
        return by_score(gates_TK)


def best(probs_TE: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Probabilities and experts, the best first, `num` of them or more; equal ones in the order of the experts."""
    if num == 1:
        # a tenth of the time of a sort; torch promises the first of equal ones here as well
        return probs_TE.max(dim=-1, keepdim=True)
    # a stable sort, not topk: equal scores go to the lowest index everywhere
    return probs_TE.sort(dim=-1, descending=True, stable=True)


def in_order(gates_TK: Tensor) -> Tensor:
    """Tokens as they stand in the batch: int64 [T]."""
    return torch.arange(gates_TK.shape[0], device=gates_TK.device)


def by_score(gates_TK: Tensor) -> Tensor:
    """Tokens by the score of their first choice, highest first; ties in order of the batch: int64 [T]."""
    return gates_TK[:, 0].argsort(descending=True, stable=True)


def capacity(factor: float, num_choices: int, num_experts: int) -> int:
    """Slots of each expert: ceil(factor * choices / experts), at least one (DeepSpeed's convention)."""
    return max(1, math.ceil(factor * num_choices / num_experts - 1e-9))


def drop_over_capacity(experts_TK: Tensor, priority_T: Tensor, limit: int) -> Tensor:
    """Set choices beyond `limit` per expert to -1. All first choices claim their slots before any second one."""
    num_tokens, num_choices = experts_TK.shape
    claims = experts_TK[priority_T].T.flatten()
    kept = torch.where(_places(claims) < limit, claims, -1).view(num_choices, num_tokens).T
    out = torch.empty_like(experts_TK)
    out[priority_T] = kept
    return out


def reroute(experts_TE: Tensor, top_k: int, priority_T: Tensor, limit: int) -> Tensor:
    """Which of its experts each choice goes to, by their rank with the token: int64 [T, K], -1 for none.

    First the `top_k` best are claimed as in `drop_over_capacity`. Then whoever lacks one tries its next best expert, in
    the same order, and so on, `MAX_REROUTES` times at most; one choice is made good by each try.
    """
    num_experts = experts_TE.shape[1]
    kept_TK = drop_over_capacity(experts_TE[:, :top_k], priority_T, limit)
    ranks_TK = torch.where(kept_TK < 0, -1, torch.arange(top_k, device=kept_TK.device))
    room_E = limit - torch.bincount(kept_TK[kept_TK >= 0], minlength=num_experts)
    for rank in range(top_k, min(num_experts, top_k + MAX_REROUTES)):
        lacking_T = priority_T[(ranks_TK < 0).any(dim=1)[priority_T]]
        wanted = experts_TE[lacking_T, rank]
        found = _places(wanted) < room_E[wanted]
        happy_T = lacking_T[found]
        ranks_TK[happy_T, (ranks_TK[happy_T] < 0).int().argmax(dim=1)] = rank
        room_E = room_E - torch.bincount(wanted[found], minlength=num_experts)
    return ranks_TK


def _places(claims: Tensor) -> Tensor:
    """The rank of each claim among the claims on its expert, in their order."""
    # its place in a stable sort, less where its expert starts
    order = claims.argsort(stable=True)
    starts = torch.searchsorted(claims[order], claims)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places - starts
