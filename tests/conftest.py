"""What tests of several areas share.

Ranks as threads: an exchange blocks in system calls, which leave the interpreter to the other ranks.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from vlmoe_kernels.collectives.shared_memory import (
    SharedMemoryGroup,
    close_descriptors,
    make_descriptors,
)

# many servers run at once; each takes a port of its own for gRPC, as it does for HTTP
os.environ.setdefault("VLMOE_SERVE_GRPC_PORT", "auto")

# how long an example takes, to make or to run, says nothing here: the machines are shared
settings.register_profile("vlmoe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vlmoe")

InGroup = Callable[..., list[Any]]


@pytest.fixture
def in_group() -> Iterator[InGroup]:
    """in_group(size, work): run work(group) on every rank at once; the results by rank."""
    opened = []

    def run(size: int, work: Callable[[SharedMemoryGroup], Any], timeout_s: float = 120.0) -> list[Any]:
        descriptors = make_descriptors(size)
        opened.append(descriptors)
        groups = [SharedMemoryGroup(rank, timeout_s) for rank in descriptors]
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(work, groups))

    yield run
    for descriptors in opened:
        close_descriptors(descriptors)
