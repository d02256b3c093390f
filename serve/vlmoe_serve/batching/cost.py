"""How long a batch takes: a + b * tokens + c * attention, in milliseconds.

The engine's warm-up gives the first samples, observed batches refine the fit. Batches are cut and admission
is decided by this model, so it must stay positive and sane when all samples look alike, and neither a page
fault nor a paused process may bend it: a fit is pulled towards what was known before, and samples far from
all others do not count.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmoe_serve.batching.ticket import Work

# At this sequence length attention costs as much as the rest of a token (6 * dim in the usual block; dim ~
# 256).
_EVEN_LENGTH = 1536
# Tukey's biweight: a sample this many deviations from the fit has no weight at all.
_CUT_OFF = 4.685
# Samples this near to each other, in logarithms, are never outliers.
_MIN_SPREAD = 0.1
_MAX_STEP = 4.0
_ROUNDS = 6
# No batch is predicted better by a further round than this.
_SETTLED = 0.005


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


def fit(
    samples: Sequence[Sample],
    start: CostModel,
    *,
    weights: Sequence[float] | None = None,
    trust: float = 0.05,
) -> CostModel:
    """Weighted robust least squares on relative errors, pulled towards `start` where the samples leave it open.

    Relative, because a batch of one should be predicted as well as a batch of a hundred. Robust by iterated
    reweighting with Tukey's biweight (Beaton and Tukey 1974) of the logarithmic error, taken against the median of the
    samples of like size: what all of them say is a fact, however far from the prediction, and what one of them says
    against the others is an accident.

    Args:
        samples: observed batches, in any order.
        start: what was believed before.
        weights: of the samples; all alike by default.
        trust: how firmly to believe `start`: the samples' relative noise over the prior's relative error.
    """
    if not samples:
        return start
    weights_S = np.ones(len(samples)) if weights is None else np.asarray(weights, np.float64)
    sizes_S = np.array([sample.work.tokens.bit_length() for sample in samples])
    groups = [np.flatnonzero(sizes_S == size) for size in np.unique(sizes_S)]
    observed_S = np.array([max(sample.ms, 1e-6) for sample in samples])
    # In units of the prior the three unknowns are near one, and the ridge pulls all of them alike.
    theta = np.array([start.fixed_ms, start.token_ms, start.attention_ms])
    parts_S3 = np.array([[1.0, sample.work.tokens, sample.work.attention] for sample in samples]) * theta
    scale = np.ones(3)
    for _ in range(_ROUNDS):
        predicted_S = parts_S3 @ scale
        ratio_S = observed_S / predicted_S
        kept_S = weights_S.copy()
        for group in groups:
            kept_S[group] *= _agreement(np.log(ratio_S[group]), weights_S[group])
        rows_S3 = parts_S3 / predicted_S[:, None]
        weighted_S3 = rows_S3 * kept_S[:, None]
        # the pull of a size that was seen once is bounded too
        goal_S = np.clip(ratio_S, 1 / _MAX_STEP, _MAX_STEP)
        # A negative coefficient would make work look free; noise must not do that.
        last, scale = (
            scale,
            _bounded(
                weighted_S3.T @ rows_S3 + trust**2 * np.eye(3), weighted_S3.T @ goal_S + trust**2, scale
            ),
        )
        if np.abs(scale - last).max() < _SETTLED * scale.max():
            break
    fixed_ms, token_ms, attention_ms = scale * theta
    return CostModel(float(fixed_ms), float(token_ms), float(attention_ms))


def _agreement(errors: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much of each sample counts, by its distance from the median of its like."""
    distance = np.abs(errors - _median(errors, weights))
    spread = max(1.4826 * _median(distance, weights), _MIN_SPREAD)
    return np.clip(1 - (distance / (_CUT_OFF * spread)) ** 2, 0.0, None) ** 2


def _median(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, 0.5 * reached[-1])])


def _bounded(
    gram: npt.NDArray[np.float64], target: npt.NDArray[np.float64], start: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The least squares solution within [0.01, 100], one coordinate after the other."""
    rows, goal, x = gram.tolist(), target.tolist(), start.tolist()
    for _ in range(100):
        moved = 0.0
        for i in range(3):
            rest = sum(rows[i][j] * x[j] for j in range(3) if j != i)
            new = min(max((goal[i] - rest) / rows[i][i], 0.01), 100.0)
            moved, x[i] = max(moved, abs(new - x[i])), new
        if moved < 1e-6:
            break
    return np.array(x)


class Estimator:
    """The cost model of one engine, fitted to the batches it has been seen to compute.

    It remembers the last batches of every size, so that a day of small ones does not make it forget what a
    large one costs; recent ones count for more.
    """

    _MEMORY = 16
    # Refitted after each of the first batches, then ever more rarely: what is known changes little with one more.
    _FIRST = 8
    _REFIT_EVERY = 32
    # A sample's weight halves with every 23 batches that come after it.
    _DECAY = math.log(0.97)
    _MIN_WEIGHT = 0.05

    def __init__(self, samples: Sequence[Sample] = ()) -> None:
        self._by_size: dict[int, deque[tuple[int, Sample]]] = {}
        self._num_seen = 0
        self._next_fit = 1
        self._largest = (0, 0)
        self._start = fit(samples, prior(samples))
        self.model = self._start
        for sample in samples:
            self._remember(sample)

    @property
    def known_tokens(self) -> int:
        """Of the second largest batch that was seen: what is predicted for larger ones is a guess.

        What far smaller ones cost need not help: with more tokens a mixture reads more experts.
        """
        return self._largest[0]

    def observe(self, sample: Sample) -> None:
        """Take in one batch; the model follows each of the first ones, then every few."""
        self._remember(sample)
        self._num_seen += 1
        if self._num_seen >= self._next_fit:
            self._next_fit += min(max(self._num_seen // self._FIRST, 1), self._REFIT_EVERY)
            known = [seen for line in self._by_size.values() for seen in line]
            weights = [
                max(math.exp(self._DECAY * (self._num_seen - number)), self._MIN_WEIGHT)
                for number, _ in known
            ]
            self.model = fit([sample for _, sample in known], self._start, weights=weights, trust=0.1)

    def _remember(self, sample: Sample) -> None:
        line = self._by_size.setdefault(sample.work.tokens.bit_length(), deque(maxlen=self._MEMORY))
        line.append((self._num_seen, sample))
        # two, because one alone may have been an accident
        _, *largest = sorted([*self._largest, sample.work.tokens])
        self._largest = (largest[0], largest[1])
