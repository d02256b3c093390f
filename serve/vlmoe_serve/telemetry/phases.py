"""The phases of an input as spans: encode, queue, forward."""

from vlmoe_serve.batching.ticket import Outcome
from vlmoe_serve.telemetry.trace import Attributes, Trace


def trace_encoded(trace: Trace, model: str, start_s: float, end_s: float, *, jobs: int, cached: int) -> None:
    """Decoding and tokenising, with the wait for a thread. cached: jobs whose outputs were known already."""
    trace.phase(
        "encode", start_s, end_s, {"vlmoe.model": model, "vlmoe.jobs": jobs, "vlmoe.cached_jobs": cached}
    )


def trace_computed(trace: Trace, model: str, submitted_s: float, jobs: int, outcome: Outcome) -> None:
    """The wait for a batch, and the batch that it shared."""
    began_s = submitted_s + outcome.queue_ms / 1000
    common: Attributes = {"vlmoe.model": model, "vlmoe.jobs": jobs}
    trace.phase("queue", submitted_s, began_s, {**common, "vlmoe.batch.reason": outcome.reason})
    batch: Attributes = {"vlmoe.batch.jobs": outcome.batch_jobs, "vlmoe.batch.tokens": outcome.batch_tokens}
    trace.phase("forward", began_s, began_s + outcome.forward_ms / 1000, {**common, **batch})
