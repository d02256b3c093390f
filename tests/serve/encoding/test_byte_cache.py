import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_serve.encoding.byte_cache import ENTRY_BYTES, ByteCache, CacheStats


def test_what_was_used_least_recently_goes_first():
    cache = ByteCache(3 * (ENTRY_BYTES + 100))
    for key in "abc":
        cache.put(key, key.upper(), 100)
    assert cache.get("a") == "A"
    cache.put("d", "D", 100)
    assert [cache.get(key) for key in "abcd"] == ["A", None, "C", "D"]
    assert cache.stats == CacheStats(hits=4, misses=1, num_bytes=3 * (ENTRY_BYTES + 100), num_entries=3)


def test_a_key_is_held_once():
    cache = ByteCache(10_000)
    cache.put("a", 1, 100)
    cache.put("a", 2, 300)
    assert cache.get("a") == 2
    assert (cache.stats.num_bytes, cache.stats.num_entries) == (ENTRY_BYTES + 300, 1)


def test_what_is_larger_than_the_cache_drives_nothing_out():
    cache = ByteCache(5000)
    cache.put("small", 1, 10)
    cache.put("large", 2, 5000)
    assert (cache.get("small"), cache.get("large")) == (1, None)


def test_nothing_is_kept_without_room():
    cache = ByteCache(0)
    assert not cache
    cache.put("a", 1, 0)
    assert cache.get("a") is None
    assert ByteCache(10_000)


def test_a_negative_bound_is_refused():
    with pytest.raises(ValueError, match="-1"):
        ByteCache(-1)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000)), max_size=60))
def test_the_bound_holds_and_the_sum_is_right(puts):
    cache = ByteCache(4000)
    newest = {}
    for key, size in puts:
        cache.put(key, size, size)
        if size + ENTRY_BYTES <= 4000:
            newest[key] = size
        assert cache.stats.num_bytes <= 4000
    kept = {key: size for key in range(10) if (size := cache.get(key)) is not None}
    assert all(newest[key] == size for key, size in kept.items())
    assert cache.stats.num_bytes == sum(kept.values()) + ENTRY_BYTES * len(kept)
