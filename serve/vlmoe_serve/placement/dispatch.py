"""Which copy of an expert computes which tokens.

    counts (expert, source), hosts --by_counts--> Routed(amounts, traffic)     balance first, locality second
                                   --uniform----> Routed                       EPLB's: copies take turns

`by_counts` sees the batch's actual counts. It begins where no token would travel further than it must. It then fills
the copies of one expert after the other to a common level (water-filling) until nothing changes, which minimises the
sum of squared loads and with it the largest load; of the many splits that do, this one is close to where it began. It
closes copies that are not needed for that, and sends every source's tokens to its own copy first, to copies on its
node second. All of it is integer arithmetic in a fixed order, so every rank that knows the counts comes to the same
split by itself. This file is the readable truth, over many steps at once; `native.py` runs the same in C.
"""

# B = steps, X = experts, G = ranks, H = hosts of one expert

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int32]
Hosts = npt.NDArray[np.bool_]

# Filling halves the distance to the optimum in about a pass; most steps stop changing after four.
MAX_PASSES = 20
_SHUT = np.int64(1) << 40


@dataclass(frozen=True, slots=True, eq=False)
class Routed:
    """Where the tokens of one layer go, for every step.

    amounts_BXG: int32, tokens of an expert that a rank computes. traffic_BGG: int64, tokens from rank to rank.
    """

    amounts_BXG: Counts
    traffic_BGG: npt.NDArray[np.int64]


class Dispatch(Protocol):
    """Splits tokens over copies. stream: cost of an active copy, in tokens; node_G: node of each rank."""

    def __call__(
        self, counts_BXG: Counts, hosts_XG: Hosts, *, stream: int, node_G: npt.NDArray[np.int32]
    ) -> Routed:
        """counts_BXG: choices of each source rank for each expert; hosts_XG: which ranks hold a copy."""
        ...


def by_counts(counts_BXG: Counts, hosts_XG: Hosts, *, stream: int, node_G: npt.NDArray[np.int32]) -> Routed:
    """Split by what is there."""
    total_BX = counts_BXG.sum(axis=2, dtype=np.int64)
    amounts_BXG = _nearest(counts_BXG, hosts_XG, node_G)
    _balance(amounts_BXG, total_BX, hosts_XG, stream)
    return Routed(amounts_BXG.astype(np.int32), _traffic(counts_BXG, amounts_BXG, hosts_XG, node_G))


def uniform(counts_BXG: Counts, hosts_XG: Hosts, *, stream: int, node_G: npt.NDArray[np.int32]) -> Routed:
    """Every source deals its tokens out to the copies in turn, whatever their load."""
    amounts = np.zeros(counts_BXG.shape, np.int32)
    num_steps, _, num_ranks = counts_BXG.shape
    traffic = np.zeros((num_steps, num_ranks, num_ranks), np.int64)
    for expert, hosts_G in enumerate(hosts_XG):
        hosts = np.flatnonzero(hosts_G)
        share_BG, rest_BG = np.divmod(counts_BXG[:, expert], len(hosts))
        for turn, host in enumerate(hosts):
            # the first copy in turn differs from source to source, or copy 0 would get all the remainders
            place_G = (turn - np.arange(num_ranks) - expert) % len(hosts)
            sent_BG = share_BG + (place_G < rest_BG)
            amounts[:, expert, host] = sent_BG.sum(axis=1)
            traffic[:, :, host] += sent_BG
    return Routed(amounts, _without_diagonal(traffic))


def _nearest(counts_BXG: Counts, hosts_XG: Hosts, node_G: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """[B, X, G]: every token on its own rank, or dealt out to the copies on its node, or to all copies."""
    amounts = np.zeros(counts_BXG.shape, np.int64)
    for expert, hosts_G in enumerate(hosts_XG):
        for source, node in enumerate(node_G):
            near_G = hosts_G & (node_G == node)
            best_G = (
                np.arange(len(node_G)) == source if hosts_G[source] else near_G if near_G.any() else hosts_G
            )
            targets = np.flatnonzero(best_G)
            share_B, rest_B = np.divmod(counts_BXG[:, expert, source], len(targets))
            for place, target in enumerate(targets):
                amounts[:, expert, target] += share_B + (place < rest_B)
    return amounts


def _balance(
    amounts: npt.NDArray[np.int64], total_BX: npt.NDArray[np.int64], hosts_XG: Hosts, stream: int
) -> None:
    load_BG = (amounts + stream * (amounts > 0)).sum(axis=1)
    shared = [(int(x), np.flatnonzero(hosts_XG[x])) for x in np.flatnonzero(hosts_XG.sum(axis=1) > 1)]
    _level(amounts, load_BG, total_BX, shared, stream, only_open=False)
    if stream:
        _close(amounts, load_BG, total_BX, shared, stream)
        _level(amounts, load_BG, total_BX, shared, stream, only_open=True)


def _level(
    amounts: npt.NDArray[np.int64],
    load_BG: npt.NDArray[np.int64],
    total_BX: npt.NDArray[np.int64],
    shared: list[tuple[int, npt.NDArray[np.intp]]],
    stream: int,
    *,
    only_open: bool,
) -> None:
    for _ in range(MAX_PASSES):
        changed = False
        for expert, hosts in shared:
            old_BH = amounts[:, expert, hosts]
            base_BH = load_BG[:, hosts] - old_BH - stream * (old_BH > 0)
            level_BH = np.where(old_BH > 0, base_BH, _SHUT) if only_open else base_BH
            new_BH = fill(total_BX[:, expert], level_BH + stream)
            if (new_BH != old_BH).any():
                changed = True
                amounts[:, expert, hosts] = new_BH
                load_BG[:, hosts] = base_BH + new_BH + stream * (new_BH > 0)
        if not changed:
            return


def _close(
    amounts: npt.NDArray[np.int64],
    load_BG: npt.NDArray[np.int64],
    total_BX: npt.NDArray[np.int64],
    shared: list[tuple[int, npt.NDArray[np.intp]]],
    stream: int,
) -> None:
    """Take copies out of use, the smallest first, as long as the largest load does not grow."""
    largest_B = load_BG.max(axis=1)
    for expert, hosts in shared:
        order_BH = np.where(amounts[:, expert, hosts] > 0, amounts[:, expert, hosts], _SHUT).argsort(
            axis=1, kind="stable"
        )
        for turn in range(len(hosts)):
            old_BH = amounts[:, expert, hosts]
            is_open_BH = old_BH > 0
            tried_BH = np.arange(len(hosts)) == order_BH[:, turn, None]
            base_BH = load_BG[:, hosts] - old_BH - stream * is_open_BH
            new_BH = fill(total_BX[:, expert], np.where(is_open_BH & ~tried_BH, base_BH, _SHUT) + stream)
            after_BH = base_BH + new_BH + stream * (new_BH > 0)
            possible_B = (is_open_BH & tried_BH).any(axis=1) & (is_open_BH.sum(axis=1) > 1)
            accept_B1 = (possible_B & (after_BH.max(axis=1) <= largest_B))[:, None]
            amounts[:, expert, hosts] = np.where(accept_B1, new_BH, old_BH)
            load_BG[:, hosts] = np.where(accept_B1, after_BH, load_BG[:, hosts])


def fill(total_B: npt.NDArray[np.int64], level_BH: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[B, H]: how `total_B` more tokens raise the lowest of the levels to a common one; ties to the first host."""
    order_BH = level_BH.argsort(axis=1, kind="stable")
    sorted_BH = np.take_along_axis(level_BH, order_BH, axis=1)
    sum_BH = sorted_BH.cumsum(axis=1)
    place_H = np.arange(1, level_BH.shape[1] + 1)
    # how many hosts lie below the common level
    num_B1 = (sorted_BH * place_H - sum_BH < total_B[:, None]).sum(axis=1, keepdims=True)
    below_B1 = np.take_along_axis(sum_BH, np.maximum(num_B1 - 1, 0), axis=1)
    common_B1, rest_B1 = np.divmod(total_B[:, None] + below_B1, np.maximum(num_B1, 1))
    given_BH = np.where(place_H <= num_B1, common_B1 - sorted_BH + (place_H <= rest_B1), 0)
    out_BH = np.empty_like(given_BH)
    np.put_along_axis(out_BH, order_BH, given_BH, axis=1)
    return out_BH


def shares(counts_XG: Counts, amounts_XG: Counts, node_G: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """[experts, from, to]: the tokens of one step that each source sends to each copy.

    Own copies first, then copies on the same node, then the others, in order of ranks.
    """
    flow_1XGG = _flow(counts_XG[None].astype(np.int64), amounts_XG[None].astype(np.int64), node_G)
    flow_XGG: npt.NDArray[np.int32] = flow_1XGG[0].astype(np.int32)
    return flow_XGG


def _traffic(
    counts_BXG: Counts, amounts_BXG: npt.NDArray[np.int64], hosts_XG: Hosts, node_G: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    num_steps, _, num_ranks = counts_BXG.shape
    traffic = np.zeros((num_steps, num_ranks, num_ranks), np.int64)
    copies_X = hosts_XG.sum(axis=1)
    for rank in range(num_ranks):
        alone_X = hosts_XG[:, rank] & (copies_X == 1)
        traffic[:, :, rank] = counts_BXG[:, alone_X].sum(axis=1)
    for expert in np.flatnonzero(copies_X > 1):
        one = slice(expert, expert + 1)
        traffic += _flow(counts_BXG[:, one].astype(np.int64), amounts_BXG[:, one], node_G)[:, 0]
    return _without_diagonal(traffic)


def _flow(
    source_BXG: npt.NDArray[np.int64], target_BXG: npt.NDArray[np.int64], node_G: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """[B, X, from, to] with the given sums over either side."""
    own_BXG = np.minimum(source_BXG, target_BXG)
    source, target = source_BXG - own_BXG, target_BXG - own_BXG
    flow = np.zeros((*source.shape, source.shape[2]), np.int64)
    rank_G = np.arange(source.shape[2])
    flow[:, :, rank_G, rank_G] = own_BXG
    for node in range(int(node_G.max()) + 1):
        inside_G = node_G == node
        near = _in_order(source * inside_G, target * inside_G)
        flow += near
        source, target = source - near.sum(axis=3), target - near.sum(axis=2)
    return flow + _in_order(source, target)


def _in_order(source_BXG: npt.NDArray[np.int64], target_BXG: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The first source fills the first target, and so on: overlaps of two cuts of one line."""
    source_end, target_end = source_BXG.cumsum(axis=2)[..., :, None], target_BXG.cumsum(axis=2)[..., None, :]
    start = np.maximum(source_end - source_BXG[..., :, None], target_end - target_BXG[..., None, :])
    overlap: npt.NDArray[np.int64] = np.maximum(0, np.minimum(source_end, target_end) - start)
    return overlap


def _without_diagonal(traffic_BGG: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    rank_G = np.arange(traffic_BGG.shape[1])
    traffic_BGG[:, rank_G, rank_G] = 0
    return traffic_BGG
