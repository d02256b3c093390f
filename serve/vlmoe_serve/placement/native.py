"""`dispatch.by_counts` and `dispatch.shares` in C, compiled on this machine at first use; else the numpy truth.

Where the library lies: `vlmoe_model/compiled.py`.
"""

import ctypes
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlmoe_model import compiled
from vlmoe_serve.placement.dispatch import Counts, Hosts, Routed, by_counts, shares

_log = logging.getLogger(__name__)
_SOURCE = Path(__file__).with_name("dispatch.c")

Flow = npt.NDArray[np.int64]


def split_by_counts(
    counts_BXG: Counts, hosts_XG: Hosts, *, stream: int, node_G: npt.NDArray[np.int32]
) -> Routed:
    """The same bits as `by_counts`, in microseconds a step."""
    library = load(compiled.cache_directory())
    if library is None:
        return by_counts(counts_BXG, hosts_XG, stream=stream, node_G=node_G)
    counts = np.ascontiguousarray(counts_BXG, np.int32)
    hosts = np.ascontiguousarray(hosts_XG, np.uint8)
    node = np.ascontiguousarray(node_G, np.int32)
    num_steps, num_experts, num_ranks = counts.shape
    if hosts.shape != (num_experts, num_ranks) or node.shape != (num_ranks,):
        raise ValueError(f"hosts {hosts.shape} and nodes {node.shape} do not fit counts {counts.shape}")
    amounts = np.empty(counts.shape, np.int32)
    traffic = np.empty((num_steps, num_ranks, num_ranks), np.int64)
    arrays = (counts, hosts, node, amounts, traffic)
    at = [array.ctypes.data for array in arrays]
    if library.split_by_counts(num_steps, num_experts, num_ranks, *at[:3], stream, *at[3:]):
        raise MemoryError("no memory for the split of tokens over copies")
    return Routed(amounts, traffic)


def flow_by_counts(counts_XG: Flow, hosts_XG: Hosts, *, stream: int, node_G: npt.NDArray[np.int32]) -> Flow:
    """[experts, from, to]: what each rank sends to each copy in one step; what stays is on the diagonal."""
    counts = np.ascontiguousarray(counts_XG, np.int32)
    library = load(compiled.cache_directory())
    if library is None:
        amounts = by_counts(counts[None], hosts_XG, stream=stream, node_G=node_G).amounts_BXG[0]
        return shares(counts, amounts, node_G).astype(np.int64)
    hosts = np.ascontiguousarray(hosts_XG, np.uint8)
    node = np.ascontiguousarray(node_G, np.int32)
    num_experts, num_ranks = counts.shape
    if hosts.shape != counts.shape or node.shape != (num_ranks,):
        raise ValueError(f"hosts {hosts.shape} and nodes {node.shape} do not fit counts {counts.shape}")
    flow = np.empty((num_experts, num_ranks, num_ranks), np.int64)
    at = [array.ctypes.data for array in (counts, hosts, node, flow)]
    if library.flow_by_counts(num_experts, num_ranks, *at[:3], stream, at[3]):
        raise MemoryError("no memory for the split of tokens over copies")
    return flow


@dataclass(frozen=True, slots=True)
class Functions:
    """What the library offers; arrays are given by their addresses."""

    split_by_counts: Callable[..., int]
    flow_by_counts: Callable[..., int]


@cache
def load(directory: Path) -> Functions | None:
    """The compiled functions, built below `directory` if they are not there; None where they cannot be, said once."""
    try:
        library = compiled.load(_SOURCE, directory)
    except RuntimeError as error:
        _log.warning("tokens are split over copies by numpy, not in C: %s", error)
        return None
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    split, flow = library.split_by_counts, library.flow_by_counts
    split.restype = flow.restype = ctypes.c_int
    split.argtypes = [*[whole] * 3, *[pointer] * 3, whole, *[pointer] * 2]
    flow.argtypes = [*[whole] * 2, *[pointer] * 3, whole, pointer]
    return Functions(split, flow)
