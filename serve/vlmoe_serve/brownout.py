"""When to answer worse so that more are answered, and when to stop: `--brownout on`. Pure: time is an argument.

    off --(overload for `enter_s`)--> on --(calm for `hold_s`)--> off

Overload is a refusal, or a predicted wait of `enter_ms`. Calm is a wait of at most `leave_ms` when nobody has been
refused for `refusal_s`: callers with short deadlines are refused while others are let in, at whatever length of the
queue. What lies between keeps the state as it is, whichever it is. A relapse soon after an end doubles the time of calm
that the next end takes: a load that only a browned-out server can carry would otherwise switch for ever.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vlmoe_model.inputs import Job
from vlmoe_model.routing_mode import RoutingMode
from vlmoe_serve.catalog.models import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """See the module. A relapse within `hold_s` after an end is soon; `max_hold_s` bounds the doubling."""

    enter_ms: float
    leave_ms: float
    enter_s: float = 0.5
    hold_s: float = 5.0
    max_hold_s: float = 80.0
    refusal_s: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.leave_ms < self.enter_ms:
            raise ValueError(f"leave_ms must be from 0 to below {self.enter_ms:g}, got {self.leave_ms:g}")
        if not (min(self.enter_s, self.refusal_s) >= 0 and 0 < self.hold_s <= self.max_hold_s):
            raise ValueError("times must not be negative, and hold_s from above 0 to max_hold_s")

    @classmethod
    def of(cls, max_queue_ms: float) -> "Thresholds":
        """A quarter of the longest wait that anybody may have, and a twentieth."""
        return cls(enter_ms=max_queue_ms / 4, leave_ms=max_queue_ms / 20)


class Switch:
    """The state of one model."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.on = False
        self._thresholds = thresholds
        self._hold_s = thresholds.hold_s
        self._overload_since_s: float | None = None
        self._calm_since_s: float | None = None
        self._ended_s: float | None = None
        self._refused_s = -math.inf

    def observe(self, now_s: float, wait_ms: float, *, refused: bool = False) -> bool:
        """Take in a predicted wait, or a refusal; whether the state has changed."""
        thresholds = self._thresholds
        if refused:
            self._refused_s = now_s
        if refused or wait_ms >= thresholds.enter_ms:
            self._calm_since_s = None
            if self._overload_since_s is None:
                self._overload_since_s = now_s
            if self.on or now_s - self._overload_since_s < thresholds.enter_s:
                return False
            soon = self._ended_s is not None and now_s - self._ended_s <= self._hold_s
            self._hold_s = min(2 * self._hold_s, thresholds.max_hold_s) if soon else thresholds.hold_s
            self.on = True
            return True
        if wait_ms > thresholds.leave_ms or now_s - self._refused_s < thresholds.refusal_s:
            self._calm_since_s = None
            return False
        self._overload_since_s = None
        if self._calm_since_s is None:
            self._calm_since_s = now_s
        if not self.on or now_s - self._calm_since_s < self._hold_s:
            return False
        self.on, self._ended_s = False, now_s
        return True


class Brownout:
    """The switches of all models, by name, and the mode in which jobs are answered while one is on.

    Embeddings are never browned out: they are compared with others, kept in caches, and stored in collections.
    """

    def __init__(
        self,
        mode: RoutingMode,
        thresholds: Thresholds,
        on_switch: Callable[[str, bool], None] = lambda model, on: None,
    ) -> None:
        self._mode = mode
        self._thresholds = thresholds
        self._on_switch = on_switch
        self._switches: dict[str, Switch] = {}

    def observe(self, model: str, now_s: float, wait_ms: float, *, refused: bool = False) -> None:
        """Take in what a newcomer met."""
        switch = self._switches.setdefault(model, Switch(self._thresholds))
        if switch.observe(now_s, wait_ms, refused=refused):
            self._on_switch(model, switch.on)

    def states(self) -> Mapping[str, bool]:
        """Whether each model that has been asked anything is browned out."""
        return {model: switch.on for model, switch in self._switches.items()}

    def applied(self, model: ServedModel, jobs: list[Job]) -> tuple[list[Job], str]:
        """The jobs as they are to be run now, and the name of their mode; "" for the usual one."""
        switch = self._switches.get(model.name)
        if switch is None or not switch.on:
            return jobs, ""
        mode = self._mode.on(model.config)
        if not mode.name or any(model.config.head(job.head).task == "contrastive" for job in jobs):
            return jobs, ""
        return [dataclasses.replace(job, mode=mode) for job in jobs], mode.name
