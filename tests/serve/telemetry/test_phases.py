from vlmoe_serve.batching.ticket import Outcome
from vlmoe_serve.telemetry.phases import trace_computed, trace_encoded


class Told:
    """A trace that notes what it is told."""

    traceparent = ""

    def __init__(self):
        self.phases = []

    def phase(self, name, start_s, end_s, attributes):
        self.phases.append((name, start_s, end_s, attributes))

    def end(self, name, attributes, *, failed):
        raise AssertionError("the door ends it")


def test_encode_says_what_the_cache_saved():
    trace = Told()
    trace_encoded(trace, "demo", 1.0, 1.5, jobs=3, cached=1)
    assert trace.phases == [
        ("encode", 1.0, 1.5, {"vlmoe.model": "demo", "vlmoe.jobs": 3, "vlmoe.cached_jobs": 1})
    ]


def test_queue_and_forward_follow_each_other():
    trace = Told()
    outcome = Outcome((), queue_ms=500.0, forward_ms=250.0, batch_tokens=99, batch_jobs=7, reason="idle")
    trace_computed(trace, "demo", 2.0, 1, outcome)
    common = {"vlmoe.model": "demo", "vlmoe.jobs": 1}
    assert trace.phases == [
        ("queue", 2.0, 2.5, {**common, "vlmoe.batch.reason": "idle"}),
        ("forward", 2.5, 2.75, {**common, "vlmoe.batch.jobs": 7, "vlmoe.batch.tokens": 99}),
    ]
