"""Another way to route than the checkpoint's own: cheaper, at a cost in quality, and opt-in. No torch here.

With a capacity, answers depend on what they are batched with, so whatever is answered in such a mode says so by its
name, and an embedding made in it lies in a space of its own.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

from vlmoe_model.config import ModelConfig

Overflow = Literal["drop", "priority", "reroute"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

MIN_CAPACITY, MAX_CAPACITY = 0.01, 64.0


@dataclass(frozen=True, slots=True)
class RoutingMode:
    """How tokens find experts; without a value the checkpoint's own way.

    capacity: slots of every expert, as a factor of an even share of a batch's tokens; below 1 some find none.
    overflow: who gets the slots, and what becomes of the others. drop: the first in the batch; the others pass the
        layer by. priority: those with the highest scores (V-MoE's batch priority routing). reroute: likewise, and the
        others try the experts that they like next best.
    top_k: experts of a token at most.
    """

    capacity: float | None = None
    overflow: Overflow = "priority"
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.capacity is not None and not MIN_CAPACITY <= self.capacity <= MAX_CAPACITY:
            raise ValueError(
                f"capacity must be from {MIN_CAPACITY:g} to {MAX_CAPACITY:g}, got {self.capacity:g}"
            )
        if self.overflow not in OVERFLOWS:
            raise ValueError(f"overflow must be one of {', '.join(OVERFLOWS)}, got {self.overflow!r}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")

    @property
    def name(self) -> str:
        """As answers declare it; "" for the checkpoint's own way."""
        parts = [] if self.capacity is None else [f"capacity={self.capacity:g}", f"overflow={self.overflow}"]
        return ";".join([*parts, *([] if self.top_k is None else [f"top_k={self.top_k}"])])

    def on(self, config: ModelConfig) -> "RoutingMode":
        """What it comes to on a network: without what changes nothing there, with what the checkpoint asks for."""
        if not config.moe_blocks:
            return DEFAULT
        top_k = self.top_k if self.top_k is not None and self.top_k < config.top_k else None
        if self.capacity is None and config.capacity_eval is not None:
            own: Overflow = "priority" if config.router == "batch_priority" else "drop"
            return RoutingMode(config.capacity_eval, own, top_k)
        return RoutingMode(self.capacity, self.overflow if self.capacity is not None else "priority", top_k)

    def space(self, space_id: str, config: ModelConfig) -> str:
        """The space of embeddings made in it: another one than the checkpoint's own, if it changes anything."""
        mode = self.on(config)
        if mode == DEFAULT.on(config):
            return space_id
        return "s-" + hashlib.sha256(f"{space_id}\0{mode.name}".encode()).hexdigest()[:12]


DEFAULT = RoutingMode()
