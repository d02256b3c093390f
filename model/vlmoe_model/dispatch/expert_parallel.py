"""Experts that lie on the ranks of a group, some of them in copies: rows travel to an expert and come back.

    counts of all ranks -> split over copies -> rows to the ranks that hold the groups -> their experts -> back
    -> gates and sum, at home

Every rank learns how many rows every rank has for every group and comes to the same split by itself. Every row meets
the same weights in the same kernel as on one rank, and the kernels are batch-invariant, so the answer has the same
bits, whichever copy computes it. A rank without tokens takes part with zero rows, and so does one without experts.
"""

# T = tokens, R = routed rows of this rank, D = dim, W = ranks, X = routed groups, L = groups that this rank holds

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlmoe_kernels import RoutePlan
from vlmoe_kernels.collectives import Group
from vlmoe_kernels.eager import combine_pieces
from vlmoe_kernels.ops import GroupedOp, PiecewiseOp

Counts = npt.NDArray[np.int64]


class Split(Protocol):
    """Divides the rows of every routed group among the ranks that hold it, by what there is."""

    def __call__(self, counts_XW: Counts, hosts_XW: npt.NDArray[np.bool_]) -> Counts:
        """[groups, from, to]: rows that a rank sends to a rank; the same for the same arguments, on every rank.

        counts_XW: rows of each rank for each group. hosts_XW: which ranks hold a group.
        """
        ...


def nearest_copy(counts_XW: Counts, hosts_XW: npt.NDArray[np.bool_]) -> Counts:
    """Rows stay where their rank holds a copy, or else go to the first rank that does."""
    num_groups, num_ranks = counts_XW.shape
    target_XW = np.where(hosts_XW, np.arange(num_ranks), hosts_XW.argmax(axis=1)[:, None])
    flow_XWW = np.zeros((num_groups, num_ranks, num_ranks), np.int64)
    np.put_along_axis(flow_XWW, target_XW[:, :, None], counts_XW[:, :, None], axis=2)
    return flow_XWW


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the groups of one layer live.

    by_rank: the routed groups that each rank holds, ascending. here: groups that every rank holds and whose rows stay
    at home. On a rank, groups are numbered in the order of their numbers in the layer.
    """

    by_rank: tuple[tuple[int, ...], ...]
    here: tuple[int, ...]

    @property
    def routed(self) -> list[int]:
        """Every group that travels."""
        return sorted({group for groups in self.by_rank for group in groups})

    def hosts_XW(self) -> npt.NDArray[np.bool_]:
        """Which ranks hold each of `routed`."""
        return np.array(
            [[group in groups for groups in self.by_rank] for group in self.routed], bool
        ).reshape(-1, len(self.by_rank))


# rows in pieces back to their tokens; see `ops.CombiningBackend`
Combine = Callable[[Sequence[Tensor], RoutePlan], Tensor]
# told after each layer: rows of each rank for each routed group, and where they went
Observe = Callable[[Counts, Counts], None]


class ExpertParallel:
    """The dispatcher of one layer on one rank. All ranks call it for the same layers in the same order."""

    def __init__(self, group: Group, shares: Shares, split: Split = nearest_copy) -> None:
        self._group = group
        self._split = split
        self.observe: Observe | None = None
        self.combine: Combine = combine_pieces
        # of this rank; what else it computes in a step may be done with those of ranks that have nothing to do then
        self._threads = torch.get_num_threads()
        self.take(shares)

    def take(self, shares: Shares) -> None:
        """Go by these shares from the next step on; on all ranks between the same two steps."""
        mine = shares.by_rank[self._group.rank]
        local = sorted((*mine, *shares.here))
        self._routed = np.array(shares.routed, np.int64)
        self._here = np.array(shares.here, np.int64)
        self._hosts_XW = shares.hosts_XW()
        # where this rank's own groups are among the routed ones, and among its own
        self._mine_X = np.searchsorted(self._routed, np.array(mine, np.int64))
        self._mine_L = np.searchsorted(local, np.array(mine, np.int64))
        self._here_L = np.searchsorted(local, self._here)
        self._num_local = len(local)

    def __call__(self, x_TD: Tensor, plan: RoutePlan, experts: GroupedOp) -> Tensor:
        """[T, D] -> [T, D]. experts: the operation over this rank's own groups.

        Raises:
            GroupError: a rank was lost.
        """
        num_ranks, rank = self._group.size, self._group.rank
        sizes_G = np.array(plan.sizes, np.int64)
        mine_WX = torch.from_numpy(sizes_G[self._routed]).expand(num_ranks, -1)
        counts_XW = self._group.exchange_counts(mine_WX).numpy().T
        flow_XWW = self._split(counts_XW, self._hosts_XW)
        if self.observe is not None:
            self.observe(counts_XW, flow_XWW)

        # what stays is sent to this rank by itself
        send_GW = np.zeros((len(sizes_G), num_ranks), np.int64)
        send_GW[self._routed] = flow_XWW[:, rank]
        send_GW[self._here, rank] = sizes_G[self._here]
        come_LW = np.zeros((self._num_local, num_ranks), np.int64)
        come_LW[self._mine_L] = flow_XWW[self._mine_X, :, rank]
        come_LW[self._here_L, rank] = sizes_G[self._here]

        # rows lie by group, and leave by rank; they come by rank, and are wanted by group
        leaving_R = _regrouped(send_GW)
        move = _Move(
            send_GW.sum(axis=0).tolist(),
            come_LW.sum(axis=0).tolist(),
            plan.order_R[torch.from_numpy(leaving_R).to(x_TD.device)],
            _plan_of(_regrouped(come_LW.T), come_LW.sum(axis=1)),
            _as_they_left(plan, leaving_R),
        )
        lent = torch.get_num_threads()
        torch.set_num_threads(min(lent, self._threads))
        try:
            if isinstance(experts, PiecewiseOp):
                return self._where_they_lie(x_TD, move, experts)
            return self._gathered(x_TD, move, experts)
        finally:
            torch.set_num_threads(lent)

    def _gathered(self, x_TD: Tensor, move: "_Move", experts: GroupedOp) -> Tensor:
        received = self._group.exchange_rows(x_TD, move.send, move.receive, move.order_R)
        outputs = experts(received, move.local if x_TD.is_cpu else move.local.to(x_TD.device))
        return self.combine([self._group.exchange_rows(outputs, move.receive, move.send)], move.returned)

    def _where_they_lie(self, x_TD: Tensor, move: "_Move", experts: PiecewiseOp) -> Tensor:
        """As `_gathered`, but experts read the rows of others in the memory of those, and write where they can read."""
        rank = self._group.rank
        others = self._group.exchange_pieces(x_TD, move.send, move.receive, move.order_R)
        outputs = self._group.room(sum(move.receive), x_TD)
        experts.of_pieces([x_TD, *others], move.source_R(rank, len(x_TD)), move.local, outputs)
        back = self._group.exchange_pieces(outputs, move.receive, move.send)
        first = sum(move.receive[:rank])
        back[rank] = outputs[first : first + move.receive[rank]]
        return self.combine(back, move.returned)


@dataclass(frozen=True, slots=True, eq=False)
class _Move:
    """The rows of one layer on one rank.

    send, receive: rows to and from each rank. order_R: tokens of the rows that leave, as they leave. local: of the rows
    that come, for the experts here. returned: of the rows that come back.
    """

    send: list[int]
    receive: list[int]
    order_R: Tensor
    local: RoutePlan
    returned: RoutePlan

    def source_R(self, rank: int, num_tokens: int) -> Tensor:
        """Of the rows that come: their number among this rank's tokens, and behind those the rows of other ranks."""
        first, own = sum(self.receive[:rank]), self.receive[rank]
        source_R = torch.arange(num_tokens, num_tokens + sum(self.receive))
        source_R[first + own :] -= own
        left = sum(self.send[:rank])
        source_R[first : first + own] = self.order_R[left : left + own]
        return source_R


def _plan_of(order: Counts, sizes_L: Counts) -> RoutePlan:
    """One ungated choice of every row; order: rows by group."""
    return RoutePlan(
        order_R=torch.from_numpy(order),
        sizes=tuple(sizes_L.tolist()),
        slots_TK=torch.from_numpy(_inverse(order)).unsqueeze(1),
        gates_R=None,
        complete=True,
    )


def _as_they_left(plan: RoutePlan, leaving_R: Counts) -> RoutePlan:
    """The same choices for rows in another order: what `combine` needs of it."""
    device = plan.slots_TK.device
    # the last one is for choices without a row, -1
    place = torch.from_numpy(np.append(_inverse(leaving_R), -1)).to(device)
    gates_R = None if plan.gates_R is None else plan.gates_R[torch.from_numpy(leaving_R).to(device)]
    return RoutePlan(plan.order_R, plan.sizes, place[plan.slots_TK], gates_R, plan.complete)


def _regrouped(lengths_AB: Counts) -> Counts:
    """Rows lie by a and then by b: their numbers, by b and then by a."""
    ends_AB = lengths_AB.cumsum().reshape(lengths_AB.shape)
    lengths = lengths_AB.T.ravel()
    # start, start + 1, ... of every piece, one piece behind the other
    shifts: Counts = (ends_AB.T.ravel() - lengths.cumsum()).repeat(lengths)
    shifts += np.arange(len(shifts))
    return shifts


def _inverse(order: Counts) -> Counts:
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def shares_of(
    pool_sizes: Sequence[int], is_routed: Sequence[bool], held: Sequence[Sequence[Sequence[int]]]
) -> Shares:
    """Groups from experts: held[rank] is, for each routed pool in turn, the experts of that rank.

    Args:
        pool_sizes: groups of each pool, over all ranks.
        is_routed: whether a pool's groups are shared out.
        held: see above.
    """
    by_rank: list[list[int]] = [[] for _ in held]
    here: list[int] = []
    first = routed = 0
    for size, travels in zip(pool_sizes, is_routed, strict=True):
        if travels:
            for groups, experts in zip(by_rank, held, strict=True):
                groups += [first + expert for expert in experts[routed]]
            routed += 1
        else:
            here += range(first, first + size)
        first += size
    return Shares(tuple(map(tuple, by_rank)), tuple(here))
