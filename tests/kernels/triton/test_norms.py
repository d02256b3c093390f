"""Sum and LayerNorm in one pass, against torch's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

Call = Callable[..., Any]
ADD_NORM = "vlmoe_kernels.triton:add_norm"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])


def run(call: Call, weights: Any, inputs: Any, dtype: torch.dtype, *, exact: bool = False) -> Any:
    return call(ADD_NORM, ((*weights, 1e-5, dtype), {"exact": exact}), (inputs, {}))


@DTYPES
@pytest.mark.parametrize("y_dtype", [torch.float32, torch.float16, None], ids=["fp32", "fp16", "none"])
@pytest.mark.parametrize(("num_rows", "width", "num_groups"), [(1, 1, 1), (5, 17, 3), (9, 100, 1), (0, 8, 2)])
def test_as_torch(
    call: Call, fp32: Any, dtype: Any, y_dtype: Any, num_rows: int, width: int, num_groups: int
) -> None:
    x_TD, weight_GD, bias_GD = fp32(num_rows, width), fp32(num_groups, width), fp32(num_groups, width)
    y_TD = None if y_dtype is None else fp32(num_rows, width).to(y_dtype)
    groups_T = torch.arange(num_rows) % num_groups
    expected = x_TD.clone() if y_TD is None else x_TD + y_TD.float()
    normed = F.layer_norm(expected.double(), (width,)) * weight_GD[groups_T] + bias_GD[groups_T]
    sum_TD, first_TD, found_TD = run(call, (weight_GD, bias_GD), (x_TD.clone(), y_TD, groups_T), dtype)
    assert torch.equal(sum_TD, expected)
    assert torch.equal(first_TD, found_TD)
    assert found_TD.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.01
    torch.testing.assert_close(found_TD.double(), normed, rtol=tolerance, atol=tolerance)


def test_the_exact_norm_is_what_is_rounded(call: Call, fp32: Any) -> None:
    weights, inputs = (fp32(1, 100), fp32(1, 100)), (fp32(9, 100), fp32(9, 100), torch.zeros(9))
    _, expected, _ = run(call, weights, (inputs[0].clone(), *inputs[1:]), torch.float32)
    _, exact, rounded = run(call, weights, inputs, torch.float16, exact=True)
    assert torch.equal(exact, expected)
    assert torch.equal(rounded, expected.half())


def test_the_bits_of_a_row_are_its_own(call: Call, fp32: Any) -> None:
    weights, x_TD = (fp32(2, 36), fp32(2, 36)), fp32(19, 36)
    groups_T = torch.arange(19) % 2
    whole = run(call, weights, (x_TD.clone(), None, groups_T), torch.float16)[2]
    for rows in (slice(4, 5), slice(3, 19, 4)):
        alone = run(call, weights, (x_TD[rows].clone(), None, groups_T[rows]), torch.float16)[2]
        assert torch.equal(alone, whole[rows])


def test_a_row_of_no_group_takes_part(call: Call, fp32: Any) -> None:
    weights, x_TD = (fp32(2, 8), fp32(2, 8)), fp32(3, 8)
    found = run(call, weights, (x_TD.clone(), None, torch.tensor([1, -1, 0])), torch.float32)[2]
    known = run(call, weights, (x_TD.clone(), None, torch.tensor([1, 0, 0])), torch.float32)[2]
    assert torch.equal(found, known)


def test_what_is_added_may_be_a_view(call: Call, fp32: Any) -> None:
    weights, x_TD, wide = (fp32(1, 8), fp32(1, 8)), fp32(3, 8), fp32(3, 24)
    for y_TD in (wide[:, 8:16], fp32(8, 3).T):
        found = run(call, weights, (x_TD.clone(), y_TD, torch.zeros(3)), torch.float32)[0]
        assert torch.equal(found, x_TD + y_TD)


def test_what_does_not_fit_is_refused(interpreted: Call, fp32: Any) -> None:
    for bad in (fp32(6, 8).half(), fp32(8, 6).T):
        with pytest.raises(RuntimeError, match="x must be float32 and dense"):
            run(interpreted, (fp32(1, 8), fp32(1, 8)), (bad, None, torch.zeros(6)), torch.float32)
