"""Choices and places against torch's stable sorts. Scores are small integers, so they are exact, and tie."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vlmoe_kernels import make_plan
from vlmoe_kernels.plan import RoutePlan

Call = Callable[..., Any]

DIM = 20


def integers(*shape: int, high: int = 3) -> Tensor:
    return torch.randint(-high, high + 1, shape, generator=torch.Generator().manual_seed(sum(shape))).float()


def chosen(x_TD: Tensor, routers: list[Tensor | None], pool_T: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The k best groups and their shares, token by token."""
    groups_TK = torch.full((len(x_TD), top_k), -1)
    gates_TK = torch.zeros(len(x_TD), top_k)
    sizes = [1 if router is None else len(router) for router in routers]
    for token, pool in enumerate(pool_T.tolist()):
        router, first = routers[pool], sum(sizes[:pool])
        if router is None:
            groups_TK[token, 0], gates_TK[token, 0] = first, 1.0
        else:
            shares, experts = (router @ x_TD[token]).softmax(0).sort(descending=True, stable=True)
            groups_TK[token], gates_TK[token] = first + experts[:top_k], shares[:top_k]
    return groups_TK, gates_TK


def with_room(groups_TK: Tensor, gates_TK: Tensor, limits: list[int], by_score: bool) -> Tensor:
    """Claims one by one: all first choices, then all second ones."""
    kept_TK, taken = groups_TK.clone(), [0] * len(limits)
    tokens = list(range(len(groups_TK)))
    if by_score:
        tokens.sort(key=lambda token: -float(gates_TK[token, 0]))
    for k in range(groups_TK.shape[1]):
        for token in tokens:
            group = int(groups_TK[token, k])
            if group >= 0:
                taken[group] += 1
                if taken[group] > limits[group]:
                    kept_TK[token, k] = -1
    return kept_TK


def gate(
    call: Call,
    routers: list[Tensor | None],
    x_TD: Tensor,
    pool_T: Tensor,
    top_k: int,
    limits: list[int] | None = None,
    by_score: bool = False,
) -> Any:
    options = {"top_k": top_k, "by_score": by_score, "device": x_TD.device}
    slots = None if limits is None else torch.tensor(limits, dtype=torch.int32)
    path = "vlmoe_kernels.triton.gate:Gate.of"
    return call(path, ((routers, DIM), options), ((x_TD, pool_T, slots), {}))


def assert_places(routes: Any, plan: RoutePlan) -> None:
    num_rows = sum(plan.sizes)
    assert routes.offsets.diff().tolist() == list(plan.sizes)
    assert torch.equal(routes.order_R[:num_rows], plan.order_R)
    assert torch.equal(routes.slots_TK, plan.slots_TK)
    assert plan.gates_R is not None
    torch.testing.assert_close(routes.gates_R[:num_rows], plan.gates_R)


CASES = {
    "one token": ([4, 4], 1, 1),
    "both pools": ([4, 4], 37, 1),
    "two choices": ([4, 4], 37, 2),
    "odd numbers of experts": ([5, 3], 20, 2),
    "a pool without a router": ([3, 3, None], 37, 2),
    "more groups than a warp": ([40, 24], 20, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_choices_and_places(call: Call, case: str) -> None:
    sizes, num_tokens, top_k = CASES[case]
    routers = [None if size is None else integers(size, DIM, high=1) for size in sizes]
    x_TD = integers(num_tokens, DIM)
    pool_T = torch.arange(num_tokens) % len(sizes)
    groups_TK, gates_TK = chosen(x_TD, routers, pool_T, top_k)
    num_groups = sum(size or 1 for size in sizes)
    routes = gate(call, routers, x_TD, pool_T, top_k)
    assert_places(routes, make_plan(groups_TK, gates_TK, num_groups))
    assert routes.complete == (top_k == 1)


@pytest.mark.parametrize("top_k", [1, 2])
def test_ties_go_to_the_lowest_index(call: Call, top_k: int) -> None:
    x_TD = integers(18, DIM)
    routes = gate(call, [torch.zeros(5, DIM)], x_TD, torch.zeros(18, dtype=torch.int64), top_k)
    assert routes.offsets.diff().tolist() == [18] * top_k + [0] * (5 - top_k)
    torch.testing.assert_close(routes.gates_R, torch.full((18 * top_k,), 0.2))


@pytest.mark.parametrize("by_score", [False, True], ids=["first-come", "batch-priority"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_capacity(call: Call, top_k: int, by_score: bool) -> None:
    routers = [integers(3, DIM, high=1), integers(2, DIM, high=1), None]
    x_TD, pool_T = integers(34, DIM), torch.arange(34) % 3
    groups_TK, gates_TK = chosen(x_TD, routers, pool_T, top_k)
    limits = [3, 3, 3, 5, 5, 34]
    kept_TK = with_room(groups_TK, gates_TK, limits, by_score)
    assert not torch.equal(kept_TK, groups_TK)
    routes = gate(call, routers, x_TD, pool_T, top_k, limits, by_score)
    assert_places(routes, make_plan(kept_TK, gates_TK, 6))
    assert not routes.complete


def test_no_tokens_have_no_rows(interpreted: Call) -> None:
    routes = gate(
        interpreted, [torch.zeros(3, DIM)], torch.zeros(0, DIM), torch.zeros(0, dtype=torch.int64), 1
    )
    assert routes.offsets.tolist() == [0, 0, 0, 0]


def test_a_token_of_nan_has_a_row_like_any_other(call: Call) -> None:
    x_TD = integers(3, DIM)
    x_TD[1, 4] = torch.nan
    routes = gate(call, [torch.zeros(3, DIM)], x_TD, torch.zeros(3, dtype=torch.int64), 1)
    assert sorted(routes.order_R.tolist()) == [0, 1, 2]


def test_a_token_of_no_pool_has_no_row(call: Call) -> None:
    routers, pool_T = [integers(3, DIM), None], torch.tensor([0, -1, 1, 0, -1])
    x_TD = integers(5, DIM)
    x_TD[4] = torch.nan
    routes = gate(call, routers, x_TD, pool_T, 1)
    assert routes.slots_TK[[1, 4]].tolist() == [[-1], [-1]]
    assert sorted(routes.order_R[: routes.offsets[-1]].tolist()) == [0, 2, 3]
