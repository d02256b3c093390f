"""What answers without looking, or looks without learning: the figures that a model has to beat."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from vlmoe_train.data.samples import Samples


def wanted_answers(samples: Samples) -> list[str]:
    """The right answer of each row, as text; "" for one that is no label."""
    return [samples.labels[target] if target >= 0 else "" for target in samples.targets]


def question_lookup(train: Samples, test: Samples) -> list[str]:
    """The most frequent answer that a question has in train; of all of train for a question that it lacks."""
    return _most_frequent(train.texts, wanted_answers(train), test.texts)


def majority_by_group(train: Samples, test: Samples) -> list[str]:
    """The most frequent answer that a group has in train."""
    return _most_frequent(train.groups, wanted_answers(train), test.groups)


def _most_frequent(keys: Sequence[str], answers: Sequence[str], queries: Sequence[str]) -> list[str]:
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for key, answer in zip(keys, answers, strict=True):
        seen[key][answer] += 1
    overall = _mode(Counter(answers))
    best = {key: _mode(counter) for key, counter in seen.items()}
    return [best.get(query, overall) for query in queries]


def _mode(counter: Counter[str]) -> str:
    # ties by the text, not by the order of the rows
    return min(counter, key=lambda answer: (-counter[answer], answer))


def subset(samples: Samples, limit: int | None) -> Samples:
    """At most `limit` rows, spread evenly over the samples."""
    if limit is None or limit >= len(samples):
        return samples
    return samples.rows(np.linspace(0, len(samples) - 1, limit).astype(np.int64))
