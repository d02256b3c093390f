"""How long a batch takes: a + b * tokens + c * attention, in milliseconds.

The engine's warm-up gives the first samples, observed batches refine the fit. Batches are cut and admission
is decided by this model, so it must stay positive and sane when all samples look alike: the fit is pulled
towards a prior.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmoe_serve.ticket import Work

# At this sequence length attention costs as much as the rest of a token (6 * dim in the usual block; dim ~
# 256).
_EVEN_LENGTH = 1536


@dataclass(frozen=True, slots=True)
class Sample:
    """One observed batch."""

    work: Work
    ms: float


@dataclass(frozen=True, slots=True)
class CostModel:
    """Predicted milliseconds of a batch: fixed, per token, and per unit of attention."""

    fixed_ms: float
    token_ms: float
    attention_ms: float

    def marginal_ms(self, work: Work) -> float:
        """What this work adds to a batch."""
        return self.token_ms * work.tokens + self.attention_ms * work.attention

    def batch_ms(self, work: Work) -> float:
        """A whole batch of this work."""
        return self.fixed_ms + self.marginal_ms(work)

    def drain_ms(self, work: Work, max_batch_ms: float) -> float:
        """A queue of this work, cut into batches of at most `max_batch_ms`."""
        marginal = self.marginal_ms(work)
        if marginal <= 0:
            return 0.0
        room = max(max_batch_ms - self.fixed_ms, 0.1 * max_batch_ms)
        return marginal + self.fixed_ms * max(1.0, marginal / room)


def prior(samples: Sequence[Sample]) -> CostModel:
    """A rough model from the cheapest sample: a fifth of it is fixed cost, the rest follows the tokens."""
    first = min(samples, key=lambda sample: sample.work.tokens, default=Sample(Work(64, 64 * 64), 10.0))
    token_ms = 0.8 * max(first.ms, 1e-3) / max(first.work.tokens, 1)
    return CostModel(0.2 * max(first.ms, 1e-3), token_ms, token_ms / _EVEN_LENGTH)


def fit(samples: Sequence[Sample], start: CostModel, *, trust: float = 0.05) -> CostModel:
    """Least squares on relative errors, pulled towards `start` where the samples leave it open.

    Relative, because a batch of one should be predicted as well as a batch of a hundred.
    """
    theta = np.array([start.fixed_ms, start.token_ms, start.attention_ms])
    # In units of the prior the three unknowns are near one, and the ridge pulls all of them alike.
    rows = [np.array([1.0, s.work.tokens, s.work.attention]) * theta / max(s.ms, 1e-6) for s in samples]
    matrix = np.vstack([*rows, trust * np.eye(3)])
    target = np.concatenate([np.ones(len(rows)), np.full(3, trust)])
    scale = np.linalg.lstsq(matrix, target, rcond=None)[0]
    # A negative coefficient would make work look free; noise must not do that.
    fixed_ms, token_ms, attention_ms = np.clip(scale, 0.01, 100.0) * theta
    return CostModel(float(fixed_ms), float(token_ms), float(attention_ms))


class Estimator:
    """The cost model of one engine, fitted to the batches it has been seen to compute."""

    _MEMORY = 64
    _REFIT_EVERY = 8

    def __init__(self, samples: Sequence[Sample] = ()) -> None:
        self._start = prior(samples)
        self._samples = deque(samples, maxlen=self._MEMORY)
        self._num_seen = 0
        self.model = fit(samples, self._start)

    def observe(self, sample: Sample) -> None:
        """Take in one batch; the model follows each of the first ones, then every few."""
        self._samples.append(sample)
        self._num_seen += 1
        if self._num_seen <= self._REFIT_EVERY or self._num_seen % self._REFIT_EVERY == 0:
            self.model = fit(tuple(self._samples), self._start)
