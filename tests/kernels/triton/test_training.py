"""Gradients of the grouped feed-forward against those of plain torch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vlmoe_kernels import eager, make_plan

Call = Callable[..., Any]

DIM, HIDDEN = 20, 36

# name: (tokens, choices per token, share of choices dropped, mid-norm); group 1 of 4 stays empty in the second
PLANS = {
    "one token": (1, 1, 0.0, False),
    "19 tokens": (19, 1, 0.0, False),
    "two choices, mid-norm": (9, 2, 0.0, True),
    "dropped": (9, 2, 0.4, False),
}


@pytest.mark.parametrize("case", PLANS)
def test_gradients_are_those_of_plain_torch(interpreted: Call, fp32: Any, case: str) -> None:
    num_tokens, num_choices, drop, mid_norm = PLANS[case]
    pools = [fp32.pool(size, DIM, HIDDEN, mid_norm=mid_norm) for size in (3, 1)]
    x_TD, gates_TK = fp32(num_tokens, DIM), torch.rand(num_tokens, num_choices)
    groups_TK = fp32.groups(num_tokens, 4, num_choices, drop)
    if num_choices == 1:
        groups_TK[groups_TK == 1] = 2
    direction = fp32(num_tokens, DIM)

    inputs = [t.clone().requires_grad_(True) for t in (x_TD, gates_TK)]
    plain = [
        type(pool)._make(t if t is None else t.clone().requires_grad_(True) for t in pool) for pool in pools
    ]
    y_TD = eager.grouped_ffn(plain, 1e-5)(inputs[0], make_plan(groups_TK, inputs[1], 4))
    weights = [t for pool in plain for t in pool if t is not None]
    expected = torch.autograd.grad(
        y_TD, [*inputs, *weights], direction, allow_unused=True, materialize_grads=True
    )

    arguments = (pools, (x_TD, gates_TK), (groups_TK, 4), direction)
    found_TD, found = interpreted("__main__:gradients", (arguments, {}))
    torch.testing.assert_close(found_TD, y_TD.detach(), rtol=1e-5, atol=1e-5)
    for actual, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)
