import numpy as np

from vlmoe_model.presets import PRESETS
from vlmoe_serve.engine.expert_shares import costs_of, holdings_of, split_by_counts
from vlmoe_serve.placement.costs import cpu_costs
from vlmoe_serve.placement.placement import place

CONFIG = PRESETS["vlmoe_small_32e"]


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


def test_reading_an_expert_costs_as_much_as_some_tokens_whatever_the_size() -> None:
    for dim, hidden in ((384, 1536), (768, 3072)):
        for weight_bytes in (2, 4):
            assert 5 <= cpu_costs(dim, hidden, weight_bytes).stream_tokens <= 9


def test_a_link_to_another_host_is_dearer_than_shared_memory() -> None:
    costs = costs_of(CONFIG, 2, 2)
    link_GG = costs.link_us(4)
    assert costs.nodes(4).tolist() == [0, 0, 1, 1]
    assert link_GG[0, 2] > 2 * link_GG[0, 1] > 0
