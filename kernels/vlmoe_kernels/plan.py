"""Which rows of x go to which group of weights, and how their outputs come back.

    groups_TK, gates_TK --make_plan--> RoutePlan --grouped_ffn / grouped_linear--> y_TD

A group is one set of feed-forward weights: a modality's dense layer, or one expert of a modality's pool.
"""

# T = tokens, K = choices per token, R = routed rows (kept choices), G = groups

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class RoutePlan:
    """Rows sorted by group, stable in (token, choice).

    order_R: int64, the token of each routed row.
    sizes: rows of each group; group g owns rows sum(sizes[:g]) .. sum(sizes[:g + 1]).
    slots_TK: int64, the routed row of a token's k-th choice, or -1 for a choice that was dropped or never made.
    gates_R: factor of each row's output, or None for 1.
    complete: every token has exactly one row (K = 1 and nothing dropped).
    offsets: int32 [G + 1], sizes summed up, for kernels on the plan's device; None where only the host reads sizes.
    """

    order_R: Tensor
    sizes: tuple[int, ...]
    slots_TK: Tensor
    gates_R: Tensor | None
    complete: bool
    offsets: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that went in and come out."""
        return self.slots_TK.shape[0]

    def to(self, device: torch.device | str) -> "RoutePlan":
        """The plan for kernels on a device, with its offsets there."""
        return RoutePlan(
            self.order_R.to(device),
            self.sizes,
            self.slots_TK.to(device),
            None if self.gates_R is None else self.gates_R.to(device),
            self.complete,
            torch.tensor([0, *accumulate(self.sizes)], dtype=torch.int32).to(device),
        )


def make_plan(groups_TK: Tensor, gates_TK: Tensor | None, num_groups: int) -> RoutePlan:
    """Sort token choices by group.

    Args:
        groups_TK: int64 [tokens, choices], the group of each choice, -1 for none.
        gates_TK: [tokens, choices], factor of each choice's output; None for 1.
        num_groups: number of groups, empty ones included.

    Raises:
        ValueError: groups_TK is not a 2-dimensional int64 tensor, or the gates have another shape.
    """
    if groups_TK.dim() != 2 or groups_TK.dtype != torch.int64:
        raise ValueError(
            f"groups must be int64 [tokens, choices], got {groups_TK.dtype} {list(groups_TK.shape)}"
        )
    if gates_TK is not None and gates_TK.shape != groups_TK.shape:
        raise ValueError(f"gates {list(gates_TK.shape)} do not match groups {list(groups_TK.shape)}")
    on_host = groups_TK.device.type == "cpu"
    num_choices = groups_TK.shape[1]
    chosen_R, slots_C, sizes = (sorted_by_numpy if on_host else sorted_by_torch)(
        groups_TK.detach().flatten(), num_groups
    )
    plan = RoutePlan(
        order_R=chosen_R if num_choices == 1 else chosen_R // num_choices,
        sizes=sizes,
        slots_TK=slots_C.view_as(groups_TK),
        gates_R=None if gates_TK is None else gates_TK.flatten()[chosen_R],
        complete=num_choices == 1 and len(chosen_R) == len(slots_C),
    )
    return plan if on_host else plan.to(groups_TK.device)


def sorted_by_torch(groups_C: Tensor, num_groups: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """All choices that are made, in order of their groups; the place of each choice among them, or -1; sizes."""
    # choices without a group sort in front of all groups
    key_C = (groups_C + 1).clamp_min(0)
    num_dropped, *sizes = _checked(torch.bincount(key_C, minlength=num_groups + 1).tolist(), num_groups)
    chosen_R = key_C.argsort(stable=True)[num_dropped:]
    slots_C = torch.full_like(groups_C, -1)
    slots_C[chosen_R] = torch.arange(len(chosen_R), device=groups_C.device)
    return chosen_R, slots_C, tuple(sizes)


def sorted_by_numpy(groups_C: Tensor, num_groups: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """The same on the host. What a plan takes is calls, not work, and numpy's are shorter; 16 bits sort by radix."""
    key_C = np.maximum(groups_C.numpy(), -1) + 1
    num_dropped, *sizes = _checked(np.bincount(key_C, minlength=num_groups + 1).tolist(), num_groups)
    narrow = np.int16 if num_groups < np.iinfo(np.int16).max else np.int64
    chosen_R = key_C.astype(narrow).argsort(kind="stable")[num_dropped:]
    slots_C = np.full(len(key_C), -1)
    slots_C[chosen_R] = np.arange(len(chosen_R))
    return torch.from_numpy(chosen_R), torch.from_numpy(slots_C), tuple(sizes)


def _checked(counts: list[int], num_groups: int) -> list[int]:
    if len(counts) > num_groups + 1:
        raise ValueError(f"groups must be below {num_groups}, got {len(counts) - 2}")
    return counts
