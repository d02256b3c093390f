"""Rank 0 keeps the experts where the traffic wants them.

    saw (every step) -> window -> plan, in another process -> refused, or layer after layer:
    orders: prepare -> all ranks ready -> orders: switch, and prepare the next

Ranks obey the same orders before the same step. Nothing here waits.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vlmoe_serve.engine.expert_shares import holdings_of
from vlmoe_serve.engine.orders import LayerMove, MoveState, Orders
from vlmoe_serve.engine.report import MoveReport, Refusal
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.decision import MIN_GAIN
from vlmoe_serve.placement.placement import Placement
from vlmoe_serve.placement.rebalancing import (
    Pace,
    Question,
    RebalanceOptions,
    Revision,
    Window,
    changed_layers,
    num_moved,
    with_layer,
)

_log = logging.getLogger(__name__)


class Plans(Protocol):
    """Whoever plans: a process of its own."""

    def ask(self, question: Question) -> "Future[Revision]":
        """Have it planned. The future fails with EOFError or OSError when that is not possible any more."""
        ...


class Rebalancer:
    """See above. toll: seconds that ranks do without for each that a plan computes."""

    def __init__(
        self,
        placement: Placement,
        costs: Costs,
        options: RebalanceOptions,
        planning: Plans,
        *,
        toll: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.placement = placement
        self._costs = costs
        self._options = options
        self._planning = planning
        self._toll = toll
        self._lost_s = 0.0
        self._clock = clock
        self._window = Window(placement, options.window_steps)
        self._pace = Pace(options, clock())
        self._asked: Future[Revision] | None = None
        self._target = placement
        self._layers: list[int] = []
        self._is_preparing = False
        self._report = MoveReport()
        self._num_plans = 0

    def saw(self, counts_LXG: npt.NDArray[np.int64]) -> None:
        """A step has run."""
        self._window.add(counts_LXG)
        self._pace.step()

    def orders(self, states: Sequence[MoveState]) -> Orders:
        """What all ranks do before the next step; states: of all of them, after the last one."""
        if self._layers:
            return self._go_on(states)
        if self._asked is not None:
            return self._answered(self._asked) if self._asked.done() else Orders()
        now_s = self._clock()
        if self._pace.is_due(now_s):
            horizon = max(1, round(self._pace.steps_per_s(now_s) * self._options.horizon_s))
            question = Question(self._window.load(), self.placement, self._costs, horizon, self._num_plans)
            self._asked = self._planning.ask(question)
        return Orders()

    def take(self) -> MoveReport:
        """Plans, moves and refusals since the last time."""
        taken, self._report = self._report, MoveReport()
        return taken

    def _answered(self, asked: "Future[Revision]") -> Orders:
        self._asked = None
        self._num_plans += 1
        try:
            revision = asked.result()
        except (EOFError, OSError) as error:
            _log.warning("the process that plans placements ended (%s); experts stay where they are", error)
            self._refuse("failed")
            self._pace = Pace(RebalanceOptions(interval_s=float("inf")), self._clock())
            return Orders()
        self._report = self._report.plus(MoveReport(num_plans=1))
        self._lost_s = self._toll * revision.planned_s
        decision = revision.decision
        if not decision.move:
            self._refuse("gain" if decision.gain < MIN_GAIN else "payback")
            return Orders()
        _log.info("moving experts: %s", decision)
        self._target = revision.proposed
        self._layers = changed_layers(self.placement, self._target)
        if self._options.at_once:
            moves = tuple(self._move(layer) for layer in self._layers)
            for layer in list(self._layers):
                self._done(layer)
            return Orders(at_once=moves)
        return self._begin()

    def _begin(self) -> Orders:
        self._is_preparing = True
        return Orders(prepare=self._move(self._layers[0]))

    def _go_on(self, states: Sequence[MoveState]) -> Orders:
        failure = next((state.failure for state in states if state.failure), "")
        if failure:
            _log.warning("experts stay where they are: %s", failure)
            self._layers = []
            self._refuse("failed")
            return Orders()
        if not all(state.is_ready for state in states):
            return Orders()
        self._done(self._layers[0])
        return Orders(switch=True, prepare=self._move(self._layers[0]) if self._layers else None)

    def _done(self, layer: int) -> None:
        """A layer is switched in the step to come."""
        moved = num_moved(self.placement, self._target, [layer])
        self.placement = with_layer(self.placement, self._target, layer)
        self._layers.remove(layer)
        self._report = self._report.plus(
            MoveReport(num_moved=moved, moved_bytes=moved * self._costs.expert_bytes)
        )
        if not self._layers:
            self._pace.decided(self._clock(), moved=True, lost_s=self._lost_s)

    def _refuse(self, why: Refusal) -> None:
        self._report = self._report.plus(MoveReport(refused={why: 1}))
        self._pace.decided(self._clock(), moved=False, lost_s=self._lost_s)

    def _move(self, layer: int) -> LayerMove:
        block = self.placement.layers[layer]
        return LayerMove(block, holdings_of(self._target).layers[block])
