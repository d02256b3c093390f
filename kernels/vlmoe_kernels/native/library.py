"""The shared library as Python sees it: structures and functions of `src/kernels.cpp`."""

import ctypes
import functools
from collections.abc import Mapping
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from vlmoe_kernels.native.build import BF16, VNNI, Unavailable, build, cpu_flags
from vlmoe_kernels.ops import Pool
from vlmoe_kernels.plan import RoutePlan


class Matrices(ctypes.Structure):
    """Packed matrices [num_outputs, k]; panels, bias: addresses of arrays of addresses, one a group."""

    _fields_ = (("num_outputs", c_int64), ("k", c_int64), ("panels", c_void_p), ("bias", c_void_p))


class Int8Matrices(ctypes.Structure):
    """Packed int8 matrices [num_outputs, k]; addresses of arrays of addresses, one a group."""

    _fields_ = (
        ("num_outputs", c_int64),
        ("k", c_int64),
        ("panels", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("sum", c_void_p),
    )


class Plan(ctypes.Structure):
    """A `RoutePlan`."""

    _fields_ = (
        ("num_tokens", c_int64),
        ("num_rows", c_int64),
        ("num_choices", c_int64),
        ("num_groups", c_int64),
        ("complete", c_int64),
        ("order", c_void_p),
        ("sizes", c_void_p),
        ("slots", c_void_p),
        ("gates", c_void_p),
    )


class Pieces(ctypes.Structure):
    """Rows [num_rows, width] in several pieces of memory; at, num_rows: addresses of arrays, one entry a piece."""

    _fields_ = (("num_pieces", c_int64), ("width", c_int64), ("at", c_void_p), ("num_rows", c_void_p))


class Experts(ctypes.Structure):
    """Float32 weights in training; addresses of arrays of addresses, one a group, None for no LayerNorm."""

    _fields_ = (
        ("dim", c_int64),
        ("hidden", c_int64),
        *((name, c_void_p) for name in Pool._fields),
        ("eps", c_float),
    )


class ExpertGradients(ctypes.Structure):
    """Where the gradients of `Experts` go; the arrays hold None for a group that does not learn."""

    _fields_ = tuple((name, c_void_p) for name in Pool._fields)


class Sequences(ctypes.Structure):
    """A `Run` with the address of its bias, or None."""

    _fields_ = (("num_sequences", c_int64), ("length", c_int64), ("bias", c_void_p))


# arguments after the dtype; the last two are the number of threads and the output
_SIGNATURES: Mapping[str, tuple[Any, ...]] = {
    "pack": (c_void_p, c_int64, c_int64, c_int64),
    "linear": (c_void_p, c_int64, c_int64, POINTER(Matrices)),
    "grouped_linear": (c_void_p, c_int64, POINTER(Matrices), POINTER(Plan)),
    "grouped_ffn": (
        c_void_p,
        c_int64,
        POINTER(Matrices),
        POINTER(Matrices),
        c_void_p,
        c_void_p,
        c_float,
        POINTER(Plan),
    ),
    "grouped_ffn_of_pieces": (
        POINTER(Pieces),
        c_void_p,
        POINTER(Matrices),
        POINTER(Matrices),
        c_void_p,
        c_void_p,
        c_float,
        POINTER(Plan),
    ),
    "combine": (POINTER(Pieces), POINTER(Plan)),
    "add_norm": (
        c_void_p,
        c_void_p,
        c_int64,
        c_int64,
        c_int64,
        c_void_p,
        c_void_p,
        c_void_p,
        c_float,
        c_void_p,
    ),
    "learning_forward": (c_void_p, c_int64, POINTER(Experts), POINTER(Plan), c_void_p),
    "learning_backward": (
        c_void_p,
        c_int64,
        c_void_p,
        c_void_p,
        POINTER(Experts),
        POINTER(ExpertGradients),
        POINTER(Plan),
        c_void_p,
    ),
    "int8_pack": (c_void_p, c_int64, c_int64, c_int64),
    "int8_ffn": (
        c_void_p,
        c_int64,
        POINTER(Int8Matrices),
        POINTER(Int8Matrices),
        c_void_p,
        c_void_p,
        c_float,
        POINTER(Plan),
    ),
    "int8_ffn_of_pieces": (
        POINTER(Pieces),
        c_void_p,
        POINTER(Int8Matrices),
        POINTER(Int8Matrices),
        c_void_p,
        c_void_p,
        c_float,
        POINTER(Plan),
    ),
    "gradient_cells": (c_void_p, c_int64, c_int64, c_int64, c_float),
    "attention": (
        c_void_p,
        c_void_p,
        c_void_p,
        POINTER(c_int64),
        POINTER(Sequences),
        c_int64,
        c_int64,
        c_int64,
        c_float,
    ),
}


class Library:
    """The loaded library. Its functions may be called from several threads."""

    def __init__(self, path: str) -> None:
        functions = ctypes.CDLL(path)
        self._packed_bytes = functions.vlmoe_packed_bytes
        self._packed_bytes.argtypes = [c_int64, c_int64, c_int64]
        self._packed_bytes.restype = c_int64
        self._functions = {name: functions[f"vlmoe_{name}"] for name in _SIGNATURES}
        for name, function in self._functions.items():
            function.argtypes = [c_int64, *_SIGNATURES[name], c_int64, c_void_p]
            function.restype = c_int
        self.has_bf16 = BF16 in cpu_flags()
        self.has_vnni = VNNI in cpu_flags()
        self._int8_packed_bytes = functions.vlmoe_int8_packed_bytes
        self._int8_packed_bytes.argtypes = [c_int64, c_int64]
        self._int8_packed_bytes.restype = c_int64

    def packed_bytes(self, dtype: torch.dtype, num_outputs: int, k: int) -> int:
        """Size of one packed matrix."""
        size: int = self._packed_bytes(dtype == torch.bfloat16, num_outputs, k)
        return size

    def int8_packed_bytes(self, num_outputs: int, k: int) -> int:
        """Size of one packed int8 matrix."""
        size: int = self._int8_packed_bytes(num_outputs, k)
        return size

    def call(self, name: str, dtype: torch.dtype, *arguments: object, out: int) -> None:
        """Run one function with torch's number of threads.

        Raises:
            MemoryError: its working memory could not be had.
        """
        if self._functions[name](dtype == torch.bfloat16, *arguments, torch.get_num_threads(), out) != 0:
            raise MemoryError(f"no memory for {name}")


@functools.cache
def library() -> Library:
    """The library, built and loaded once.

    Raises:
        Unavailable: see `build.build`.
    """
    path = build()
    try:
        return Library(str(path))
    except OSError as error:
        raise Unavailable(f"{path} does not load: {error}") from error


def addresses(tensors: list[Tensor]) -> "ctypes.Array[c_void_p]":
    """An array of where tensors lie; they must outlive it."""
    return (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def plan_of(plan: RoutePlan, gates_R: Tensor | None) -> Plan:
    """The plan for one call; it points into its tensors, and into gates_R, float32."""
    sizes = (c_int64 * len(plan.sizes))(*plan.sizes)
    result = Plan(
        plan.num_tokens,
        len(plan.order_R),
        plan.slots_TK.shape[1],
        len(plan.sizes),
        plan.complete,
        plan.order_R.data_ptr(),
        ctypes.addressof(sizes),
        plan.slots_TK.data_ptr(),
        None if gates_R is None else gates_R.data_ptr(),
    )
    # the structure holds an address only
    result.kept = sizes
    return result
