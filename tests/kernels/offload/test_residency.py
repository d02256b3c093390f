"""Who stays in memory: invariants under any traffic, and what that traffic gains."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_kernels.offload.residency import Key, Residency

L, X = 3, 5
SETS = st.lists(st.sets(st.integers(0, X - 1)), min_size=2 * L, max_size=2 * L)


@given(st.integers(X, L * X + 2), st.lists(SETS, min_size=1, max_size=8), st.booleans())
def test_what_is_used_is_there_and_never_more_than_fits(
    room: int, rounds: list[list[set[int]]], at_once: bool
) -> None:
    policy = Residency(L, X, room)
    there: set[Key] = set()
    expected: set[Key] = set()
    for sets in rounds:
        for layer in range(L):
            used, predicted = sets[layer], sets[L + layer]
            before = set(there)
            if at_once and layer == 0:
                moves = policy.expect(0, sorted(predicted), is_idle=True)
                assert set(moves.evict) <= there
                assert not {(0, x) for x in predicted} & set(moves.evict)
                there = there - set(moves.evict) | set(moves.fetch)
                before = set(there)
            moves = policy.need(layer, sorted(used))
            keys = {(layer, x) for x in used}
            assert set(moves.fetch) == keys - before
            assert set(moves.evict) <= before - keys
            assert moves.hits == len(keys & before)
            assert moves.ahead <= moves.hits
            there = there - set(moves.evict) | set(moves.fetch)
            assert keys <= there == policy.resident()
            assert len(there) <= room
            following = (layer + 1) % L
            moves = policy.expect(following, sorted(predicted))
            expected = {(following, x) for x in predicted}
            assert set(moves.fetch) <= expected - there
            assert set(moves.evict) <= there - keys - expected
            there = there - set(moves.evict) | set(moves.fetch)
            assert there == policy.resident()
            assert len(there) <= room
    hottest = policy.hottest(2)
    assert len(hottest) == min(2, len(there))
    assert set(hottest) <= there


def hit_rate(policy: Residency, batches: list[list[list[int]]], skip: int) -> float:
    hits = uses = 0
    for number, batch in enumerate(batches):
        for layer, used in enumerate(batch):
            moves = policy.need(layer, used)
            if number >= skip:
                hits, uses = hits + moves.hits, uses + len(used)
    return hits / uses


def test_batches_that_use_everything_find_what_fits_beside_one_mixture() -> None:
    """Least recently used would find nothing: it lets go what comes next."""
    batch = [list(range(X))] * 4
    assert hit_rate(Residency(4, X, 2 * X), [batch] * 20, 5) == pytest.approx(1 / 3, abs=0.05)
    assert hit_rate(Residency(4, X, 4 * X), [batch] * 20, 1) == 1.0


def test_popular_experts_stay() -> None:
    rng = np.random.default_rng(0)
    popularity = np.arange(1, 33) ** -1.2
    popularity /= popularity.sum()
    batches = [[sorted(set(rng.choice(32, 12, p=popularity).tolist())) for _ in range(4)] for _ in range(400)]
    assert hit_rate(Residency(4, 32, 64), batches, 50) > 0.75
    # and others come in their place when the traffic changes
    policy = Residency(4, 32, 64)
    hit_rate(policy, batches, 0)
    turned = [[[31 - x for x in used] for used in batch] for batch in batches]
    assert hit_rate(policy, turned, 100) > 0.75


def test_a_mixture_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="the 5 experts of one mixture, not for 4"):
        Residency(L, X, 4)


def test_nothing_as_near_goes_for_what_is_only_expected() -> None:
    policy = Residency(2, 2, 2)
    policy.need(0, [0, 1])
    assert policy.expect(1, [0, 1]).fetch == ()
    assert policy.expect(1, [0, 1], is_idle=True).fetch == ((1, 0), (1, 1))
    moves = policy.need(1, [0])
    assert (moves.hits, moves.ahead) == (1, 1)
    # the second time it is simply there
    moves = policy.need(1, [0])
    assert (moves.hits, moves.ahead) == (1, 0)
