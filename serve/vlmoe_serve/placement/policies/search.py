"""Local search for one layer: change a placement a little, keep what the model of a step likes better.

The objective knows what the engine will do (dispatch by counts, weights read, links) on recorded steps: the mean of the
layer's time, a little of its tail, and a fine where a shifted mix would cost more than it may.
"""

# S = steps, X = experts, G = ranks, K = slots of a rank

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.dispatch import Counts, Hosts, Routed
from vlmoe_serve.placement.step_time import DISPATCHES, Microseconds, busy_us, wire_us

# weight of the mean of the worst twentieth of steps, beside that of all steps
_TAIL_WEIGHT = 0.15
_TAIL_SHARE = 0.05
# a fine of this many times the relative excess; steep, so that a shifted mix is paid for only by large gains
_FINE = 4.0
# how often a change starts at a rank in proportion to how often it is the slowest
_AT_SLOWEST = 0.8
# A change is first tried on every so manieth step, and dropped if it is worse there by more than this factor.
_GLANCE = 4
_HOPELESS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """Steps of a shifted mix, and the mean layer time, us, without starts, that they must not exceed."""

    counts_SXG: Counts
    limit_us: float


@dataclass(frozen=True, slots=True, eq=False)
class LayerProblem:
    """One layer to place. counts_SXG: steps to plan for."""

    counts_SXG: Counts
    guards: Sequence[Guard]
    num_slots: int
    costs: Costs
    node_G: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    value: float
    glance: float
    slowest_G: npt.NDArray[np.float64]
    tokens_XG: npt.NDArray[np.int64]


class Objective:
    """Scores placements of one layer; smaller is better, in microseconds."""

    def __init__(self, problem: LayerProblem) -> None:
        self._problem = problem
        self._stacked_SXG = np.ascontiguousarray(
            np.concatenate([problem.counts_SXG, *(guard.counts_SXG for guard in problem.guards)])
        )
        self._ends = np.cumsum(
            [len(problem.counts_SXG), *(len(guard.counts_SXG) for guard in problem.guards)]
        )
        self._glance_SXG = np.ascontiguousarray(problem.counts_SXG[::_GLANCE])

    def score(self, hosts_XG: Hosts) -> _Scored:
        """The value, how often each rank is the slowest, and what experts do where."""
        routed = self._route(self._stacked_SXG, hosts_XG)
        busy_SG, wire_SG = busy_us(routed, self._problem.costs), wire_us(routed, self._problem.costs)
        layer_S = _layer_us(busy_SG, wire_SG)
        num, num_ranks = self._ends[0], hosts_XG.shape[1]
        main_S = layer_S[:num]
        tail = np.sort(main_S)[-max(1, int(_TAIL_SHARE * num)) :].mean()
        value = float((main_S.mean() + _TAIL_WEIGHT * tail) / (1 + _TAIL_WEIGHT))
        fine = 0.0
        for guard, begin, end in zip(self._problem.guards, self._ends[:-1], self._ends[1:], strict=True):
            fine += max(0.0, float(layer_S[begin:end].mean()) / guard.limit_us - 1.0)
        slowest_G = np.bincount(busy_SG[:num].argmax(axis=1), minlength=num_ranks)
        slowest_G = slowest_G + np.bincount(wire_SG[:num].argmax(axis=1), minlength=num_ranks)
        return _Scored(
            value * (1 + _FINE * fine),
            self.glance(hosts_XG),
            slowest_G / slowest_G.sum(),
            routed.amounts_BXG[:num].sum(axis=0, dtype=np.int64),
        )

    def glance(self, hosts_XG: Hosts) -> float:
        """The mean over a few of the steps, us: enough to throw most changes away."""
        routed = self._route(self._glance_SXG, hosts_XG)
        costs = self._problem.costs
        return float(_layer_us(busy_us(routed, costs), wire_us(routed, costs)).mean())

    def _route(self, counts_SXG: Counts, hosts_XG: Hosts) -> Routed:
        return _route(counts_SXG, hosts_XG, self._problem.costs, self._problem.node_G)


def guard_for(
    counts_SXG: Counts, base_XG: Hosts, share: float, costs: Costs, node_G: npt.NDArray[np.int32]
) -> Guard:
    """A limit at a share of what another placement takes for these steps."""
    routed = _route(counts_SXG, base_XG, costs, node_G)
    base_us = _layer_us(busy_us(routed, costs), wire_us(routed, costs)).mean()
    return Guard(counts_SXG, share * float(base_us))


def improve(
    problem: LayerProblem, starts: Sequence[Hosts], *, num_changes: int, seed: Sequence[int]
) -> Hosts:
    """The best placement found from the best of `starts` by `num_changes` attempts; the same for the same seed."""
    objective = Objective(problem)
    scored = [objective.score(hosts) for hosts in starts]
    best = int(np.argmin([each.value for each in scored]))
    hosts, now = starts[best].copy(), scored[best]
    rng = np.random.default_rng(list(seed))
    for _ in range(num_changes):
        changed = _change(rng, hosts, now, problem.num_slots)
        if changed is None:
            continue
        if objective.glance(changed) > _HOPELESS * now.glance:
            continue
        after = objective.score(changed)
        if after.value < now.value:
            hosts, now = changed, after
    return hosts


def _route(counts_SXG: Counts, hosts_XG: Hosts, costs: Costs, node_G: npt.NDArray[np.int32]) -> Routed:
    return DISPATCHES["counts"](counts_SXG, hosts_XG, stream=costs.stream_tokens, node_G=node_G)


def _layer_us(busy_SG: Microseconds, wire_SG: Microseconds) -> Microseconds:
    """[steps]: what placements differ by. The start of an all-to-all is the same for all, and would loosen limits."""
    layer_S: Microseconds = busy_SG.max(axis=1) + 2 * wire_SG.max(axis=1)
    return layer_S


def _change(rng: np.random.Generator, hosts_XG: Hosts, now: _Scored, num_slots: int) -> Hosts | None:
    """Another placement close by, that holds every expert and no more than the slots; None for a miss."""
    num_ranks = hosts_XG.shape[1]
    if num_ranks == 1:
        return None
    share_G = now.slowest_G if rng.random() < _AT_SLOWEST else None
    source = int(rng.choice(num_ranks, p=share_G))
    target = int(rng.integers(num_ranks - 1))
    target += target >= source
    mine = np.flatnonzero(hosts_XG[:, source] & ~hosts_XG[:, target])
    theirs = np.flatnonzero(hosts_XG[:, target] & ~hosts_XG[:, source])
    if not len(mine):
        return None
    # what works most on the source is what is worth changing
    work = now.tokens_XG[mine, source] + 1.0
    give = int(rng.choice(mine, p=work / work.sum()))
    changed = hosts_XG.copy()
    copies_X = hosts_XG.sum(axis=1)
    kind = rng.integers(3)
    if kind == 0 and len(theirs):
        take = int(rng.choice(theirs))
        changed[give, [source, target]] = False, True
        changed[take, [source, target]] = True, False
        return changed
    # a copy for the target: in a free slot, or instead of one that lies elsewhere as well
    if hosts_XG[:, target].sum() >= num_slots:
        spare = np.flatnonzero(hosts_XG[:, target] & (copies_X > 1))
        if not len(spare):
            return None
        changed[int(rng.choice(spare)), target] = False
    changed[give, target] = True
    if kind == 1:
        changed[give, source] = False
    return changed
