"""Routing of all pools at once, without a word to the host: scores, choices, places.

    x_TD --gate_kernel--> groups_TK, gates_TK, counts of each tile of tokens
                          (claim_kernel: drops what finds no room)
         --places.py----> offsets of the groups; order_R, gates_R, slots_TK

The scores of all pools are one product; a token sees the columns of its own pool. A pool without a router is one
column of zeros: softmax over it is exactly 1. So columns are groups, numbered through the pools.
"""

# T = tokens, D = model width, K = choices per token, G = groups

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlmoe_kernels.triton.places import place
from vlmoe_kernels.triton.routes import Routes
from vlmoe_kernels.triton.tiles import FP_FUSION

# tokens of one program; also the unit in which rows are counted
BLOCK_T = 16
# slots of a group without a limit
UNLIMITED = 2**31 - 1


@triton.jit(do_not_specialize=["num_tokens"])
def gate_kernel(
    x_ptr,
    weight_ptr,
    pool_of_token_ptr,
    pool_of_group_ptr,
    groups_ptr,
    gates_ptr,
    counts_ptr,
    num_tokens,
    D,
    stride_x,
    NUM_GROUPS: tl.constexpr,
    TOP_K: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The best groups of some tokens: float32 scores, softmax over the pool, ties to the lowest index."""
    tile = tl.program_id(0)
    tokens = tile * BLOCK_T + tl.arange(0, BLOCK_T)
    is_token = tokens < num_tokens
    g = tl.arange(0, BLOCK_G)
    is_group = g < NUM_GROUPS
    rd = tl.arange(0, BLOCK_D)
    scores = tl.zeros((BLOCK_T, BLOCK_G), tl.float32)
    for d in range(0, D, BLOCK_D):
        is_d = rd < D - d
        x = tl.load(
            x_ptr + tokens[:, None].to(tl.int64) * stride_x + d + rd[None, :],
            mask=is_token[:, None] & is_d[None, :],
            other=0.0,
        )
        weight = tl.load(
            weight_ptr + g[None, :] * D + d + rd[:, None], mask=is_group[None, :] & is_d[:, None], other=0.0
        )
        scores = tl.dot(x.to(tl.float32), weight, scores, input_precision="ieee")
    pool_of_token = tl.load(pool_of_token_ptr + tokens, mask=is_token, other=0)
    pool_of_group = tl.load(pool_of_group_ptr + g, mask=is_group, other=-1)
    is_own = pool_of_token[:, None] == pool_of_group[None, :]
    scores = tl.where(is_own, scores, float("-inf"))
    scores = tl.exp(scores - tl.max(scores, 1)[:, None])
    shares = scores / tl.sum(scores, 1)[:, None]
    # a token of NaN still goes to some group, and comes out as NaN; -1: a group that cannot be chosen (again)
    shares = tl.where(is_own, tl.where(shares == shares, shares, 0.0), -1.0)
    counts = tl.zeros((BLOCK_G,), tl.int32)
    for k in tl.static_range(TOP_K):
        best = tl.max(shares, 1)
        group = tl.min(tl.where(shares == best[:, None], g[None, :], BLOCK_G), 1)
        is_made = is_token & (best >= 0.0)
        is_chosen = g[None, :] == group[:, None]
        shares = tl.where(is_chosen, -1.0, shares)
        tl.store(groups_ptr + tokens * TOP_K + k, tl.where(is_made, group, -1), mask=is_token)
        tl.store(gates_ptr + tokens * TOP_K + k, tl.where(is_made, best, 0.0), mask=is_token)
        if COUNT:
            counts += tl.sum((is_chosen & is_made[:, None]).to(tl.int32), 0)
    if COUNT:
        tl.store(counts_ptr + tile * NUM_GROUPS + g, counts, mask=is_group)


@triton.jit(do_not_specialize=["num_tokens"])
def claim_kernel(
    groups_ptr,
    gates_ptr,
    limits_ptr,
    kept_ptr,
    counts_ptr,
    num_tokens,
    NUM_GROUPS: tl.constexpr,
    TOP_K: tl.constexpr,
    BY_SCORE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """Drop choices that find no room. First choices claim before second ones, then by score or place in the batch.

    A choice's rank is a count over all tokens: quadratic, but without a sort.
    """
    tile = tl.program_id(0)
    tokens = tile * BLOCK_T + tl.arange(0, BLOCK_T)
    is_token = tokens < num_tokens
    score = tl.load(gates_ptr + tokens * TOP_K, mask=is_token, other=0.0)
    g = tl.arange(0, BLOCK_G)
    counts = tl.zeros((BLOCK_G,), tl.int32)
    for k in tl.static_range(TOP_K):
        group = tl.load(groups_ptr + tokens * TOP_K + k, mask=is_token, other=-1)
        rank = tl.zeros((BLOCK_T,), tl.int32)
        for first in range(0, num_tokens, BLOCK_T):
            others = first + tl.arange(0, BLOCK_T)
            is_other = others < num_tokens
            is_before = others[None, :] < tokens[:, None]
            if BY_SCORE:
                other_score = tl.load(gates_ptr + others * TOP_K, mask=is_other, other=0.0)
                is_equal = other_score[None, :] == score[:, None]
                is_before = (other_score[None, :] > score[:, None]) | (is_equal & is_before)
            for j in tl.static_range(k + 1):
                other = tl.load(groups_ptr + others * TOP_K + j, mask=is_other, other=-2)
                is_rival = other[None, :] == group[:, None]
                if j == k:
                    is_rival = is_rival & is_before
                rank += tl.sum(is_rival.to(tl.int32), 1)
        limit = tl.load(limits_ptr + group, mask=group >= 0, other=0)
        kept = tl.where((group >= 0) & (rank < limit), group, -1)
        tl.store(kept_ptr + tokens * TOP_K + k, kept, mask=is_token)
        counts += tl.sum((g[None, :] == kept[:, None]).to(tl.int32), 0)
    tl.store(counts_ptr + tile * NUM_GROUPS + g, counts, mask=g < NUM_GROUPS)


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """The routers of one layer, side by side.

    weight_GD: float32, a row of scores per group; zeros where a pool has no router.
    pool_of_group: int32 [G].
    """

    weight_GD: Tensor
    pool_of_group: Tensor
    top_k: int
    by_score: bool

    @classmethod
    def of(
        cls, routers: Sequence[Tensor | None], dim: int, *, top_k: int, by_score: bool, device: torch.device
    ) -> "Gate":
        """Routers [E, D] of the pools in order, None for a pool of one expert without a router."""
        weights = [torch.zeros(1, dim, device=device) if w is None else w.detach().float() for w in routers]
        pools = [torch.full((len(weight),), pool, dtype=torch.int32) for pool, weight in enumerate(weights)]
        return cls(torch.cat(weights).contiguous(), torch.cat(pools).to(device), top_k, by_score)

    def __call__(self, x_TD: Tensor, pool_T: Tensor, limits: Tensor | None) -> Routes:
        """Route tokens.

        Args:
            x_TD: tokens; scores are computed in float32 whatever they come in.
            pool_T: the pool of each token.
            limits: int32 [G], the slots of each group; None for dropless.
        """
        num_tokens, dim = x_TD.shape
        num_groups, top_k, device = len(self.weight_GD), self.top_k, x_TD.device
        num_tiles = triton.cdiv(num_tokens, BLOCK_T)
        block_g = max(16, triton.next_power_of_2(num_groups))

        groups_TK = torch.empty(num_tokens, top_k, dtype=torch.int32, device=device)
        gates_TK = torch.empty(num_tokens, top_k, dtype=torch.float32, device=device)
        counts = torch.empty(num_tiles, num_groups, dtype=torch.int32, device=device)
        block_d, num_warps, num_stages = gate_shape(block_g)
        shape = {
            "NUM_GROUPS": num_groups,
            "BLOCK_G": block_g,
            "num_warps": num_warps,
            "enable_fp_fusion": FP_FUSION,
        }
        if num_tokens:
            gate_kernel[(num_tiles,)](
                x_TD,
                self.weight_GD,
                pool_T,
                self.pool_of_group,
                groups_TK,
                gates_TK,
                counts,
                num_tokens,
                dim,
                x_TD.stride(0),
                TOP_K=top_k,
                COUNT=limits is None,
                BLOCK_T=BLOCK_T,
                BLOCK_D=block_d,
                num_stages=num_stages,
                **shape,
            )
        if num_tokens and limits is not None:
            kept_TK = torch.empty_like(groups_TK)
            claim_kernel[(num_tiles,)](
                groups_TK,
                gates_TK,
                limits,
                kept_TK,
                counts,
                num_tokens,
                TOP_K=top_k,
                BY_SCORE=self.by_score,
                BLOCK_T=BLOCK_T,
                **shape,
            )
            groups_TK = kept_TK
        return place(
            groups_TK, gates_TK, counts, complete=top_k == 1 and limits is None, block_t=BLOCK_T, shape=shape
        )


def gate_shape(block_g: int) -> tuple[int, int, int]:
    """Step along D, warps and steps in flight: wide tables of experts must fit in shared memory and registers."""
    return (32, 4, 2) if block_g <= 128 else (16, 8, 1)
