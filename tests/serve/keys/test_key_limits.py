import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_serve.errors import Overloaded, retry_after
from vlmoe_serve.keys.key_limits import KeyLimits


def test_without_limits_everything_enters():
    limits = KeyLimits()
    assert not limits
    for _ in range(1000):
        limits.enter("a", 0.0)


def test_a_key_has_so_many_requests_at_a_time_and_others_have_theirs():
    limits = KeyLimits(max_concurrent=2)
    limits.enter("a", 0.0)
    limits.enter("a", 0.0)
    with pytest.raises(Overloaded, match="2 requests in flight, the limit is 2") as caught:
        limits.enter("a", 0.0)
    assert caught.value.code == "key_concurrency"
    assert retry_after(caught.value) == 1
    limits.enter("b", 0.0)
    limits.leave("a", 1.0)
    limits.enter("a", 0.0)


def test_the_wait_follows_how_long_its_requests_take():
    limits = KeyLimits(max_concurrent=1)
    for _ in range(50):
        limits.enter("a", 0.0)
        limits.leave("a", 30.0)
    limits.enter("a", 0.0)
    with pytest.raises(Overloaded) as caught:
        limits.enter("a", 0.0)
    assert 29 <= retry_after(caught.value) <= 30


def test_retry_after_is_true_for_a_rate():
    limits = KeyLimits(max_rate=0.2)
    limits.enter("a", 100.0)
    with pytest.raises(Overloaded) as caught:
        limits.enter("a", 101.0)
    assert caught.value.code == "key_rate"
    assert caught.value.retry_after_s == pytest.approx(4.0)
    with pytest.raises(Overloaded):
        limits.enter("a", 101.0 + 3.9)
    limits.enter("a", 101.0 + 4.0 + 1e-9)


def test_a_refused_request_holds_nothing():
    limits = KeyLimits(max_concurrent=1, max_rate=1.0)
    limits.enter("a", 0.0)
    for _ in range(5):
        with pytest.raises(Overloaded):
            limits.enter("a", 0.5)
    limits.leave("a", 0.1)
    limits.enter("a", 1.0)


@given(
    st.floats(0.1, 50),
    st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_no_more_than_the_rate_and_one_burst_enter(rate, gaps):
    limits, now_s, entered = KeyLimits(max_rate=rate), 0.0, 0
    for gap in gaps:
        now_s += gap
        try:
            limits.enter("a", now_s)
        except Overloaded:
            continue
        entered += 1
        limits.leave("a", 0.0)
    assert entered <= max(1.0, rate) + rate * now_s + 1e-6
