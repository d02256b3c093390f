"""Experts shared out over the ranks of a group: rows travel to their expert and come back.

    rows by group -> to the ranks that hold the groups -> their experts -> back -> gates and sum, at home

Every row meets the same weights in the same kernel as on one rank, and the kernels are batch-invariant, so the answer
has the same bits. A rank without tokens takes part with zero rows.
"""

# T = tokens, R = routed rows of this rank, D = dim, W = ranks, L = routed groups that one rank holds

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmoe_kernels import RoutePlan, make_plan
from vlmoe_kernels.collectives import Group
from vlmoe_kernels.eager import combine
from vlmoe_kernels.ops import GroupedOp


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the groups of one layer live.

    by_rank: per rank, its groups in the order of its local pools; as many on every rank. here: groups that every rank
    holds, whose rows stay at home. local_ids: local index of a rank's groups, the same for all ranks. here_ids: local
    index of the groups that stay.
    """

    by_rank: tuple[tuple[int, ...], ...]
    here: tuple[int, ...]
    local_ids: tuple[int, ...]
    here_ids: tuple[int, ...]

    @classmethod
    def equal(cls, pool_sizes: Sequence[int], is_routed: Sequence[bool], num_ranks: int) -> "Shares":
        """Equal, contiguous shares of every routed pool; the other pools stay.

        Raises:
            ValueError: a routed pool does not divide into that many shares.
        """
        by_rank: list[list[int]] = [[] for _ in range(num_ranks)]
        here: list[int] = []
        local_ids: list[int] = []
        here_ids: list[int] = []
        group = local = 0
        for size, routed in zip(pool_sizes, is_routed, strict=True):
            if routed and size % num_ranks:
                raise ValueError(f"{size} experts cannot be shared equally by {num_ranks} ranks")
            share = size // num_ranks if routed else size
            if routed:
                for rank in range(num_ranks):
                    by_rank[rank] += range(group + rank * share, group + (rank + 1) * share)
                local_ids += range(local, local + share)
            else:
                here += range(group, group + size)
                here_ids += range(local, local + size)
            group, local = group + size, local + share
        return cls(tuple(map(tuple, by_rank)), tuple(here), tuple(local_ids), tuple(here_ids))

    @property
    def num_local(self) -> int:
        """Groups that one rank holds."""
        return len(self.local_ids) + len(self.here_ids)


class ExpertParallel:
    """The dispatcher of one layer on one rank. All ranks call it for the same layers in the same order."""

    def __init__(self, group: Group, shares: Shares) -> None:
        self._group = group
        self._shares = shares
        self._travel = [g for groups in shares.by_rank for g in groups]
        self._local_ids = torch.tensor(shares.local_ids, dtype=torch.int64).repeat(group.size)
        self._here_ids = torch.tensor(shares.here_ids, dtype=torch.int64)

    def __call__(self, x_TD: Tensor, plan: RoutePlan, experts: GroupedOp) -> Tensor:
        """[T, D] -> [T, D]. experts: the operation over this rank's own groups.

        Raises:
            GroupError: a rank was lost.
        """
        num_ranks = self._group.size
        sizes = torch.tensor(plan.sizes, dtype=torch.int64)
        # rows in the order in which they leave: by rank, then by its groups; then those that stay
        places = torch.split(torch.arange(len(plan.order_R), device=x_TD.device), list(plan.sizes))
        leaving_R = torch.cat([places[g] for g in (*self._travel, *self._shares.here)])
        rows_RD = x_TD.index_select(0, plan.order_R[leaving_R])

        sent_WL = sizes[self._travel].view(num_ranks, -1)
        came_WL = self._group.exchange_counts(sent_WL)
        send, receive = sent_WL.sum(dim=1).tolist(), came_WL.sum(dim=1).tolist()
        travelling, staying = torch.split(rows_RD, [sum(send), len(rows_RD) - sum(send)])
        received = self._group.exchange_rows(travelling, send, receive)

        groups = torch.cat(
            [
                self._local_ids.repeat_interleave(came_WL.flatten()),
                self._here_ids.repeat_interleave(sizes[list(self._shares.here)]),
            ]
        ).to(x_TD.device)
        local_plan = make_plan(groups.unsqueeze(1), None, self._shares.num_local)
        outputs = experts(torch.cat([received, staying]), local_plan)

        foreign, own = torch.split(outputs, [len(received), len(staying)])
        back = torch.cat([self._group.exchange_rows(foreign, receive, send), own])
        y_RD = torch.empty_like(back)
        y_RD[leaving_R] = back
        return combine(y_RD, plan)
