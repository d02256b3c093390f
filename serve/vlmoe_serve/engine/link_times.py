"""What an exchange between ranks takes on this machine, and how anything is timed here. For `measuring.py`."""

import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from vlmoe_kernels.collectives import Group
from vlmoe_kernels.collectives.distributed import DistributedGroup
from vlmoe_kernels.collectives.shared_memory import SharedMemoryGroup, make_descriptors
from vlmoe_serve.engine.loading import free_port

_SECONDS, _MIN_REPEATS, _MAX_REPEATS = 0.4, 3, 200
_PATIENCE_S = 20.0


def median_us(work: Callable[[], object], device: str = "cpu") -> float:
    """After two runs that are not counted."""

    def once() -> float:
        start_s = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return 1e6 * (time.perf_counter() - start_s)

    for _ in range(2):
        once()
    times: list[float] = []
    while len(times) < _MIN_REPEATS or (sum(times) < 1e6 * _SECONDS and len(times) < _MAX_REPEATS):
        times.append(once())
    return statistics.median(times)


def between_processes(rows_RD: Tensor) -> tuple[float, float]:
    """A row one way between two ranks of this host, and an all-to-all of nothing."""
    ours, theirs = make_descriptors(2)
    child = os.fork()
    group = SharedMemoryGroup(theirs if child == 0 else ours, _PATIENCE_S)
    try:
        # both must go the same number of rounds: by number, not by time
        empty = _exchange_us(group, rows_RD[:0], 200)
        full = _exchange_us(group, rows_RD, 50)
    finally:
        if child == 0:
            os._exit(0)
    os.waitpid(child, 0)
    return max(full - empty, 0.0) / (2 * len(rows_RD)), empty / 2


def _exchange_us(group: Group, rows_RD: Tensor, rounds: int) -> float:
    """Counts, rows there, and rows back: the exchanges of one layer."""
    num = len(rows_RD)
    counts = torch.zeros(group.size, 64, dtype=torch.int64)
    rows_RD = torch.cat([rows_RD] * 2)
    times = []
    for _ in range(rounds):
        start_s = time.perf_counter()
        group.exchange_counts(counts)
        for _ in range(2):
            group.exchange_rows(rows_RD, [num, num], [num, num])
        times.append(1e6 * (time.perf_counter() - start_s))
    return statistics.median(times)


def nccl_start_us(row: Tensor) -> float:
    """An all-to-all of one row, by NCCL with one rank: what it takes to begin, without the way to another card."""
    dist.init_process_group("nccl", f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    try:
        group = DistributedGroup()
        counts = torch.zeros(1, 64, dtype=torch.int64)

        def work() -> None:
            group.exchange_counts(counts)
            for _ in range(2):
                group.exchange_rows(row, [1], [1])

        return median_us(work, "cuda") / 2
    finally:
        dist.destroy_process_group()


def between_gpus(rows_RD: Tensor) -> float:
    """A row from the first card to the second."""
    return median_us(lambda: rows_RD.to("cuda:1"), "cuda") / len(rows_RD)
