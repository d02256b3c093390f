"""What the batcher tells whoever keeps metrics: it knows no metrics library itself."""

from dataclasses import dataclass
from typing import Literal, Protocol

from vlmoe_serve.batching.release import Reason
from vlmoe_serve.batching.ticket import Work
from vlmoe_serve.engine.report import EngineReport

Drop = Literal["cancelled", "expired", "overloaded", "unavailable", "failed"]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch that was answered.

    queue_ms: wait of each of its tickets. service_ms: wall time in the engine, transport included.
    """

    num_tickets: int
    num_jobs: int
    work: Work
    reason: Reason
    queue_ms: tuple[float, ...]
    forward_ms: float
    service_ms: float
    predicted_ms: float


class Observer(Protocol):
    """Called from the event loop: be quick."""

    def on_batch(self, report: BatchReport) -> None:
        """A batch was answered."""
        ...

    def on_drop(self, why: Drop) -> None:
        """A ticket ended without an answer."""
        ...

    def on_restart(self, how: str) -> None:
        """The engine process ended, as described, and is being started again."""
        ...

    def on_report(self, report: EngineReport) -> None:
        """The engine said what it has done."""
        ...


class SilentObserver:
    """Keeps nothing."""

    def on_batch(self, report: BatchReport) -> None:
        """Nothing."""

    def on_drop(self, why: Drop) -> None:
        """Nothing."""

    def on_restart(self, how: str) -> None:
        """Nothing."""

    def on_report(self, report: EngineReport) -> None:
        """Nothing."""
