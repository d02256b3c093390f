from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlmoe_kernels import make_plan
from vlmoe_kernels.plan import sorted_by_torch


@st.composite
def choices(draw: st.DrawFn) -> tuple[Tensor, int]:
    num_groups = draw(st.integers(1, 6))
    num_tokens = draw(st.integers(0, 20))
    num_choices = draw(st.integers(1, 3))
    row = st.lists(st.integers(-1, num_groups - 1), min_size=num_choices, max_size=num_choices)
    rows = draw(st.lists(row, min_size=num_tokens, max_size=num_tokens))
    return torch.tensor(rows, dtype=torch.int64).view(num_tokens, num_choices), num_groups


@given(choices())
@settings(max_examples=200, deadline=None)
def test_every_kept_choice_has_exactly_one_row(case: tuple[Tensor, int]) -> None:
    groups_TK, num_groups = case
    plan = make_plan(groups_TK, None, num_groups)
    kept = plan.slots_TK[groups_TK >= 0]
    assert sorted(kept.tolist()) == list(range(len(plan.order_R)))
    assert (plan.slots_TK[groups_TK < 0] == -1).all()
    assert plan.num_tokens == len(groups_TK)
    # the row of a choice is a row of its token
    token_TK = torch.arange(len(groups_TK)).unsqueeze(1).expand_as(groups_TK)
    assert torch.equal(plan.order_R[kept], token_TK[groups_TK >= 0])


@given(choices())
@settings(max_examples=200, deadline=None)
def test_on_the_host_the_sorting_is_that_of_other_devices(case: tuple[Tensor, int]) -> None:
    groups_TK, num_groups = case
    plan = make_plan(groups_TK, None, num_groups)
    chosen_R, slots_C, sizes = sorted_by_torch(groups_TK.flatten(), num_groups)
    assert torch.equal(plan.order_R, chosen_R // groups_TK.shape[1])
    assert torch.equal(plan.slots_TK.flatten(), slots_C)
    assert plan.order_R.dtype == plan.slots_TK.dtype == torch.int64
    assert plan.sizes == sizes


def test_more_groups_than_16_bits_hold() -> None:
    groups_TK = torch.tensor([[70_000], [3], [-1], [40_000], [3]])
    plan = make_plan(groups_TK, None, 70_001)
    assert plan.order_R.tolist() == [1, 4, 3, 0]
    assert plan.slots_TK.flatten().tolist() == [3, 0, -1, 2, 1]


@given(choices())
@settings(max_examples=200, deadline=None)
def test_rows_lie_in_the_range_of_their_group(case: tuple[Tensor, int]) -> None:
    groups_TK, num_groups = case
    plan = make_plan(groups_TK, None, num_groups)
    assert len(plan.sizes) == num_groups
    assert sum(plan.sizes) == len(plan.order_R)
    ends = list(accumulate(plan.sizes))
    for group, end in enumerate(ends):
        slots = plan.slots_TK[groups_TK == group]
        assert sorted(slots.tolist()) == list(range(end - plan.sizes[group], end))


@given(choices())
@settings(max_examples=200, deadline=None)
def test_rows_of_a_group_keep_the_order_of_token_and_choice(case: tuple[Tensor, int]) -> None:
    groups_TK, num_groups = case
    plan = make_plan(groups_TK, None, num_groups)
    for group in range(num_groups):
        # masking walks the choices in order of (token, choice)
        slots = plan.slots_TK[groups_TK == group].tolist()
        assert slots == sorted(slots)


@given(choices())
@settings(max_examples=100, deadline=None)
def test_gates_travel_with_their_choices(case: tuple[Tensor, int]) -> None:
    groups_TK, num_groups = case
    gates_TK = torch.arange(groups_TK.numel(), dtype=torch.float32).view_as(groups_TK)
    plan = make_plan(groups_TK, gates_TK, num_groups)
    assert plan.gates_R is not None
    kept_TK = groups_TK >= 0
    assert torch.equal(plan.gates_R[plan.slots_TK[kept_TK]], gates_TK[kept_TK])


@given(choices())
@settings(max_examples=100, deadline=None)
def test_complete_means_one_row_per_token(case: tuple[Tensor, int]) -> None:
    groups_TK, num_groups = case
    plan = make_plan(groups_TK, None, num_groups)
    assert plan.complete == (groups_TK.shape[1] == 1 and bool((groups_TK >= 0).all()))


def test_gates_pass_gradient_to_kept_choices_only() -> None:
    gates_TK = torch.ones(3, 2, requires_grad=True)
    plan = make_plan(torch.tensor([[0, -1], [1, 0], [-1, -1]]), gates_TK, 2)
    assert plan.gates_R is not None
    plan.gates_R.sum().backward()
    assert gates_TK.grad is not None
    assert gates_TK.grad.tolist() == [[1, 0], [1, 1], [0, 0]]


@given(choices())
@settings(max_examples=50, deadline=None)
def test_a_plan_for_kernels_has_the_offsets_of_its_groups(case: tuple[Tensor, int]) -> None:
    groups_TK, num_groups = case
    plan = make_plan(groups_TK, None, num_groups)
    moved = plan.to("cpu")
    assert plan.offsets is None
    assert moved.offsets is not None
    assert (moved.offsets.dtype, moved.offsets.tolist()) == (torch.int32, [0, *accumulate(plan.sizes)])
    assert torch.equal(moved.order_R, plan.order_R)
    assert torch.equal(moved.slots_TK, plan.slots_TK)
    assert (moved.sizes, moved.complete) == (plan.sizes, plan.complete)


@pytest.mark.parametrize(
    ("groups_TK", "gates_TK", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), None, r"int64 \[tokens, choices\], got torch.int64 \[3\]"),
        (torch.zeros(3, 1, dtype=torch.int32), None, r"got torch.int32"),
        (torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 2), r"gates \[3, 2\] do not match"),
        (torch.tensor([[0], [2]]), None, "below 2, got 2"),
    ],
    ids=["one-dimensional", "int32", "gates", "group"],
)
def test_bad_input_is_named(groups_TK: Tensor, gates_TK: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(groups_TK, gates_TK, 2)
