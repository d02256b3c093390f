"""Pure figures: accuracy, whole and by group, and recall at k, in which ties count against the model."""

# N = images, C = captions

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# dot products of equal vectors may differ in their last bits
_TIE = 1e-6


def accuracy(predicted: Sequence[str], wanted: Sequence[str]) -> float:
    """Share of predictions that are the wanted answer, compared as text."""
    if not wanted or len(predicted) != len(wanted):
        raise ValueError(
            f"need as many predictions as answers and at least one, got {len(predicted)}, {len(wanted)}"
        )
    return sum(p == w for p, w in zip(predicted, wanted, strict=True)) / len(wanted)


def accuracy_by_group(
    predicted: Sequence[str], wanted: Sequence[str], groups: Sequence[str]
) -> dict[str, float]:
    """Accuracy of each group, sorted by name; empty when no row has a group."""
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    if set(members) <= {""}:
        return {}
    return {
        group: accuracy([predicted[row] for row in rows], [wanted[row] for row in rows])
        for group, rows in sorted(members.items())
    }


def image_to_text_ranks(
    similarity_NC: npt.NDArray[np.float64], targets_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """For each image, how many other captions are at least as similar as its own: 0 is a hit at 1."""
    own_N1 = np.take_along_axis(similarity_NC, targets_N[:, None], axis=1)
    # written as "not below", so that a NaN is never a hit
    others: npt.NDArray[np.int64] = (~(similarity_NC < own_N1 - _TIE)).sum(axis=1) - 1
    return others


def text_to_image_ranks(
    similarity_NC: npt.NDArray[np.float64], targets_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """For each caption with images, how many images of others are at least as similar as its own best one."""
    ranks = []
    for caption in np.unique(targets_N):
        column_N, own_N = similarity_NC[:, caption], targets_N == caption
        best = column_N[own_N].max()
        ranks.append(int((~(column_N[~own_N] < best - _TIE)).sum()))
    return np.array(ranks, np.int64)


def recall_at(ranks: npt.NDArray[np.int64], k: int) -> float:
    """Share of queries whose own item is among the first k."""
    if not len(ranks):
        raise ValueError("recall needs at least one query")
    return float((ranks < k).mean())
