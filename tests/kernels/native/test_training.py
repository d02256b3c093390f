# letters: see ops.py; K = choices per token

from typing import Any

import pytest
import torch
from torch import Tensor

from vlmoe_kernels import Pool, backend, eager, make_plan, native
from vlmoe_kernels.native.training import grouped_ffn_with_gradients
from vlmoe_kernels.ops import GroupedOp

pytestmark = pytest.mark.usefixtures("native")

EPS = 1e-5

# tokens, experts of the first pool, choices, gated, share of dropped choices
CASES = {
    "one token": (1, 3, 1, True, 0.0),
    "empty experts": (2, 9, 2, True, 0.0),
    "two choices": (63, 3, 2, True, 0.0),
    "dropped": (100, 3, 2, True, 0.3),
    "no gates": (40, 2, 1, False, 0.0),
    # more rows than one segment, one task and one panel of a weight gradient hold
    "many rows": (1700, 1, 1, True, 0.0),
}


def pools_of(
    random: Any, experts: int, *, dim: int = 20, hidden: int = 76, mid_norm: bool = False
) -> list[Pool]:
    return [random.pool(count, dim, hidden, mid_norm=mid_norm) for count in (experts, 1)]


def gradients(
    op: GroupedOp, pools: list[Pool], x_TD: Tensor, groups_TK: Tensor, gates_TK: Tensor | None
) -> Any:
    """Output of an operation on leaves, and its gradients in an uneven direction; zeros for what nothing reached."""
    weights = [t for pool in pools for t in pool if t is not None]
    leaves = [x_TD, *([] if gates_TK is None else [gates_TK]), *weights]
    y_TD = op(x_TD, make_plan(groups_TK, gates_TK, sum(len(pool.w1) for pool in pools)))
    direction = torch.linspace(-1.0, 1.0, y_TD.numel()).view_as(y_TD).to(y_TD.dtype)
    found = torch.autograd.grad(y_TD, leaves, direction, allow_unused=True)
    return y_TD.detach(), [
        torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)
    ]


def learning(pools: list[Pool]) -> list[Pool]:
    return [Pool._make(None if t is None else t.requires_grad_(True) for t in pool) for pool in pools]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mid_norm", [True, False], ids=["mid-norm", "no-mid-norm"])
def test_output_and_gradients_are_those_of_plain_torch(fp32: Any, case: str, mid_norm: bool) -> None:
    num_tokens, experts, num_choices, gated, drop = CASES[case]
    pools = learning(pools_of(fp32, experts, mid_norm=mid_norm))
    groups_TK = fp32.groups(num_tokens, experts + 1, num_choices, drop)
    gates_TK = torch.rand(num_tokens, num_choices).requires_grad_(True) if gated else None
    x_TD = fp32(num_tokens, 20).requires_grad_(True)
    expected, actual = (
        gradients(make(pools, EPS), pools, x_TD, groups_TK, gates_TK)
        for make in (eager.grouped_ffn, grouped_ffn_with_gradients)
    )
    # sums over more rows end further apart
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * max(2.0, num_tokens**0.5))


def test_gradients_are_those_of_the_reference(fp32: Any) -> None:
    pools = learning(pools_of(fp32, 3, dim=7, hidden=65))
    groups_TK, gates_TK = fp32.groups(5, 4, 2), torch.rand(5, 2).requires_grad_(True)
    x_TD = fp32(5, 7).requires_grad_(True)
    expected, actual = (
        gradients(make(pools, EPS), pools, x_TD, groups_TK, gates_TK)
        for make in (backend("reference").grouped_ffn, grouped_ffn_with_gradients)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mid_norm", [True, False], ids=["mid-norm", "no-mid-norm"])
@pytest.mark.parametrize("num_tokens", [1, 200])
def test_bf16_is_as_near_to_float32_as_plain_torch_is(fp32: Any, num_tokens: int, mid_norm: bool) -> None:
    pools = learning(pools_of(fp32, 3, dim=64, hidden=130, mid_norm=mid_norm))
    groups_TK, gates_TK = fp32.groups(num_tokens, 4, 2), torch.rand(num_tokens, 2).requires_grad_(True)
    x_TD = fp32(num_tokens, 64).requires_grad_(True)
    inputs = pools, x_TD, groups_TK, gates_TK
    y_TD, exact = gradients(eager.grouped_ffn(pools, EPS), *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        plain_TD, plain = gradients(eager.grouped_ffn(pools, EPS), *inputs)
        ours_TD, ours = gradients(grouped_ffn_with_gradients(pools, EPS), *inputs)
    assert ours_TD.dtype == plain_TD.dtype == torch.bfloat16
    assert [g.dtype for g in ours] == [torch.float32] * len(exact)
    for truth, mine, theirs in zip([y_TD, *exact], [ours_TD, *ours], [plain_TD, *plain], strict=True):
        slack = 1e-3 * truth.norm() + 1e-6
        assert (mine - truth).norm() <= 1.3 * (theirs - truth).norm() + slack


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bits_do_not_depend_on_the_number_of_threads(fp32: Any, precision: str) -> None:
    pools = learning(pools_of(fp32, 4, dim=100, hidden=300, mid_norm=True))
    inputs = (
        fp32(700, 100).requires_grad_(True),
        fp32.groups(700, 5, 2),
        torch.rand(700, 2).requires_grad_(True),
    )
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found.append(gradients(grouped_ffn_with_gradients(pools, EPS), pools, *inputs))
    torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=0.0)


def test_a_pool_that_does_not_learn_has_no_gradient_and_the_other_keeps_its_own(fp32: Any) -> None:
    pools = learning(pools_of(fp32, 3))
    x_TD, groups_TK = fp32(30, 20).requires_grad_(True), fp32.groups(30, 4, 1)
    _, (_, *whole) = gradients(grouped_ffn_with_gradients(pools, EPS), pools, x_TD, groups_TK, None)
    for tensor in pools[0][:4]:
        tensor.requires_grad_(False)
    plan = make_plan(groups_TK, None, 4)
    y_TD = grouped_ffn_with_gradients(pools, EPS)(x_TD, plan)
    y_TD.backward(torch.linspace(-1.0, 1.0, y_TD.numel()).view_as(y_TD))
    assert all(tensor.grad is None for tensor in pools[0][:4])
    for tensor, expected in zip(pools[1][:4], whole[4:], strict=True):
        assert torch.equal(tensor.grad, expected)


def test_no_tokens_are_no_gradients(fp32: Any) -> None:
    pools = learning(pools_of(fp32, 2))
    x_TD = torch.zeros(0, 20, requires_grad=True)
    op = grouped_ffn_with_gradients(pools, EPS)
    y_TD, (dx_TD, *weights) = gradients(op, pools, x_TD, torch.zeros(0, 1, dtype=torch.int64), None)
    assert y_TD.shape == dx_TD.shape == (0, 20)
    assert all(not g.any() for g in weights)


def test_rows_and_plans_that_do_not_fit_are_refused(fp32: Any) -> None:
    op = grouped_ffn_with_gradients(pools_of(fp32, 2), EPS)
    with pytest.raises(ValueError, match="the plan has 2 groups, the weights 3"):
        op(fp32(4, 20), fp32.plan(4, 2, 1))
    with pytest.raises(ValueError, match=r"rows must be \[4, 20\], got \[5, 20\]"):
        op(fp32(5, 20), fp32.plan(4, 3, 1))
    with pytest.raises(ValueError, match=r"rows must be \[4, 20\], got \[4, 21\]"):
        op(fp32(4, 21), fp32.plan(4, 3, 1))


def test_a_dtype_without_products_of_ours_takes_plain_torch(fp32: Any) -> None:
    pools = [Pool._make(None if t is None else t.double() for t in pool) for pool in pools_of(fp32, 2)]
    x_TD, plan = fp32(9, 20).double(), fp32.plan(9, 3, 1)
    actual = native.learning_ffn(pools, EPS)(x_TD, plan)
    assert torch.equal(actual, eager.grouped_ffn(pools, EPS)(x_TD, plan))
