"""One grouped operation from several: what lets single experts come and go without packing their neighbours again."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from vlmoe_kernels import eager
from vlmoe_kernels.ops import GroupedOp
from vlmoe_kernels.plan import RoutePlan


@runtime_checkable
class Joinable(Protocol):
    """A grouped operation that can run the groups of others of its kind in one call."""

    @classmethod
    def joined(cls, ops: Sequence[Self]) -> Self:
        """The groups of all, one behind the other; weights are shared with them, not copied."""
        ...


def join(ops: Sequence[GroupedOp]) -> GroupedOp:
    """The groups of operations of one group each, one behind the other, with the bits of each.

    A backend whose operations are not `Joinable` is called once for every group that has rows.
    """
    first = ops[0] if ops else None
    if isinstance(first, Joinable) and all(type(op) is type(first) for op in ops):
        whole: GroupedOp = type(first).joined(ops)
        return whole
    return partial(_one_by_one, ops)


def _one_by_one(ops: Sequence[GroupedOp], x_TD: Tensor, plan: RoutePlan) -> Tensor:
    rows_ops = [partial(_alone, op) for op in ops]
    return eager.routed(x_TD, plan, rows_ops, x_TD.shape[1])


def _alone(op: GroupedOp, x_RD: Tensor) -> Tensor:
    num_rows = x_RD.shape[0]
    row_R = torch.arange(num_rows, device=x_RD.device)
    plan = RoutePlan(row_R, (num_rows,), row_R.unsqueeze(1), None, complete=True)
    return op(x_RD, plan if x_RD.is_cpu else plan.to(x_RD.device))
