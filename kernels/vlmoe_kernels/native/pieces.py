"""Rows in several pieces of memory, as C++ takes them, and their way back to tokens."""

# letters: see ops.py; R = rows of one piece

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from vlmoe_kernels.native.library import Pieces, addresses, library, plan_of
from vlmoe_kernels.plan import RoutePlan


def pieces_of(pieces_RD: Sequence[Tensor], width: int, dtype: torch.dtype) -> Pieces:
    """The pieces for one call; they are kept as long as the answer is.

    Raises:
        ValueError: a piece has another width or dtype.
    """
    for piece in pieces_RD:
        if piece.dim() != 2 or piece.shape[1] != width or piece.dtype != dtype:
            raise ValueError(f"rows must be {dtype} [rows, {width}], got {piece.dtype} {list(piece.shape)}")
    dense = [piece.contiguous() for piece in pieces_RD]
    at, num_rows = addresses(dense), (ctypes.c_int64 * len(dense))(*map(len, dense))
    result = Pieces(len(dense), width, ctypes.addressof(at), ctypes.addressof(num_rows))
    # the structure holds addresses only
    result.kept = (dense, at, num_rows)
    return result


def check_of_pieces(source_T: Tensor, plan: RoutePlan, y_TD: Tensor, like: Tensor) -> None:
    """Raises ValueError for what would be read or written beyond its end."""
    if source_T.dtype != torch.int64 or source_T.shape != (plan.num_tokens,) or not source_T.is_contiguous():
        raise ValueError(f"sources must be int64 [{plan.num_tokens}], got {list(source_T.shape)}")
    wanted = plan.num_tokens, like.shape[1]
    if y_TD.shape != wanted or y_TD.dtype != like.dtype or not y_TD.is_contiguous():
        raise ValueError(f"outputs must be dense {like.dtype} {list(wanted)}, got {list(y_TD.shape)}")


def combined(pieces_RD: Sequence[Tensor], plan: RoutePlan) -> Tensor:
    """See `ops.CombiningBackend.combine_pieces`.

    Raises:
        ValueError: pieces that do not fit together, or another number of rows than the plan has.
    """
    like, num_rows = pieces_RD[0], sum(map(len, pieces_RD))
    if num_rows != sum(plan.sizes):
        raise ValueError(f"the plan has {sum(plan.sizes)} rows, the pieces {num_rows}")
    gates_R = None if plan.gates_R is None else plan.gates_R.to(torch.float32).contiguous()
    y_TD = like.new_empty(plan.num_tokens, like.shape[1])
    pieces = pieces_of(pieces_RD, like.shape[1], like.dtype)
    library().call("combine", like.dtype, pieces, plan_of(plan, gates_R), out=y_TD.data_ptr())
    return y_TD
