"""How routed tokens reach the experts. The network knows only this protocol.

A dispatcher may send rows to other processes and bring their outputs back; `local` runs them where they are.
"""

from typing import Protocol

from torch import Tensor

from vlmoe_kernels import RoutePlan
from vlmoe_kernels.ops import GroupedOp


class Dispatcher(Protocol):
    """Runs the experts of one layer on routed tokens."""

    def __call__(self, x_TD: Tensor, plan: RoutePlan, experts: GroupedOp) -> Tensor:
        """[T, D] -> [T, D], rows in the order they came."""
        ...


def local(x_TD: Tensor, plan: RoutePlan, experts: GroupedOp) -> Tensor:
    """All experts live here."""
    return experts(x_TD, plan)
