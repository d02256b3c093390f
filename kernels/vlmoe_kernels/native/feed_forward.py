"""A feed-forward layer as one call into C++: two products and what lies between, on dense rows or on pieces."""

# letters: see ops.py

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from vlmoe_kernels.native.library import library, plan_of
from vlmoe_kernels.native.memory import Memory
from vlmoe_kernels.native.pieces import check_of_pieces, pieces_of
from vlmoe_kernels.native.products import Packed, Vectors, gates_of, gates_of_rows
from vlmoe_kernels.ops import Allocate, Pool
from vlmoe_kernels.plan import RoutePlan


class Product(Protocol):
    """Matrices of one shape as C++ takes them; k: their inner width."""

    k: int
    num_groups: int

    @property
    def matrices(self) -> object:
        """The structure that points to them."""
        ...


class TwoProducts(ABC):
    """x [T, D], plan -> [T, D], each row through the layer of its group.

    function: of the library; the one for pieces has its name and `_of_pieces`.
    """

    function: ClassVar[str]

    def __init__(
        self, up: Product, down: Product, mid_weight: Vectors, mid_bias: Vectors, norm_eps: float
    ) -> None:
        self._up, self._down = up, down
        self._mid_weight, self._mid_bias = mid_weight, mid_bias
        self._eps = norm_eps

    @abstractmethod
    def check_dtype(self, dtype: torch.dtype) -> None:
        """Raises ValueError for rows of another dtype than the weights take."""

    def __call__(self, x_TD: Tensor, plan: RoutePlan) -> Tensor:
        """Apply it.

        Raises:
            ValueError: the plan is for other weights or rows, or the rows are.
        """
        self.check_dtype(x_TD.dtype)
        if x_TD.dim() != 2 or x_TD.shape[1] != self._up.k:
            raise ValueError(f"rows must be {x_TD.dtype} [T, {self._up.k}], got {list(x_TD.shape)}")
        gates_R = gates_of_rows(plan, x_TD, self._up.num_groups)
        x_TD = x_TD if x_TD.stride(1) == 1 else x_TD.contiguous()
        y_TD = x_TD.new_empty(x_TD.shape)
        self._call(self.function, y_TD, (x_TD.data_ptr(), x_TD.stride(0)), plan, gates_R)
        return y_TD

    def of_pieces(self, pieces_RD: Sequence[Tensor], source_T: Tensor, plan: RoutePlan, y_TD: Tensor) -> None:
        """See `ops.PiecewiseOp`.

        Raises:
            ValueError: the plan is for other weights or rows, or the rows are.
        """
        like = pieces_RD[0]
        self.check_dtype(like.dtype)
        pieces, gates_R = pieces_of(pieces_RD, self._up.k, like.dtype), gates_of(plan, self._up.num_groups)
        check_of_pieces(source_T, plan, y_TD, like)
        self._call(f"{self.function}_of_pieces", y_TD, (pieces, source_T.data_ptr()), plan, gates_R)

    def _call(
        self, name: str, y_TD: Tensor, rows: tuple[object, ...], plan: RoutePlan, gates_R: Tensor | None
    ) -> None:
        library().call(
            name,
            y_TD.dtype,
            *rows,
            self._up.matrices,
            self._down.matrices,
            self._mid_weight.address,
            self._mid_bias.address,
            self._eps,
            plan_of(plan, gates_R),
            out=y_TD.data_ptr(),
        )


class GroupedFeedForward(TwoProducts):
    """In the dtype of the weights."""

    function = "grouped_ffn"

    def __init__(self, pools: Sequence[Pool], norm_eps: float, allocate: Allocate = Memory) -> None:
        for one, other in pairwise(pools):
            if one.w1.shape[1:] != other.w1.shape[1:] or (one.mid_weight is None) != (
                other.mid_weight is None
            ):
                raise ValueError("the pools of a layer must have the same widths and norms")
        self._parts = (
            Packed([pool.w1 for pool in pools], [pool.b1 for pool in pools], allocate),
            Packed([pool.w2 for pool in pools], [pool.b2 for pool in pools], allocate),
            Vectors([pool.mid_weight for pool in pools]),
            Vectors([pool.mid_bias for pool in pools]),
        )
        super().__init__(*self._parts, norm_eps)

    @classmethod
    def joined(cls, ops: Sequence["GroupedFeedForward"]) -> "GroupedFeedForward":
        """The groups of all, one behind the other; weights are shared with them, not copied."""
        whole = cls.__new__(cls)
        ups, downs, mid_weights, mid_biases = zip(*(op._parts for op in ops), strict=True)
        whole._parts = (
            Packed.joined(ups),
            Packed.joined(downs),
            Vectors.joined(mid_weights),
            Vectors.joined(mid_biases),
        )
        TwoProducts.__init__(whole, *whole._parts, ops[0]._eps)
        return whole

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Raises ValueError for another dtype than that of the weights."""
        if dtype != (wanted := self._parts[0].dtype):
            raise ValueError(f"rows must be {wanted} [T, {self._up.k}], got {dtype}")
