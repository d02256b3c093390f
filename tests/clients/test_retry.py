import pytest

from vlmoe_client import (
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    Overloaded,
    Retry,
    ServerError,
    Unavailable,
)

DEFAULT = Retry()


def overloaded(retry_after_s=None):
    return Overloaded("busy", status=429, code="overloaded", retry_after_s=retry_after_s)


def wait(
    error, *, retry=DEFAULT, attempt=1, remaining_s=None, repeatable=True, uniform=lambda low, high: high
):
    return retry.wait_s(
        error, attempt=attempt, remaining_s=remaining_s, repeatable=repeatable, uniform=uniform
    )


def test_the_bound_of_the_random_wait_doubles_up_to_its_cap():
    patient = Retry(attempts=5000, base_s=0.25, cap_s=8.0)
    assert [wait(overloaded(), retry=patient, attempt=n) for n in (1, 2, 3, 6, 7, 4000)] == [
        0.25,
        0.5,
        1,
        8,
        8,
        8,
    ]


def test_the_jitter_is_full():
    assert wait(overloaded(), uniform=lambda low, high: low) == 0.0


def test_retry_after_is_the_least_wait():
    assert wait(overloaded(3.0), uniform=lambda low, high: low) == 3.0
    assert wait(overloaded(3.0)) == 3.25
    assert wait(overloaded(61.0)) is None


def test_it_ends_with_the_attempts_and_with_the_time():
    assert wait(overloaded(), attempt=4) is None
    assert wait(overloaded(), attempt=3) is not None
    assert wait(overloaded(), remaining_s=0.2) is None
    assert wait(overloaded(), remaining_s=0.3) == 0.25
    assert wait(overloaded(), retry=Retry(attempts=1)) is None


def test_what_is_tried_again():
    assert wait(ConnectFailed("no"), repeatable=False) is not None
    assert wait(ConnectionLost("cut")) is not None
    assert wait(ConnectionLost("cut"), repeatable=False) is None
    assert wait(Unavailable("starting", status=503, code="not_ready")) is not None
    assert wait(Unavailable("crashed twice", status=503, code="request_failed")) is None
    assert wait(CallTimeout("late")) is None
    assert wait(ServerError("bug", status=500, code="internal")) is None


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Retry(attempts=0)
    with pytest.raises(ValueError, match="not be negative"):
        Retry(base_s=-1)
