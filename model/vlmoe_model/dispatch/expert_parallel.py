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
from vlmoe_kernels.eager import combine
from vlmoe_kernels.ops import GroupedOp

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


# told after each layer: rows of each rank for each routed group, and where they went
Observe = Callable[[Counts, Counts], None]


class ExpertParallel:
    """The dispatcher of one layer on one rank. All ranks call it for the same layers in the same order."""

    def __init__(self, group: Group, shares: Shares, split: Split = nearest_copy) -> None:
        self._group = group
        self._split = split
        self.observe: Observe | None = None
        self.take(shares)

    def take(self, shares: Shares) -> None:
        """Go by these shares from the next step on; on all ranks between the same two steps."""
        self._routed = np.array(shares.routed, np.int64)
        self._here = np.array(shares.here, np.int64)
        self._hosts_XW = shares.hosts_XW()
        mine = shares.by_rank[self._group.rank]
        # which of the routed groups lie here, and where among a rank's own groups everything is
        self._mine_L = np.searchsorted(self._routed, np.array(mine, np.int64))
        local = sorted((*mine, *shares.here))
        self._local_L = np.searchsorted(local, np.array(mine, np.int64))
        self._local_here = np.searchsorted(local, self._here)
        self._num_local = len(local)

    def __call__(self, x_TD: Tensor, plan: RoutePlan, experts: GroupedOp) -> Tensor:
        """[T, D] -> [T, D]. experts: the operation over this rank's own groups.

        Raises:
            GroupError: a rank was lost.
        """
        num_ranks, rank = self._group.size, self._group.rank
        sizes = np.array(plan.sizes, np.int64)
        first = np.cumsum(sizes) - sizes
        mine_WX = torch.from_numpy(sizes[self._routed]).expand(num_ranks, -1)
        counts_XW = self._group.exchange_counts(mine_WX).numpy().T
        flow_XWW = self._split(counts_XW, self._hosts_XW)
        if self.observe is not None:
            self.observe(counts_XW, flow_XWW)

        # rows in the order in which they leave: by rank, then by group; then those that stay
        send_XW = flow_XWW[:, rank]
        starts_XW = first[self._routed, None] + np.cumsum(send_XW, axis=1) - send_XW
        leaving_R = torch.from_numpy(
            _segments(
                np.concatenate([starts_XW.T.ravel(), first[self._here]]),
                np.concatenate([send_XW.T.ravel(), sizes[self._here]]),
            )
        ).to(x_TD.device)
        rows_RD = x_TD.index_select(0, plan.order_R[leaving_R])

        come_WL = flow_XWW[self._mine_L, :, rank].T
        send, receive = send_XW.sum(axis=0).tolist(), come_WL.sum(axis=1).tolist()
        travelling, staying = torch.split(rows_RD, [sum(send), len(rows_RD) - sum(send)])
        received = self._group.exchange_rows(travelling, send, receive)
        inputs = torch.cat([received, staying]) if len(staying) else received
        local_plan = self._local_plan(come_WL, sizes[self._here])
        outputs = experts(inputs, local_plan if x_TD.is_cpu else local_plan.to(x_TD.device))

        foreign, own = torch.split(outputs, [len(received), len(staying)])
        back = self._group.exchange_rows(foreign, receive, send)
        y_RD = torch.empty_like(rows_RD)
        y_RD[leaving_R] = torch.cat([back, own]) if len(own) else back
        return combine(y_RD, plan)

    def _local_plan(self, come_WL: Counts, staying: Counts) -> RoutePlan:
        """Rows as they lie, by rank and group, and then those that stayed, sorted by this rank's own groups."""
        num_ranks = come_WL.shape[0]
        # a row of the table is a group, a column a source; the last column is what stayed
        lengths = np.zeros((self._num_local, num_ranks + 1), np.int64)
        starts = np.zeros_like(lengths)
        ends = np.cumsum(np.concatenate([come_WL.ravel(), staying]))
        lengths[self._local_L, :num_ranks] = come_WL.T
        starts[self._local_L, :num_ranks] = (ends[: come_WL.size].reshape(come_WL.shape) - come_WL).T
        lengths[self._local_here, num_ranks] = staying
        starts[self._local_here, num_ranks] = ends[come_WL.size :] - staying
        order = _segments(starts.ravel(), lengths.ravel())
        slots = np.empty_like(order)
        slots[order] = np.arange(len(order))
        return RoutePlan(
            order_R=torch.from_numpy(order),
            sizes=tuple(lengths.sum(axis=1).tolist()),
            slots_TK=torch.from_numpy(slots).unsqueeze(1),
            gates_R=None,
            complete=True,
        )


def _segments(starts: Counts, lengths: Counts) -> Counts:
    """start, start + 1, ... start + length - 1 of every segment, one behind the other."""
    ends = np.cumsum(lengths)
    segments: Counts = np.repeat(starts - (ends - lengths), lengths)
    segments += np.arange(len(segments))
    return segments


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
