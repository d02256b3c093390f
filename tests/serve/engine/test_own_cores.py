"""Which cores a rank keeps to, and for how long."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vlmoe_serve.engine.own_cores import Crowding, keep_apart, shares_of_cores

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


def test_who_waits_for_its_own_cores_leaves_them_for_longer_and_longer() -> None:
    crowding = Crowding()
    assert crowding.saw(0.01, 0.08, 0.0), "too little to judge by"
    assert not crowding.saw(0.05, 0.0, 0.1)
    assert not crowding.saw(1.0, 0.0, 1.0)
    assert crowding.saw(0.1, 0.5, 1.1), "back after a second, and what it met elsewhere does not count"
    assert not crowding.saw(0.1, 0.1, 1.2)
    assert not crowding.saw(0.1, 0.0, 3.1)
    assert crowding.saw(0.1, 0.0, 3.2), "after two"
    for _ in range(2):
        assert crowding.saw(0.1, 0.04, 4.0), "not crowded"
    assert not crowding.saw(0.1, 0.1, 5.0)
    assert crowding.saw(0.1, 0.0, 6.0), "after one again"


def test_the_longest_time_elsewhere_is_a_minute() -> None:
    crowding, now_s = Crowding(), 0.0
    for _ in range(12):
        assert not crowding.saw(0.1, 1.0, now_s)
        now_s += 60.0
        assert crowding.saw(0.1, 0.0, now_s)


def test_a_rank_keeps_to_its_share_with_all_its_threads(tmp_path: Path) -> None:
    # every other core is a thread of the same one
    for core in HOST:
        topology = tmp_path / f"cpu{core}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{core % 2}\n")
    torch.set_num_threads(1)
    num = min(2, len(HOST))
    end = threading.Event()
    other, borrowed = (threading.Thread(target=end.wait) for _ in range(2))
    other.start()
    try:
        cores = keep_apart(0, num, 1, tmp_path)
        assert cores.host == HOST
        assert cores.own == set(sorted(HOST, key=lambda core: (core % 2, core))[: -(-len(HOST) // num)])
        assert os.sched_getaffinity(0) == os.sched_getaffinity(other.native_id) == cores.own
        with cores.batch():
            assert os.sched_getaffinity(0) == cores.own
        borrowed.start()
        with cores.batch(lent=2):
            assert os.sched_getaffinity(0) == os.sched_getaffinity(other.native_id) == cores.own
            assert os.sched_getaffinity(borrowed.native_id) == (HOST - cores.own or HOST)
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
    finally:
        end.set()
        for thread in (other, borrowed):
            thread.join()


def test_a_batch_that_fails_leaves_everything_as_it_was() -> None:
    cores = keep_apart(0, min(2, len(HOST)), 1)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="lost"), cores.batch(lent=3):
        raise RuntimeError("lost")
    assert os.sched_getaffinity(0) == cores.own
    assert torch.get_num_threads() == before


def test_too_few_cores_and_single_ranks_are_left_to_linux() -> None:
    for cores in (keep_apart(0, 1, 1), keep_apart(1, 2, len(HOST))):
        assert cores.own == cores.host == HOST
    assert os.sched_getaffinity(0) == HOST
