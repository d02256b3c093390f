"""Operations of one group each, joined, have the bits of one operation over all groups."""

import pytest
import torch

from vlmoe_kernels import Pool, backend, make_plan
from vlmoe_kernels.choice import choose_backend
from vlmoe_kernels.joined import join

CPU = choose_backend("auto", "cpu")


def ones(pool: Pool) -> list[Pool]:
    return [Pool._make(t if t is None else t[e : e + 1] for t in pool) for e in range(len(pool.w1))]


@pytest.mark.parametrize("name", sorted({"cpu", CPU}))
@pytest.mark.parametrize("mid_norm", [False, True])
@pytest.mark.parametrize(("num_tokens", "top_k"), [(0, 1), (1, 2), (63, 1), (100, 2)])
def test_joined_groups_have_the_bits_of_the_whole(random, name, mid_norm, num_tokens, top_k) -> None:
    pools = [random.pool(n, 24, 40, mid_norm=mid_norm) for n in (3, 2)]
    whole = backend(name).grouped_ffn(pools, 1e-6)
    single = [backend(name).grouped_ffn([one], 1e-6) for pool in pools for one in ones(pool)]
    x_TD, plan = random(num_tokens, 24), random.plan(num_tokens, 5, top_k, drop=0.2)
    assert torch.equal(join(single)(x_TD, plan), whole(x_TD, plan))


def test_weights_are_shared_and_outlive_what_they_were_packed_with(random) -> None:
    pool = random.pool(4, 24, 40)
    single = [backend(CPU).grouped_ffn([one], 1e-6) for one in ones(pool)]
    x_TD, plan = random(50, 24), random.plan(50, 2, 1)
    expected = backend(CPU).grouped_ffn([Pool._make(None if t is None else t[[3, 1]] for t in pool)], 1e-6)(
        x_TD, plan
    )
    two = join([single[3], single[1]])
    again = join([single[3], single[1]])
    del single, pool
    assert torch.equal(two(x_TD, plan), expected)
    assert torch.equal(again(x_TD, plan), expected)


def test_no_operations_have_no_rows(random) -> None:
    x_TD, plan = random(0, 24), make_plan(torch.empty(0, 1, dtype=torch.int64), None, 0)
    assert join([])(x_TD, plan).shape == (0, 24)
