"""Sum and LayerNorm in one pass, against torch's."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vlmoe_kernels.native.norms import AddNorm

pytestmark = pytest.mark.usefixtures("native")

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@DTYPES
@pytest.mark.parametrize("y_dtype", [torch.float32, torch.bfloat16, torch.float64, None])
@pytest.mark.parametrize(("num_rows", "width"), [(1, 1), (5, 17), (63, 100), (2000, 768), (0, 8)])
def test_as_torch(fp32: Any, threads: int, dtype: Any, y_dtype: Any, num_rows: int, width: int) -> None:
    x_TD, weight_GD, bias_GD = fp32(num_rows, width), fp32(3, width), fp32(3, width)
    y_TD = None if y_dtype is None else fp32(num_rows, width).to(y_dtype)
    groups_T = torch.arange(num_rows) % 3
    expected = x_TD.clone() if y_TD is None else x_TD + y_TD.float()
    normed = F.layer_norm(expected.double(), (width,)) * weight_GD[groups_T] + bias_GD[groups_T]
    sum_TD, first, found = AddNorm(weight_GD, bias_GD, 1e-5, dtype)(x_TD, y_TD, groups_T)
    assert first is found
    assert sum_TD is x_TD
    assert torch.equal(sum_TD, expected)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.01
    torch.testing.assert_close(found.double(), normed, rtol=tolerance, atol=tolerance)


@DTYPES
def test_the_bits_of_a_row_are_its_own(fp32: Any, dtype: Any) -> None:
    x_TD, y_TD = fp32(300, 100), fp32(300, 100).to(dtype)
    op = AddNorm(fp32(1, 100), fp32(1, 100), 1e-6, dtype)
    groups_T = torch.zeros(300, dtype=torch.int64)
    whole = op(x_TD.clone(), y_TD, groups_T)[1]
    for rows in (slice(7, 8), slice(100, 117), slice(0, 300, 3)):
        alone = op(x_TD[rows].clone(), y_TD[rows], groups_T[rows])[1]
        assert torch.equal(alone, whole[rows])


@DTYPES
def test_the_exact_norm_is_what_is_rounded(fp32: Any, dtype: Any) -> None:
    x_TD, y_TD, weight_GD = fp32(50, 100), fp32(50, 100), fp32(1, 100)
    groups_T = torch.zeros(50, dtype=torch.int64)
    expected = AddNorm(weight_GD, weight_GD, 1e-6, torch.float32)(x_TD.clone(), y_TD, groups_T)[1]
    _, exact, rounded = AddNorm(weight_GD, weight_GD, 1e-6, dtype, exact=True)(x_TD, y_TD, groups_T)
    assert torch.equal(exact, expected)
    assert rounded.dtype == dtype
    assert torch.equal(rounded, expected.to(dtype))


def test_groups_are_not_read_where_there_is_one(fp32: Any) -> None:
    x_TD, weight_GD = fp32(4, 8), fp32(1, 8)
    op = AddNorm(weight_GD, weight_GD, 1e-6, torch.float32)
    assert torch.equal(
        op(x_TD.clone(), None, torch.full((4,), 9))[1], op(x_TD, None, torch.zeros(0, dtype=torch.int64))[1]
    )


def test_the_weights_are_copied(fp32: Any) -> None:
    x_TD, weight_GD = fp32(4, 8), fp32(1, 8)
    op = AddNorm(weight_GD, weight_GD, 1e-6, torch.float32)
    before = op(x_TD, None, torch.zeros(4))[1]
    weight_GD.zero_()
    assert torch.equal(op(x_TD, None, torch.zeros(4))[1], before)


def test_what_does_not_fit_is_refused(fp32: Any) -> None:
    x_TD, weight_GD = fp32(6, 8), fp32(2, 8)
    op = AddNorm(weight_GD, weight_GD, 1e-6, torch.float32)
    groups_T = torch.zeros(6, dtype=torch.int64)
    for bad in (x_TD.bfloat16(), fp32(6, 9), fp32(8, 6).T):
        with pytest.raises(ValueError, match="x must be float32"):
            op(bad, None, groups_T)
    with pytest.raises(ValueError, match="y must be as x"):
        op(x_TD, fp32(5, 8), groups_T)
    for bad in (groups_T[:5], groups_T.int()):
        with pytest.raises(ValueError, match="groups must be int64"):
            op(x_TD, None, bad)
