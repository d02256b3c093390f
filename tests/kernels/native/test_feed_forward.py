"""What the backends' common tests do not see: refusals, memory, accuracy of GELU."""

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from vlmoe_kernels import Pool, make_plan
from vlmoe_kernels.native.feed_forward import GroupedFeedForward

pytestmark = pytest.mark.usefixtures("native")


def test_gelu_is_the_exact_one() -> None:
    """The error function's stated error, times half the argument, and rounding."""
    values = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4])])
    pool = Pool(torch.ones(1, 1, 1), torch.zeros(1, 1), torch.ones(1, 1, 1), torch.zeros(1, 1))
    plan = make_plan(torch.zeros(len(values), 1, dtype=torch.int64), None, 1)
    found = GroupedFeedForward([pool], 1e-6)(values[:, None], plan)[:, 0].double()
    exact = values.double()
    exact = 0.5 * exact * (1 + torch.erf(exact / math.sqrt(2)))
    assert ((found - exact).abs() <= 2e-7 * (values.abs().double() + 1e-6)).all()


def test_what_does_not_fit_is_refused(fp32: Any) -> None:
    ffn, plan = GroupedFeedForward([fp32.pool(2, 6, 8)], 1e-6), fp32.plan(3, 2, 1)
    for bad in (fp32(3, 5), fp32(3, 6).bfloat16(), fp32(3, 2, 6)):
        with pytest.raises(ValueError, match=r"rows must be torch.float32 \[T, 6\]"):
            ffn(bad, plan)
    with pytest.raises(ValueError, match="the plan has 3 tokens, got 4 rows"):
        ffn(fp32(4, 6), plan)
    with pytest.raises(ValueError, match="the plan has 3 groups, the weights 2"):
        ffn(fp32(3, 6), fp32.plan(3, 3, 1))
    with pytest.raises(ValueError, match="same widths and norms"):
        GroupedFeedForward([fp32.pool(2, 6, 8), fp32.pool(1, 6, 9)], 1e-6)
    with pytest.raises(ValueError, match="same widths and norms"):
        GroupedFeedForward([fp32.pool(2, 6, 8), fp32.pool(1, 6, 8, mid_norm=True)], 1e-6)


def test_no_rows_are_no_rows(fp32: Any) -> None:
    plan = make_plan(torch.empty(0, 2, dtype=torch.int64), None, 2)
    assert GroupedFeedForward([fp32.pool(2, 6, 8)], 1e-6)(torch.empty(0, 6), plan).shape == (0, 6)


def test_weights_are_not_kept_beside_their_packed_copies() -> None:
    shapes = ((2, 6, 4), (2, 6), (2, 4, 6), (2, 4))
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    alive = [weakref.ref(array) for array in arrays]
    op = GroupedFeedForward([Pool(*map(torch.from_numpy, arrays))], 1e-6)
    del arrays
    gc.collect()
    assert [array() for array in alive] == [None] * 4
    plan = make_plan(torch.zeros(3, 1, dtype=torch.int64), None, 2)
    assert op(torch.ones(3, 4), plan).isfinite().all()
