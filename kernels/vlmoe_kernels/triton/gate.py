"""Routing of all pools at once, without a word to the host: scores, choices, places.

    x_TD --gate_kernel--> groups_TK, gates_TK, counts of each tile of tokens
                          (claim_kernel: drops what finds no room)
         --places.py----> offsets of the groups; order_R, gates_R, slots_TK

Groups are numbered through the pools. A program scores a few tokens for one pool, and most of them, which find no token
of theirs, are done at once. A pool without a router is a group by itself: softmax over it is exactly 1.
"""

# T = tokens, D = model width, K = choices per token, G = groups

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlmoe_kernels.triton.places import place, tokens_of
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
    starts_ptr,
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
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The best groups of some tokens of one pool: float32 scores, softmax, ties to the lowest index."""
    tile = tl.program_id(0)
    pool = tl.program_id(1)
    tokens, is_token = tokens_of(tile, num_tokens, BLOCK_T)
    pool_of_token = tl.load(pool_of_token_ptr + tokens, mask=is_token, other=-1)
    is_mine = pool_of_token == pool
    if pool == 0:
        # somebody has to say so of tokens that are in no pool
        for k in tl.static_range(TOP_K):
            tl.store(groups_ptr + tokens * TOP_K + k, -1, mask=is_token & (pool_of_token < 0))
    first = tl.load(starts_ptr + pool)
    size = tl.load(starts_ptr + pool + 1) - first
    e = tl.arange(0, BLOCK_E)
    is_expert = e < size
    counts = tl.zeros((BLOCK_E,), tl.int32)
    if tl.sum(is_mine.to(tl.int32), 0) > 0:
        rd = tl.arange(0, BLOCK_D)
        scores = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
        # one expert needs no score
        for d in range(0, tl.where(size > 1, D, 0), BLOCK_D):
            is_d = rd < D - d
            x = tl.load(
                x_ptr + tokens[:, None].to(tl.int64) * stride_x + d + rd[None, :],
                mask=is_mine[:, None] & is_d[None, :],
                other=0.0,
            )
            weight = tl.load(
                weight_ptr + (first + e)[None, :] * D + d + rd[:, None],
                mask=is_expert[None, :] & is_d[:, None],
                other=0.0,
            )
            scores = tl.dot(x.to(tl.float32), weight, scores, input_precision="ieee")
        scores = tl.where(is_expert[None, :], scores, float("-inf"))
        scores = tl.exp(scores - tl.max(scores, 1)[:, None])
        shares = scores / tl.sum(scores, 1)[:, None]
        # a token of NaN still goes to some group, and comes out as NaN; -1: what cannot be chosen (again)
        shares = tl.where(is_expert[None, :], tl.where(shares == shares, shares, 0.0), -1.0)
        for k in tl.static_range(TOP_K):
            best = tl.max(shares, 1)
            expert = tl.min(tl.where(shares == best[:, None], e[None, :], BLOCK_E), 1)
            is_made = is_mine & (best >= 0.0)
            is_chosen = e[None, :] == expert[:, None]
            shares = tl.where(is_chosen, -1.0, shares)
            tl.store(groups_ptr + tokens * TOP_K + k, tl.where(is_made, first + expert, -1), mask=is_mine)
            tl.store(gates_ptr + tokens * TOP_K + k, tl.where(is_made, best, 0.0), mask=is_mine)
            counts += tl.sum((is_chosen & is_made[:, None]).to(tl.int32), 0)
    if COUNT:
        tl.store(counts_ptr + tile * NUM_GROUPS + first + e, counts, mask=is_expert)


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
    tokens, is_token = tokens_of(tile, num_tokens, BLOCK_T)
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
    starts: int32 [pools + 1], the first group of each pool. largest: groups of the largest pool.
    load: int64 [G + 1], rows that each group has been given so far, and in how many calls routed ones had any.
    num_routed: groups up to the last pool with a router.
    """

    weight_GD: Tensor
    starts: Tensor
    largest: int
    load: Tensor
    num_routed: int
    top_k: int
    by_score: bool

    @classmethod
    def of(
        cls, routers: Sequence[Tensor | None], dim: int, *, top_k: int, by_score: bool, device: torch.device
    ) -> "Gate":
        """Routers [E, D] of the pools in order, None for a pool of one expert without a router."""
        weights = [torch.zeros(1, dim, device=device) if w is None else w.detach().float() for w in routers]
        ends = [*accumulate(map(len, weights), initial=0)]
        starts = torch.tensor(ends, dtype=torch.int32).to(device)
        weight_GD = torch.cat(weights).contiguous()
        load = torch.zeros(len(weight_GD) + 1, dtype=torch.int64, device=device)
        routed = [end for end, router in zip(ends[1:], routers, strict=True) if router is not None]
        return cls(weight_GD, starts, max(map(len, weights)), load, max(routed, default=0), top_k, by_score)

    def __call__(self, x_TD: Tensor, pool_T: Tensor, limits: Tensor | None) -> Routes:
        """Route tokens.

        Args:
            x_TD: tokens; scores are computed in float32 whatever they come in.
            pool_T: the pool of each token; one of a negative pool is routed nowhere.
            limits: int32 [G], the slots of each group; None for dropless.
        """
        num_tokens, dim = x_TD.shape
        num_groups, top_k, device = len(self.weight_GD), self.top_k, x_TD.device
        num_tiles = triton.cdiv(num_tokens, BLOCK_T)
        # a product has at least 16 columns
        block_e, block_g = (max(16, triton.next_power_of_2(num)) for num in (self.largest, num_groups))

        groups_TK = torch.empty(num_tokens, top_k, dtype=torch.int32, device=device)
        gates_TK = torch.empty(num_tokens, top_k, dtype=torch.float32, device=device)
        counts = torch.empty(num_tiles, num_groups, dtype=torch.int32, device=device)
        block_d, num_warps, num_stages = gate_shape(block_e)
        shape = {
            "NUM_GROUPS": num_groups,
            "BLOCK_G": block_g,
            "num_warps": 4 if block_g <= 128 else 8,
            "enable_fp_fusion": FP_FUSION,
        }
        if num_tokens:
            gate_kernel[(num_tiles, len(self.starts) - 1)](
                x_TD,
                self.weight_GD,
                pool_T,
                self.starts,
                groups_TK,
                gates_TK,
                counts,
                num_tokens,
                dim,
                x_TD.stride(0),
                NUM_GROUPS=num_groups,
                TOP_K=top_k,
                COUNT=limits is None,
                BLOCK_T=BLOCK_T,
                BLOCK_E=block_e,
                BLOCK_D=block_d,
                num_warps=num_warps,
                num_stages=num_stages,
                enable_fp_fusion=FP_FUSION,
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
        complete = top_k == 1 and limits is None
        return place(
            groups_TK,
            gates_TK,
            counts,
            self.load,
            num_routed=self.num_routed,
            complete=complete,
            block_t=BLOCK_T,
            shape=shape,
        )


def gate_shape(block_e: int) -> tuple[int, int, int]:
    """Step along D, warps and steps in flight: long steps, as far as shared memory and registers hold them."""
    if block_e <= 128:
        return 4096 // max(32, block_e), 8, 2
    return 16, 16, 1
