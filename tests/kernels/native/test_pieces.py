"""Rows that lie in several pieces: the same bits as for one, and nothing read beyond an end."""

from typing import Any

import pytest
import torch

from vlmoe_kernels import eager, native
from vlmoe_kernels.int8 import quantise_pool
from vlmoe_kernels.native.library import library
from vlmoe_kernels.ops import PiecewiseOp

pytestmark = pytest.mark.usefixtures("native")

CUTS = [(0, 23), (9, 14), (0, 5, 0, 18), (1, 1, 21)]


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize(("num_choices", "drop"), [(1, 0.0), (1, 0.4), (2, 0.3)])
@pytest.mark.parametrize("width", [8, 33, 100])
@pytest.mark.parametrize("gated", [False, True])
def test_rows_go_back_to_their_tokens(
    random: Any, threads: int, cuts: tuple[int, ...], num_choices: int, drop: float, width: int, gated: bool
) -> None:
    num_tokens = 23 if not drop else 40
    plan = random.plan(num_tokens, 5, num_choices, gated=gated, drop=drop)
    rows_RD = random(sum(plan.sizes), width)
    sizes = [*cuts[:-1], len(rows_RD) - sum(cuts[:-1])]
    found = native.combine_pieces(torch.split(rows_RD, sizes), plan)
    assert torch.equal(found, eager.combine(rows_RD, plan))


@pytest.mark.parametrize("int8", [False, True], ids=["as it is", "int8"])
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_experts_read_rows_where_they_lie(
    random: Any, threads: int, cuts: tuple[int, ...], int8: bool
) -> None:
    if int8 and not library().has_vnni:
        pytest.skip("the processor multiplies no bytes")
    pool = random.pool(3, 24, 40)
    op = native.int8_ffn([quantise_pool(pool)], 1e-6) if int8 else native.grouped_ffn([pool], 1e-6)
    assert isinstance(op, PiecewiseOp)
    x_TD, plan = random(23, 24), random.plan(17, 3, 1, gated=False)
    source = torch.randint(23, (17,), generator=torch.Generator().manual_seed(0))
    y_TD = torch.empty(17, 24, dtype=x_TD.dtype)
    op.of_pieces(torch.split(x_TD, list(cuts)), source, plan, y_TD)
    assert torch.equal(y_TD, op(x_TD[source], plan))


def test_what_does_not_fit_is_refused(fp32: Any) -> None:
    plan, rows = fp32.plan(5, 3, 1), fp32(5, 8)
    op = native.grouped_ffn([fp32.pool(3, 8, 16)], 1e-6)
    source = torch.arange(5)
    with pytest.raises(ValueError, match=r"the plan has 5 rows, the pieces 4"):
        native.combine_pieces([rows[:2], rows[3:]], plan)
    with pytest.raises(
        ValueError, match=r"rows must be torch.float32 \[rows, 8\], got torch.float32 \[3, 4\]"
    ):
        native.combine_pieces([rows[:2], rows[2:, :4]], plan)
    with pytest.raises(ValueError, match=r"got torch.bfloat16"):
        op.of_pieces([rows.bfloat16()], source, plan, rows)
    with pytest.raises(ValueError, match=r"sources must be int64 \[5\]"):
        op.of_pieces([rows], source[:4], plan, rows)
    with pytest.raises(ValueError, match=r"outputs must be dense torch.float32 \[5, 8\]"):
        op.of_pieces([rows], source, plan, fp32(5, 9))
    with pytest.raises(ValueError, match=r"the plan has 2 groups, the weights 3"):
        op.of_pieces([rows], source, fp32.plan(5, 2, 1), rows)
