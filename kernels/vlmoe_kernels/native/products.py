"""Operations on rows: weights in C++ layout, and the calls."""

# letters: see ops.py; K = inner width

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from vlmoe_kernels.native.library import Matrices, addresses, library, plan_of
from vlmoe_kernels.native.memory import Memory
from vlmoe_kernels.ops import Allocate
from vlmoe_kernels.plan import RoutePlan


class Packed:
    """Matrices of one shape and their biases, from stacks of them; the tensors given are not kept."""

    def __init__(
        self,
        weights_GOK: Sequence[Tensor],
        biases_GO: Sequence[Tensor | None],
        allocate: Allocate = Memory,
    ) -> None:
        lib = library()
        self.dtype = weights_GOK[0].dtype
        self.num_outputs, self.k = weights_GOK[0].shape[1:]
        self.num_groups = sum(len(stack) for stack in weights_GOK)
        self._parts: tuple[Packed, ...] = ()
        size = lib.packed_bytes(self.dtype, self.num_outputs, self.k)
        self._memory = allocate(size * self.num_groups)
        firsts = [self._memory.address + size * g for g in range(self.num_groups)]
        group = 0
        for stack in weights_GOK:
            stack = stack.detach().contiguous()
            lib.call(
                "pack", self.dtype, stack.data_ptr(), len(stack), self.num_outputs, self.k, out=firsts[group]
            )
            group += len(stack)
        self._panels = (ctypes.c_void_p * self.num_groups)(*firsts)
        self._vectors = Vectors(biases_GO)
        self.matrices = Matrices(
            self.num_outputs, self.k, ctypes.addressof(self._panels), self._vectors.address
        )

    @classmethod
    def joined(cls, parts: Sequence["Packed"]) -> "Packed":
        """The matrices of all, one behind the other, where they lie."""
        whole = cls.__new__(cls)
        whole.dtype, whole.num_outputs, whole.k = parts[0].dtype, parts[0].num_outputs, parts[0].k
        whole.num_groups = sum(part.num_groups for part in parts)
        # whatever the addresses point into
        whole._parts = tuple(parts)
        whole._panels = (ctypes.c_void_p * whole.num_groups)(*(at for part in parts for at in part._panels))
        whole._vectors = Vectors.joined([part._vectors for part in parts])
        whole.matrices = Matrices(
            whole.num_outputs, whole.k, ctypes.addressof(whole._panels), whole._vectors.address
        )
        return whole


class Vectors:
    """One float32 vector a group, from stacks of them; `address` is None where there are none."""

    def __init__(self, stacks_GO: Sequence[Tensor | None]) -> None:
        stacks = [stack for stack in stacks_GO if stack is not None]
        # copied also where they are float32: a view would keep more alive
        self._vectors = [vector.float().clone() for stack in stacks for vector in stack.detach()]
        self._addresses = addresses(self._vectors)
        self.address = ctypes.addressof(self._addresses) if stacks else None

    @classmethod
    def joined(cls, parts: Sequence["Vectors"]) -> "Vectors":
        """The vectors of all, one behind the other, where they lie."""
        whole = cls.__new__(cls)
        whole._vectors = [vector for part in parts for vector in part._vectors]
        whole._addresses = addresses(whole._vectors)
        whole.address = ctypes.addressof(whole._addresses) if whole._vectors else None
        return whole


class Linear:
    """x [T, K] -> x W^T + b [T, O]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = Packed([weight[None]], [None if bias is None else bias[None]])

    def __call__(self, x_TK: Tensor) -> Tensor:
        """Apply it."""
        packed = self._packed
        x_TK = _rows(x_TK, packed)
        y_TO = x_TK.new_empty(x_TK.shape[0], packed.num_outputs)
        library().call(
            "linear",
            packed.dtype,
            x_TK.data_ptr(),
            x_TK.stride(0),
            x_TK.shape[0],
            packed.matrices,
            out=y_TO.data_ptr(),
        )
        return y_TO


class GroupedLinear:
    """x [T, K], plan -> [T, O], each row through the matrix of its group."""

    def __init__(self, weight_GOK: Tensor, bias_GO: Tensor | None) -> None:
        self._packed = Packed([weight_GOK], [bias_GO])

    def __call__(self, x_TK: Tensor, plan: RoutePlan) -> Tensor:
        """Apply it.

        Raises:
            ValueError: the plan is for other weights or rows.
        """
        packed = self._packed
        x_TK = _rows(x_TK, packed)
        gates_R = gates_of_rows(plan, x_TK, packed.num_groups)
        y_TO = x_TK.new_empty(x_TK.shape[0], packed.num_outputs)
        library().call(
            "grouped_linear",
            packed.dtype,
            x_TK.data_ptr(),
            x_TK.stride(0),
            packed.matrices,
            plan_of(plan, gates_R),
            out=y_TO.data_ptr(),
        )
        return y_TO


def _rows(x_TK: Tensor, packed: Packed) -> Tensor:
    """Rows that lie densely. What does not fit would be read beyond its end."""
    if x_TK.dim() != 2 or x_TK.shape[1] != packed.k or x_TK.dtype != packed.dtype:
        raise ValueError(f"rows must be {packed.dtype} [T, {packed.k}], got {x_TK.dtype} {list(x_TK.shape)}")
    return x_TK if x_TK.stride(1) == 1 else x_TK.contiguous()


def gates_of_rows(plan: RoutePlan, x_TK: Tensor, num_groups: int) -> Tensor | None:
    """The plan's gates as float32, if the plan is for these rows and as many groups; else ValueError."""
    if plan.num_tokens != x_TK.shape[0]:
        raise ValueError(f"the plan has {plan.num_tokens} tokens, got {x_TK.shape[0]} rows")
    return gates_of(plan, num_groups)


def gates_of(plan: RoutePlan, num_groups: int) -> Tensor | None:
    """The same, of whatever rows."""
    if len(plan.sizes) != num_groups:
        raise ValueError(f"the plan has {len(plan.sizes)} groups, the weights {num_groups}")
    return None if plan.gates_R is None else plan.gates_R.to(torch.float32).contiguous()
