"""Which experts the ranks of the tests hold, and an odd way to split tokens over their copies."""

import numpy as np

# experts of each rank: V, then T
EVEN = {
    1: [([0, 1, 2, 3], [0, 1, 2, 3])],
    2: [([0, 1], [0, 1]), ([2, 3], [2, 3])],
    4: [([0], [0]), ([1], [1]), ([2], [2]), ([3], [3])],
}
COPIES = {
    1: EVEN[1],
    2: [([0, 1, 3], [0, 1, 2, 3]), ([1, 2], [3])],
    # the last but one holds nothing
    4: [([0, 1, 2, 3], []), ([1], [0, 1, 3]), ([], []), ([0, 1, 3], [0, 2, 3])],
}


def to_the_last_copy(counts_XW: np.ndarray, hosts_XW: np.ndarray) -> np.ndarray:
    """Halves to the first copy, the rest to the last."""
    num_ranks = hosts_XW.shape[1]
    first_X, last_X = hosts_XW.argmax(axis=1), num_ranks - 1 - hosts_XW[:, ::-1].argmax(axis=1)
    flow = np.zeros((*counts_XW.shape, num_ranks), np.int64)
    for group, counts_W in enumerate(counts_XW):
        flow[group, :, first_X[group]] += counts_W // 2
        flow[group, :, last_X[group]] += counts_W - counts_W // 2
    return flow
