"""Waiting work by the time it is due: what a newcomer with a deadline queues behind. Pure.

Due times are kept in steps of `STEP_S`, so a sum looks at some hundred numbers, however long the queue is.
"""

import math

from vlmoe_serve.batching.ticket import Work

STEP_S = 0.1


class WorkByDue:
    """The work of one class."""

    def __init__(self) -> None:
        self.total = Work()
        self._steps: dict[int, Work] = {}

    def add(self, due_s: float, work: Work) -> None:
        """Some more, due then."""
        step = math.floor(due_s / STEP_S)
        self.total += work
        self._steps[step] = self._steps.get(step, Work()) + work

    def subtract(self, due_s: float, work: Work) -> None:
        """What was added before, with the same due time."""
        step = math.floor(due_s / STEP_S)
        self.total -= work
        left = self._steps.get(step, Work()) - work
        if left == Work():
            self._steps.pop(step, None)
        else:
            self._steps[step] = left

    def before(self, due_s: float) -> Work:
        """What is due before then, or in the same step."""
        if math.isinf(due_s):
            return self.total
        last = math.floor(due_s / STEP_S)
        return sum((work for step, work in self._steps.items() if step <= last), Work())
