"""The split of tokens over copies: nothing is lost, the largest load is the optimum, and sources stay close."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from vlmoe_serve.placement.dispatch import Counts, Hosts, by_counts, fill, shares, uniform


def case(seed: int, num_experts: int, num_ranks: int, num_steps: int = 3) -> tuple[Counts, Hosts]:
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.5, 60.0, size=(num_experts, num_ranks))
    counts = rng.poisson(mean, size=(num_steps, num_experts, num_ranks)).astype(np.int32)
    hosts = rng.random((num_experts, num_ranks)) < rng.choice([0.1, 0.3, 0.6])
    hosts[np.arange(num_experts), rng.integers(0, num_ranks, num_experts)] = True
    return counts, hosts


def nodes(num_ranks: int, per_node: int = 4) -> npt.NDArray[np.int32]:
    return (np.arange(num_ranks) // per_node).astype(np.int32)


def lp_optimum(total_X: npt.NDArray[np.int64], hosts_XG: Hosts) -> float:
    """The smallest largest load over all fractional splits."""
    pairs = np.argwhere(hosts_XG)
    num = len(pairs)
    sums, loads = np.zeros((len(total_X), num + 1)), np.zeros((hosts_XG.shape[1], num + 1))
    for column, (expert, rank) in enumerate(pairs):
        sums[expert, column] = loads[rank, column] = 1
    loads[:, num] = -1
    found = linprog(
        np.eye(num + 1)[num], A_ub=loads, b_ub=np.zeros(len(loads)), A_eq=sums, b_eq=total_X, method="highs"
    )
    return float(found.fun)


@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.integers(1, 6),
    st.sampled_from([0, 9, 50]),
    st.integers(1, 4),
)
@settings(deadline=None, max_examples=40)
def test_every_token_goes_to_a_copy_of_its_expert(
    seed: int, num_experts: int, num_ranks: int, stream: int, per_node: int
) -> None:
    counts, hosts = case(seed, num_experts, num_ranks)
    for split in (by_counts, uniform):
        routed = split(counts, hosts, stream=stream, node_G=nodes(num_ranks, per_node))
        assert (routed.amounts_BXG >= 0).all()
        assert (routed.amounts_BXG[:, ~hosts] == 0).all()
        np.testing.assert_array_equal(routed.amounts_BXG.sum(axis=2), counts.sum(axis=2))
        # what crosses is what is computed elsewhere than at home, on either side
        away = counts.sum(axis=1) - routed.traffic_BGG.sum(axis=2)
        np.testing.assert_array_equal(away, routed.amounts_BXG.sum(axis=1) - routed.traffic_BGG.sum(axis=1))
        assert (away >= 0).all()


@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_the_largest_load_is_within_a_percent_of_the_linear_program(num_ranks: int) -> None:
    gaps = []
    for seed in range(12):
        counts, hosts = case(seed, 24, num_ranks, num_steps=1)
        routed = by_counts(counts, hosts, stream=0, node_G=nodes(num_ranks))
        best = lp_optimum(counts[0].sum(axis=1), hosts)
        gaps.append(routed.amounts_BXG[0].sum(axis=0).max() / best - 1)
    # a fractional token is a fraction of a percent here, so the bound may be missed by that
    assert max(gaps) <= 0.01
    assert min(gaps) > -1e-9


def test_reading_weights_is_not_paid_twice_where_once_will_do() -> None:
    hosts = np.array([[True, True, False], [True, False, False], [False, True, False], [False, False, True]])
    counts = np.array([[[4, 4, 0], [90, 0, 0], [0, 95, 0], [0, 0, 200]]], np.int32)
    cheap = by_counts(counts, hosts, stream=0, node_G=nodes(3)).amounts_BXG[0]
    dear = by_counts(counts, hosts, stream=30, node_G=nodes(3)).amounts_BXG[0]
    assert cheap[0].tolist() == [7, 1, 0]
    # rank 2 is the slowest either way, so the smaller copy need not be read at all
    assert dear[0].tolist() == [8, 0, 0]


def test_tokens_stay_at_home_where_that_is_no_slower() -> None:
    hosts = np.array([[True, True], [True, True]])
    counts = np.array([[[50, 10], [10, 50]]], np.int32)
    routed = by_counts(counts, hosts, stream=0, node_G=nodes(2))
    assert routed.amounts_BXG[0].tolist() == [[50, 10], [10, 50]]
    assert routed.traffic_BGG.sum() == 0


def test_shares_prefer_home_then_the_node() -> None:
    # copies on ranks 0 and 2; two nodes of two ranks
    counts = np.array([[10, 10, 0, 20]], np.int32)
    amounts = np.array([[20, 0, 20, 0]], np.int32)
    flow = shares(counts, amounts, nodes(4, 2))[0]
    assert flow.tolist() == [[10, 0, 0, 0], [10, 0, 0, 0], [0, 0, 0, 0], [0, 0, 20, 0]]


@given(st.integers(0, 10**6), st.integers(2, 8), st.sampled_from([0, 20]))
@settings(deadline=None, max_examples=40)
def test_shares_add_up_to_what_the_split_said(seed: int, num_ranks: int, stream: int) -> None:
    counts, hosts = case(seed, 8, num_ranks, num_steps=1)
    node_G = nodes(num_ranks, 2)
    routed = by_counts(counts, hosts, stream=stream, node_G=node_G)
    flow = shares(counts[0], routed.amounts_BXG[0], node_G)
    np.testing.assert_array_equal(flow.sum(axis=2), counts[0])
    np.testing.assert_array_equal(flow.sum(axis=1), routed.amounts_BXG[0])
    crossing = flow.sum(axis=0)
    np.fill_diagonal(crossing, 0)
    np.testing.assert_array_equal(crossing, routed.traffic_BGG[0])


def test_uniform_deals_out_the_same_to_every_copy() -> None:
    hosts = np.array([[True, True, True]])
    counts = np.array([[[90, 0, 31]]], np.int32)
    routed = uniform(counts, hosts, stream=50, node_G=nodes(3))
    assert sorted(routed.amounts_BXG[0, 0]) == [40, 40, 41]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6), st.integers(0, 5000))
def test_filling_levels_what_it_touches(levels: list[int], total: int) -> None:
    given_H = fill(np.array([total]), np.array([levels]))[0]
    after = np.array(levels) + given_H
    assert given_H.sum() == total
    touched = after[given_H > 0]
    if len(touched):
        assert touched.max() - touched.min() <= 1
        assert after.min() >= touched.max() - 1
