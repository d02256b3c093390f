"""Rows by group as the kernels read them: all on the device, nothing that the host would have to wait for."""

# T = tokens, K = choices per token, R = routed rows, G = groups

from dataclasses import dataclass

from torch import Tensor

from vlmoe_kernels.plan import RoutePlan


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """What `RoutePlan` says, less what only the host reads.

    order_R: int64, the token of each routed row; behind the last group's end (dropped choices) it is not read.
    offsets: int32 [G + 1]; group g owns rows offsets[g] .. offsets[g + 1].
    slots_TK: int64, the routed row of a token's k-th choice, or -1.
    gates_R: factor of each row's output, or None for 1.
    complete: every token has exactly one row.
    """

    order_R: Tensor
    offsets: Tensor
    slots_TK: Tensor
    gates_R: Tensor | None
    complete: bool

    @classmethod
    def of(cls, plan: RoutePlan, num_groups: int) -> "Routes":
        """The plan's rows; its offsets are built here where it has none on the device.

        Raises:
            ValueError: the plan has another number of groups than there are weights.
        """
        if len(plan.sizes) != num_groups:
            raise ValueError(f"the plan has {len(plan.sizes)} groups, the weights {num_groups}")
        offsets = plan.offsets
        if offsets is None:
            offsets = plan.to(plan.order_R.device).offsets
        assert offsets is not None
        return cls(plan.order_R, offsets, plan.slots_TK, plan.gates_R, plan.complete)
