"""By how much answers come later than was promised when they were let in. Pure.

The promise is made of what is known: the queue, the costs of batches and of decoding. What nobody predicts, a crowded
machine or a busy event loop, shows in how it is kept. Whoever is let in with a deadline is promised an answer this much
earlier, so that under overload those who are let in are answered in time, and not decoded for nothing.
"""

# Of what is let in at the limit, this share is in time.
_IN_TIME = 0.99
# One answer moves the margin by this share of what was promised: a batch that came late is noticed, not a reason to
# refuse everybody.
_STEP = 0.01


class Lateness:
    """A running quantile of lateness, in milliseconds, and never below zero.

    Each answer moves it by a step, up if it was later than the margin allowed for and down otherwise, in a proportion
    that leaves it at rest where `_IN_TIME` of them are in time: stochastic approximation (Robbins and Monro 1951).
    """

    def __init__(self) -> None:
        self.margin_ms = 0.0

    def observe(self, promised_ms: float, took_ms: float) -> None:
        """An answer came after `took_ms`; infinite if it did not come before the deadline."""
        late = took_ms - promised_ms > self.margin_ms
        step_ms = _STEP * promised_ms * (_IN_TIME if late else _IN_TIME - 1)
        self.margin_ms = max(0.0, self.margin_ms + step_ms)
