import numpy as np

from vlmoe_serve.engine.expert_shares import holdings_of, split_by_counts
from vlmoe_serve.placement.placement import place


def test_a_placement_in_the_models_words() -> None:
    placement = place((1, 4), (2, 3), [[[0, 1, 3], [2, 4], []], [[4, 2], [3, 1], [0, 1]]], 3)
    holdings = holdings_of(placement)
    assert holdings.layers == {
        1: (((0, 1), (1,)), ((), (0, 2)), ((), ())),
        4: (((), (0, 2)), ((1,), (1,)), ((0, 1), ())),
    }
    assert holdings.of(1)[4, "T"] == (1,)


def test_tokens_are_split_by_what_there_is() -> None:
    """Expert 1 lies on both ranks: it makes good for what expert 0 gives rank 0."""
    counts = np.array([[300, 100], [100, 300], [0, 0]])
    hosts = np.array([[True, False], [True, True], [False, True]])
    flow = split_by_counts(2, 2, 7)(counts, hosts)
    assert flow.sum(axis=2).tolist() == counts.tolist()
    assert flow.sum(axis=1).tolist() == [[400, 0], [0, 400], [0, 0]]
