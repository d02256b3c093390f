"""Which cores a rank keeps to."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vlmoe_serve.engine.own_cores import Cores, keep_apart, shares_of_cores

HOST = os.sched_getaffinity(0)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), HOST)


def test_all_cores_are_shared_out_to_neighbours() -> None:
    assert shares_of_cores([0, 1, 2, 3], 2) == [{0, 1}, {2, 3}]
    assert shares_of_cores([0, 4, 1, 5, 2], 2) == [{0, 4, 1}, {5, 2}]
    assert shares_of_cores([3, 5], 2) == [{3}, {5}]


def test_a_rank_keeps_to_its_share_with_all_its_threads(tmp_path: Path) -> None:
    if len(HOST) < 2:
        assert keep_apart(0, 2, 1) == Cores(frozenset(HOST), frozenset(HOST))
        return
    # every other core is a thread of the same one
    for core in HOST:
        topology = tmp_path / f"cpu{core}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{core % 2}\n")
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    try:
        cores = keep_apart(0, 2, 1, tmp_path)
        assert cores.host == HOST
        assert len(cores.own) == (len(HOST) + 1) // 2
        assert cores.own == set(sorted(HOST, key=lambda core: (core % 2, core))[: len(cores.own)])
        assert os.sched_getaffinity(0) == os.sched_getaffinity(other.native_id) == cores.own
        with cores.lent(0):
            assert os.sched_getaffinity(0) == cores.own
        with cores.lent(2):
            assert os.sched_getaffinity(0) == HOST
            assert torch.get_num_threads() == 2
        assert os.sched_getaffinity(0) == cores.own
    finally:
        end.set()
        other.join()


def test_too_few_cores_and_single_ranks_are_left_to_linux() -> None:
    free = Cores(frozenset(HOST), frozenset(HOST))
    assert keep_apart(0, 1, 1) == free
    assert keep_apart(1, 2, len(HOST)) == free
    assert os.sched_getaffinity(0) == HOST
