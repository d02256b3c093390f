"""The few operations that a routed Transformer needs, as an interface. Every backend offers all of them.

A backend receives weights once (`linear`, `grouped_linear`, `grouped_ffn`), may rearrange them, and returns the
operation on rows. So prepacked layouts, quantised weights and device buffers stay inside a backend.
"""

# T = tokens, D = input width, F = hidden width, O = output width, G = groups, E = experts of one pool,
# H = attention heads, C = width of one head

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlmoe_kernels.plan import RoutePlan

LinearOp = Callable[[Tensor], Tensor]
GroupedOp = Callable[[Tensor, RoutePlan], Tensor]
AddNormOp = Callable[[Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor, Tensor]]


class RoutedOp(Protocol):
    """A mixture that routes by itself."""

    def __call__(
        self, x_TD: Tensor, pool_T: Tensor, limits: Tensor | None, rounded_TD: Tensor | None = None, /
    ) -> Tensor:
        """See `RoutingBackend.routed_ffn`; rounded: x in the dtype of the weights, by whoever has it already."""
        ...

    def take_load(self) -> tuple[list[int], int]:
        """Rows of each group since the last time, and in how many calls routed groups had any; waits for the device."""
        ...


class Placed(Protocol):
    """Memory that lives as long as this object, outside torch."""

    @property
    def address(self) -> int:
        """Where it begins: at a multiple of 64."""
        ...


# from a number of bytes
Allocate = Callable[[int], Placed]


@runtime_checkable
class PiecewiseOp(Protocol):
    """A grouped operation that reads its rows where they lie, and leaves its output where it is told."""

    def of_pieces(self, pieces_RD: Sequence[Tensor], source_T: Tensor, plan: RoutePlan, y_TD: Tensor) -> None:
        """As the operation itself on the rows source_T of the pieces, which count one piece behind the other.

        source_T: int64. y_TD: takes the output; dense, of the dtype of the pieces.
        """
        ...


class Pool(NamedTuple):
    """Feed-forward weights of one modality: E experts, or E = 1 for a dense layer.

    w1 [E, F, D], b1 [E, F], w2 [E, D, F], b2 [E, D]; mid_weight, mid_bias [E, F]: LayerNorm between the two GEMMs
    (sub-LN), or None for none.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    mid_weight: Tensor | None = None
    mid_bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive sequences of one length in a packed batch."""

    num_sequences: int
    length: int


class Backend(Protocol):
    """One implementation of the operations."""

    __name__: str

    def linear(self, weight: Tensor, bias: Tensor | None) -> LinearOp:
        """The operation x [T, D] -> x W^T + b [T, O], from weight [O, D]."""
        ...

    def grouped_linear(self, weight_GOD: Tensor, bias_GO: Tensor | None) -> GroupedOp:
        """The operation x [T, D], plan -> [T, O]: each row through the matrix of its group.

        The plan has one ungated choice per token.
        """
        ...

    def grouped_ffn(self, pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
        """The operation x [T, D], plan -> [T, D].

        Gather, GEMM, exact GELU, (LayerNorm), GEMM, gate-weighted sum of choices.

        Groups are numbered through the pools in order. A token without a row comes back as zeros.
        """
        ...

    def attention(
        self, q_THC: Tensor, k_THC: Tensor, v_THC: Tensor, runs: Sequence[Run], bias: Sequence[Tensor] | None
    ) -> Tensor:
        """Bidirectional softmax attention inside each sequence, never across; scale C^-0.5. No padding.

        bias: per run [H, L, L], added to the logits. Returns [T, H, C].
        """
        ...


@runtime_checkable
class NormBackend(Backend, Protocol):
    """A backend that can also add a layer's output to the residual stream and norm the sum, in one pass over memory."""

    def add_norm(
        self, weight_GD: Tensor, bias_GD: Tensor, eps: float, dtype: torch.dtype, *, exact: bool
    ) -> AddNormOp:
        """The operation x [T, D] float32, y [T, D] or None, group of each row [T] -> x + y, and its LayerNorm twice.

        x is overwritten: the sum is the same tensor. The groups are int64, and not read where there is only one. The
        second norm is of that dtype; the first is float32 if `exact`, for routers, or else the same tensor.
        """
        ...


@runtime_checkable
class TableBackend(Backend, Protocol):
    """A backend that can also be told the sequences by a table on the device: a recorded launch reads it anew."""

    def attention_table(
        self, runs: Sequence[Run], num_heads: int, dtype: torch.dtype, device: torch.device
    ) -> npt.NDArray[np.int64]:
        """The table of these runs, int64 [rows, 4], on the host. Rows of zeros may be added: they ask for nothing."""
        ...

    def attention_by_table(self, q_THC: Tensor, k_THC: Tensor, v_THC: Tensor, table: Tensor) -> Tensor:
        """`attention` without a bias; tokens that are in no sequence of the table get any value."""
        ...


@runtime_checkable
class CellBackend(Backend, Protocol):
    """A backend that can also describe images by the orientations of their gradients, in one pass over memory."""

    def gradient_cells(self, images_N3SS: Tensor, cell: int, epsilon: float) -> Tensor:
        """Float32 [N, 3, S, S] -> [N, 9 + 3, S / cell, S / cell]: nine orientations and the mean colour of each cell.

        A pixel's gradient is that of its strongest channel (central differences, the border repeated), soft-binned by
        its angle modulo pi. Means over the cell, divided by those of the cells around plus epsilon, and the root.
        """
        ...


@runtime_checkable
class CombiningBackend(Backend, Protocol):
    """A backend that can also bring routed rows back that lie in several pieces, in one pass over memory."""

    def combine_pieces(self, pieces_RD: Sequence[Tensor], plan: RoutePlan) -> Tensor:
        """Routed rows [R, D] of a plan, one piece behind the other, to tokens [T, D].

        Gates in float32, rounded to the rows' dtype, choices summed in order, as `grouped_ffn` does it.
        """
        ...


@runtime_checkable
class LearningBackend(Backend, Protocol):
    """A backend that training can use too."""

    def learning_ffn(self, pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
        """`grouped_ffn` with gradients of x, the gates and every weight; under autocast in its dtype.

        Nothing is prepared for a second call: weights change at every step.
        """
        ...


@runtime_checkable
class PlacingBackend(Backend, Protocol):
    """A backend that can put a layer's matrices where it is told, and reads nothing else of their size."""

    def placed_bytes(self, dtype: torch.dtype, dim: int, hidden: int) -> int:
        """What the matrices of one expert take there; `ValueError` for a dtype that it does not multiply."""
        ...

    def placed_ffn(self, pool: Pool, norm_eps: float, allocate: Allocate) -> GroupedOp:
        """`grouped_ffn` of one pool, its matrices in memory that is given; `Joinable` (`joined.py`)."""
        ...


@runtime_checkable
class RoutingBackend(Backend, Protocol):
    """A backend that can also choose the experts, so that the host never learns who goes where."""

    def routed_ffn(
        self,
        pools: Sequence[Pool],
        routers: Sequence[Tensor | None],
        norm_eps: float,
        *,
        top_k: int,
        by_score: bool,
    ) -> tuple[GroupedOp, RoutedOp]:
        """`grouped_ffn`, and the same weights behind their routers: x [T, D], pool of each token, limits -> [T, D].

        Router: float32 scores [E, D] of each pool, None for a pool of one expert that takes all its tokens, ungated.
        Softmax over the pool's experts, the top_k best, ties to the lowest index; gates are not renormalised.
        limits: int32 [G], slots of each group, or None for dropless. First choices claim theirs before second ones;
        among equals the highest score does (by_score) or else the first token.
        """
        ...
