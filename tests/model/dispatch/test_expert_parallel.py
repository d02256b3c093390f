"""A layer whose experts lie on several ranks, beside one rank."""

import numpy as np
import pytest
import torch

from vlmoe_kernels import Pool, backend, make_plan
from vlmoe_kernels.choice import choose_backend
from vlmoe_kernels.collectives import Group
from vlmoe_model.dispatch.expert_parallel import ExpertParallel, Split, nearest_copy, shares_of

from .sharing import COPIES, EVEN, to_the_last_copy

# pools of a layer: four experts for each modality, and one layer for pairs
SIZES, ROUTED = (4, 4, 1), (True, True, False)
NUM_GROUPS = sum(SIZES)
CPU = choose_backend("auto", "cpu")


def pool(num_experts: int, seed: int) -> Pool:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((16, 8), (16,), (8, 16), (8,))
    return Pool(*(torch.randn(num_experts, *shape, generator=generator) for shape in shapes))


def plan_of(num_tokens: int, top_k: int, seed: int):
    """Random choices: dropped ones, and (where there are two) pairs with one choice only."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(-1, NUM_GROUPS, (num_tokens, top_k), generator=generator)
    gates = torch.rand(num_tokens, top_k, generator=generator)
    return make_plan(groups, gates, NUM_GROUPS)


def test_groups_from_the_experts_of_every_rank() -> None:
    shares = shares_of(SIZES, ROUTED, COPIES[2])
    assert shares.by_rank == ((0, 1, 3, 4, 5, 6, 7), (1, 2, 7))
    assert shares.here == (8,)
    assert shares.routed == list(range(8))
    assert shares.hosts_XW().sum(axis=1).tolist() == [1, 2, 1, 1, 1, 1, 1, 2]


def test_the_nearest_copy_is_at_home_or_the_first() -> None:
    hosts = np.array([[False, True, True], [True, False, False]])
    flow = nearest_copy(np.array([[5, 6, 7], [1, 2, 0]]), hosts)
    assert flow[0].tolist() == [[0, 5, 0], [0, 6, 0], [0, 0, 7]]
    assert flow[1].tolist() == [[1, 0, 0], [2, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted({"cpu", CPU}))
@pytest.mark.parametrize(
    ("held", "split"),
    [(EVEN, nearest_copy), (COPIES, nearest_copy), (COPIES, to_the_last_copy)],
    ids=["even", "nearest", "halves"],
)
def test_ranks_together_have_the_bits_of_one(
    in_group, num_ranks: int, top_k: int, dtype: torch.dtype, name: str, held: dict, split: Split
) -> None:
    """Ranks with many tokens, with few, and with none; the fallback, and what this machine runs."""
    pools = [Pool._make(t if t is None else t.to(dtype) for t in pool(n, n + i)) for i, n in enumerate(SIZES)]
    whole = backend(name).grouped_ffn(pools, 1e-6)
    tokens = [torch.randn(n, 8, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (23, 1, 0, 7)]

    def work(group: Group) -> bool:
        mine = [
            Pool._make(t if t is None else t[list(kept)] for t in of_all)
            for of_all, kept in zip(pools, (*held[num_ranks][group.rank], [0]), strict=True)
        ]
        experts = backend(name).grouped_ffn([one for one in mine if len(one.w1)], 1e-6)
        seen = []
        dispatch = ExpertParallel(group, shares_of(SIZES, ROUTED, held[num_ranks]), split)
        dispatch.observe = lambda counts, flow: seen.append((counts.copy(), flow))
        x_TD = tokens[group.rank]
        same = []
        for seed in range(3):
            plan = plan_of(len(x_TD), top_k, seed + 10 * group.rank)
            same.append(torch.equal(dispatch(x_TD, plan, experts), whole(x_TD, plan)))
            counts, flow = seen[-1]
            assert counts[:, group.rank].tolist() == list(plan.sizes[:8])
            assert np.array_equal(flow.sum(axis=2), counts)
        return all(same)

    assert in_group(num_ranks, work) == [True] * num_ranks


def test_shares_change_between_two_steps(in_group) -> None:
    """The same tokens, after the ranks have changed what they hold."""
    pools = [pool(n, n + i) for i, n in enumerate(SIZES)]
    whole = backend(CPU).grouped_ffn(pools, 1e-6)

    def work(group: Group) -> bool:
        x_TD, plan = torch.randn(9, 8), plan_of(9, 2, group.rank)
        dispatch = ExpertParallel(group, shares_of(SIZES, ROUTED, EVEN[2]))
        same = []
        for held in (EVEN[2], COPIES[2]):
            dispatch.take(shares_of(SIZES, ROUTED, held))
            mine = [
                Pool._make(t if t is None else t[list(kept)] for t in of_all)
                for of_all, kept in zip(pools, (*held[group.rank], [0]), strict=True)
            ]
            experts = backend(CPU).grouped_ffn(mine, 1e-6)
            same.append(torch.equal(dispatch(x_TD, plan, experts), whole(x_TD, plan)))
        return all(same)

    assert in_group(2, work) == [True, True]
