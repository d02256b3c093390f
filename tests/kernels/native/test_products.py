"""What the backends' common tests do not see: layouts of the inputs, refusals, memory."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from vlmoe_kernels.native.products import GroupedLinear, Linear

pytestmark = pytest.mark.usefixtures("native")


def test_rows_may_lie_apart_or_across(random: Any) -> None:
    op, x_TD = Linear(random(70, 33, scale=0.2), random(70)), random(9, 33)
    expected = op(x_TD)
    apart, across = random(9, 40), random(33, 9)
    apart[:, 5:38], across[:] = x_TD, x_TD.T
    assert torch.equal(op(apart[:, 5:38]), expected)
    assert torch.equal(op(across.T), expected)
    assert torch.equal(op(x_TD[:1].expand(4, -1)), expected[:1].expand(4, -1))


@pytest.mark.parametrize(
    ("num_rows", "out_dim"), [(5, 8), (10, 64), (28, 64), (29, 64), (112, 64), (113, 64)]
)
def test_an_odd_width_reads_nothing_beyond_a_row(random: Any, num_rows: int, out_dim: int) -> None:
    """bf16 goes in pairs: the last one must not take the next row's first number."""
    x_TD = random(num_rows, 31)
    x_TD[1::2] = torch.nan
    y_TO = Linear(random(out_dim, 31), None)(x_TD)
    assert y_TO[::2].isfinite().all()
    assert y_TO[1::2].isnan().all()


@pytest.mark.parametrize("in_dim", [1, 15, 16, 17, 32, 33, 97])
@pytest.mark.parametrize("out_dim", [1, 16, 17, 63, 64, 65, 129, 200])
def test_every_width(random: Any, in_dim: int, out_dim: int) -> None:
    weight, x_TD = random(out_dim, in_dim, scale=in_dim**-0.5), random(7, in_dim)
    expected = x_TD.double() @ weight.double().T
    tolerance = 1e-6 if x_TD.dtype == torch.float32 else 2**-8
    torch.testing.assert_close(Linear(weight, None)(x_TD).double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("in_dim", [63, 64, 129, 301])
def test_a_row_has_the_same_bits_among_any_number_of_rows(random: Any, in_dim: int) -> None:
    """One block of rows, several chunk by chunk, many panel by panel: whole panels and a narrow one."""
    op, x_TD = Linear(random(130, in_dim, scale=in_dim**-0.5), random(130)), random(60, in_dim)
    alone = torch.cat([op(row) for row in x_TD.split(1)])
    for num_rows in range(2, len(x_TD)):
        assert torch.equal(op(x_TD[:num_rows]), alone[:num_rows]), num_rows


@pytest.mark.parametrize("num_rows", [29, 60, 112, 113])
def test_a_row_has_the_same_bits_in_few_long_chunks(random: Any, num_rows: int) -> None:
    """Three chunks of either dtype, the last one cut short, in whole panels and a narrow one."""
    op, x_TD = Linear(random(130, 1801, scale=0.03), random(130)), random(num_rows, 1801)
    assert torch.equal(op(x_TD), torch.cat([op(row) for row in x_TD.split(1)]))


def test_what_does_not_fit_is_refused(fp32: Any) -> None:
    linear, grouped = Linear(fp32(4, 6), None), GroupedLinear(fp32(2, 4, 6), None)
    for bad in (fp32(3, 5), fp32(3, 6).bfloat16(), fp32(3, 2, 6)):
        with pytest.raises(ValueError, match=r"rows must be torch.float32 \[T, 6\]"):
            linear(bad)
    with pytest.raises(ValueError, match="the plan has 3 tokens, got 4 rows"):
        grouped(fp32(4, 6), fp32.plan(3, 2, 1))


def test_no_rows_are_no_rows(fp32: Any) -> None:
    assert Linear(fp32(4, 6), None)(torch.empty(0, 6)).shape == (0, 4)


def test_weights_are_not_kept_beside_their_packed_copies() -> None:
    arrays = [np.ones(shape, np.float32) for shape in ((6, 4), (6,))]
    alive = [weakref.ref(array) for array in arrays]
    op = Linear(*map(torch.from_numpy, arrays))
    del arrays
    gc.collect()
    assert [array() for array in alive] == [None] * 2
    assert torch.equal(op(torch.ones(1, 4)), torch.full((1, 6), 5.0))
