"""When to plan anew while serving, and whether to go there: pure, with the time as an argument.

    steps -> Window -> (Pace: is it time?) -> revise(recent steps, placement in use) -> Revision: move, or why not

A plan is made on the older part of the window and judged on the newest steps, which it has not seen. It is taken only
if it gains more than noise there, and pays back its moves before the load is likely to be another one. A refusal
doubles the time until the next plan, a move resets it. Planning takes processor time itself: where not even a perfect
placement would gain more than noise, nothing is searched, and searches stay a small share of the time.
"""

# L = MoE layers, S = steps, X = experts of both pools, G = ranks

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.decision import MIN_GAIN, Decision, decide, most_gain, turned
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import Placement, Slots
from vlmoe_serve.placement.policies import Budget
from vlmoe_serve.placement.policies.planner import BRIEF, planner_from

# the newest part of a window, which a plan is judged on
_JUDGED = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalanceOptions:
    """How eager to be.

    window_steps: steps that are looked at. min_steps: steps since the last decision before there is another plan.
    interval_s, max_interval_s: time between plans, at first and after many refusals. horizon_s: for how long a
    placement is expected to be good. planning_share: of the time, that planning may take from the ranks.
    bytes_per_s: of weights that a rank reads and packs beside its work.
    at_once: all layers move in one step, and everybody waits; to compare with.
    """

    window_steps: int = 256
    min_steps: int = 64
    interval_s: float = 10.0
    max_interval_s: float = 160.0
    horizon_s: float = 120.0
    planning_share: float = 0.01
    bytes_per_s: float = 200e6
    at_once: bool = False


class Window:
    """The last steps of live traffic."""

    def __init__(self, placement: Placement, num_steps: int) -> None:
        self._layers, self._pools = placement.layers, placement.pools
        self._steps: deque[npt.NDArray[np.int32]] = deque(maxlen=num_steps)

    def add(self, counts_LXG: npt.NDArray[np.int64]) -> None:
        """One step: choices that each rank's tokens make for each expert. Steps without any say nothing."""
        if counts_LXG.any():
            self._steps.append(counts_LXG.astype(np.int32))

    def __len__(self) -> int:
        return len(self._steps)

    def load(self) -> StepLoad:
        """All of them, the oldest first."""
        counts_LSXG = np.stack(list(self._steps), axis=1)
        # every token at home is routed in the first mixture, or in none
        return StepLoad(self._layers, self._pools, counts_LSXG, counts_LSXG[0].sum(axis=1, dtype=np.int64))


class Pace:
    """Hysteresis in time."""

    def __init__(self, options: RebalanceOptions, now_s: float) -> None:
        self._options = options
        self._pause_s = options.interval_s
        self._least_s = 0.0
        self._since_s = now_s
        self._num_steps = 0

    def step(self) -> None:
        """A step with tokens has run."""
        self._num_steps += 1

    def is_due(self, now_s: float) -> bool:
        """Whether to plan."""
        return self._num_steps >= self._options.min_steps and now_s - self._since_s >= max(
            self._pause_s, self._least_s
        )

    def steps_per_s(self, now_s: float) -> float:
        """Since the last decision."""
        return self._num_steps / max(now_s - self._since_s, 1e-3)

    def decided(self, now_s: float, *, moved: bool, lost_s: float = 0.0) -> None:
        """A plan was refused, or all its moves are done. lost_s: what ranks did without while it was made."""
        self._least_s = lost_s / self._options.planning_share
        longer_s = min(2 * self._pause_s, self._options.max_interval_s)
        self._pause_s = self._options.interval_s if moved else longer_s
        self._since_s, self._num_steps = now_s, 0


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is planned for: recent steps, the placement in use, and how many steps a new one is to last."""

    load: StepLoad
    current: Placement
    costs: Costs
    horizon_steps: int
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Revision:
    """The answer. proposed: where to go, if decision.move. planned_s: processor time that it took."""

    proposed: Placement
    decision: Decision
    planned_s: float = 0.0


def revise(question: Question) -> Revision:
    """Plan on the older steps, judge on the newest."""
    load, current, costs = question.load, question.current, question.costs
    first = load.num_steps - max(1, round(_JUDGED * load.num_steps))
    step_S = np.arange(load.num_steps)
    newest = load.steps(step_S[first:])
    if most_gain(newest, current, costs) < MIN_GAIN:
        return Revision(current, decide(newest, current, current, costs, question.horizon_steps))
    older = load.steps(step_S[:first] if first else step_S)
    budget = Budget(slots_per_rank=current.slots_per_rank, seed=question.seed)
    planned = planner_from(older, budget, costs, starts=[current], effort=BRIEF)
    proposed = turned(planned, current, costs)
    return Revision(proposed, decide(newest, current, proposed, costs, question.horizon_steps))


def changed_layers(current: Placement, proposed: Placement) -> list[int]:
    """Positions of the layers in which some rank holds other experts."""
    differ_LXG = current.hosts_LXG != proposed.hosts_LXG
    return [int(layer) for layer in np.flatnonzero(differ_LXG.any(axis=(1, 2)))]


def with_layer(current: Placement, proposed: Placement, layer: int) -> Placement:
    """The placement in use with one layer as proposed."""
    slots: Slots = current.slots_LGK.copy()
    slots[layer] = proposed.slots_LGK[layer]
    return Placement(current.layers, current.pools, slots)


def num_moved(current: Placement, proposed: Placement, layers: Sequence[int]) -> int:
    """Copies that ranks must receive in these layers."""
    new_LXG = proposed.hosts_LXG & ~current.hosts_LXG
    return int(new_LXG[list(layers)].sum())
