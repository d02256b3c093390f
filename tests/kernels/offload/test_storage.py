"""The storage: memory stays within the budget, counts are right, bytes are what was written."""

import ctypes
import mmap
import resource

import pytest

from vlmoe_kernels.offload.storage import ExpertStorage

L, X = 3, 4
PAGES = 16
EXPERT = PAGES * mmap.PAGESIZE


def filled(room: int) -> tuple[ExpertStorage, list[int]]:
    """A storage whose experts are full of their numbers, and the addresses of these."""
    storage = ExpertStorage(L, X, EXPERT - 100, room * EXPERT)
    addresses = []
    for layer in range(L):
        for expert in range(X):
            place = storage.place(layer, expert)
            first, second = place(EXPERT // 2), place(EXPERT // 2)
            assert second.address == first.address + EXPERT // 2
            ctypes.memset(first.address, 10 * layer + expert, EXPERT)
            addresses.append(first.address)
        storage.written(layer, 0, X - 1)
    return storage, addresses


def experts_in_memory(addresses: list[int]) -> list[int]:
    """By mincore(2): wholly there."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    for number, address in enumerate(addresses):
        present = (ctypes.c_ubyte * PAGES)()
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(EXPERT), present) == 0
        if sum(page & 1 for page in present) == PAGES:
            found.append(number)
    return found


def test_memory_stays_within_the_budget() -> None:
    storage, addresses = filled(room=6)
    assert experts_in_memory(addresses) == []
    for _ in range(40):
        for layer in range(L):
            storage.need(layer, [0, 1, 3])
            there = experts_in_memory(addresses)
            assert {X * layer, X * layer + 1, X * layer + 3} <= set(there)
            assert len(there) <= 6
    counts = storage.take()
    assert counts.in_memory + counts.missed == 40 * L * 3
    assert counts.ahead == 0
    # beside the three that run, three others stay
    assert counts.in_memory > 40
    assert counts.read_bytes == counts.missed * EXPERT
    assert counts.resident_bytes <= counts.budget_bytes == 6 * EXPERT
    for number, address in enumerate(addresses):
        assert ctypes.string_at(address, EXPERT) == bytes([10 * (number // X) + number % X]) * EXPERT
    assert storage.take().missed == 0


def test_what_is_expected_comes_beside() -> None:
    storage, addresses = filled(room=8)
    storage.expect(0, [0, 1], at_once=True)
    storage.expect(1, [2], at_once=False)
    storage.need(0, [0, 1, 2])
    storage.need(1, [2, 3])
    assert set(experts_in_memory(addresses)) == {0, 1, 2, X + 2, X + 3}
    counts = storage.take()
    assert (counts.in_memory, counts.ahead, counts.missed) == (0, 3, 2)
    assert counts.read_bytes == 5 * EXPERT
    assert counts.wait_s > 0


def test_the_hottest_are_locked_as_far_as_the_system_allows() -> None:
    storage, _ = filled(room=8)
    for _ in range(50):
        for layer in range(L):
            storage.need(layer, [0, 1])
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    locked = storage.take().locked_bytes
    assert locked <= 4 * EXPERT
    assert (locked > 0) == (limit == resource.RLIM_INFINITY or limit >= EXPERT)
    # they can be let go all the same
    for _ in range(200):
        for layer in range(L):
            storage.need(layer, [2, 3])
    assert storage.take().resident_bytes <= 8 * EXPERT


def test_a_budget_below_one_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"does not hold the 4 experts of one block: at least 1 MB"):
        ExpertStorage(L, X, EXPERT, 3 * EXPERT)


def test_a_limit_on_locked_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (EXPERT + 1, EXPERT + 1))
    storage, _ = filled(room=8)
    for _ in range(20):
        for layer in range(L):
            storage.need(layer, [0, 1])
    assert storage.take().locked_bytes <= EXPERT
