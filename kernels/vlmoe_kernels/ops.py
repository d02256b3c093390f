"""The few operations that a routed Transformer needs, as an interface. Every backend offers all of them.

A backend receives weights once (`linear`, `grouped_linear`, `grouped_ffn`), may rearrange them, and returns the
operation on rows. So prepacked layouts, quantised weights and device buffers stay inside a backend.
"""

# T = tokens, D = input width, F = hidden width, O = output width, G = groups, E = experts of one pool,
# H = attention heads, C = width of one head

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from vlmoe_kernels.plan import RoutePlan

LinearOp = Callable[[Tensor], Tensor]
GroupedOp = Callable[[Tensor, RoutePlan], Tensor]


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
