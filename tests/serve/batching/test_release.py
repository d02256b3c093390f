import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_serve.batching.release import LEAD_SHARE, MIN_LEAD_S, Crowd, Release, Running, next_release

IDLE = Running(0, 5.0, 0.0)
# One waits, arrived now; a batch costs 8 ms and 1 ms a ticket; the next is not expected soon.
LONELY = Crowd(
    num_waiting=1,
    is_full=False,
    first_s=5.0,
    last_s=5.0,
    start_by_s=float("inf"),
    gap_s=0.5,
    fixed_s=0.008,
    ticket_s=0.001,
)
BUSY = dataclasses.replace(LONELY, gap_s=0.001)


def running(ends_s: float, takes_s: float, *, num_in_flight: int = 1, late_s: float = 0.0) -> Running:
    return Running(num_in_flight, ends_s, takes_s, late_s)


def test_an_idle_engine_gets_its_batch_at_once() -> None:
    assert next_release(5.0, IDLE, LONELY) == Release(5.0, "idle")


def test_where_the_next_is_expected_soon_waiting_for_it_pays() -> None:
    # (8 ms - 1 ms) / 2: by then what is lost is as much as would have been won
    assert next_release(5.0, IDLE, BUSY) == Release(pytest.approx(5.0035), "waited")


def test_when_the_next_does_not_come_the_wait_is_over() -> None:
    crowd = dataclasses.replace(BUSY, held=True)
    assert next_release(5.0036, IDLE, crowd) == Release(5.0036, "waited")


def test_nobody_waits_longer_than_the_batch_that_would_be_saved() -> None:
    crowd = dataclasses.replace(BUSY, first_s=4.9935, held=True)
    assert next_release(5.0, IDLE, crowd) == Release(pytest.approx(5.0015), "waited")


def test_nobody_waits_past_the_moment_when_it_must_be_started() -> None:
    crowd = dataclasses.replace(BUSY, start_by_s=5.001)
    assert next_release(5.0, IDLE, crowd) == Release(5.001, "waited")
    assert next_release(5.0, IDLE, dataclasses.replace(BUSY, start_by_s=4.0)) == Release(5.0, "idle")


@pytest.mark.parametrize(
    "change",
    [{"is_full": True}, {"ticket_s": 0.009}, {"fixed_s": 0.002}, {"num_waiting": 8, "gap_s": 1e-6}],
    ids=["full", "dear tickets", "cheap batches", "a crowd"],
)
def test_waiting_does_not_pay(change: dict[str, float]) -> None:
    assert next_release(5.0, IDLE, dataclasses.replace(BUSY, **change)) == Release(5.0, "idle")


@given(st.integers(1, 50), st.floats(1e-5, 0.1), st.floats(1e-5, 0.1), st.floats(1e-5, 0.1))
def test_it_waits_exactly_when_the_sum_of_all_latencies_gets_smaller(
    num_waiting: int, gap_s: float, fixed_s: float, ticket_s: float
) -> None:
    k = num_waiting
    now_s = k * (fixed_s + k * ticket_s) + (2 * fixed_s + (k + 1) * ticket_s - gap_s)
    held_s = k * (gap_s + fixed_s + (k + 1) * ticket_s) + (fixed_s + (k + 1) * ticket_s)
    crowd = dataclasses.replace(LONELY, num_waiting=k, gap_s=gap_s, fixed_s=fixed_s, ticket_s=ticket_s)
    if abs(now_s - held_s) > 1e-9:
        assert (crowd.patience_s() > 0) == (held_s < now_s)


@pytest.mark.parametrize(("takes_s", "lead_s"), [(0.001, MIN_LEAD_S), (2.0, 2.0 * LEAD_SHARE)])
@pytest.mark.parametrize(("is_full", "reason"), [(False, "lead"), (True, "full")])
def test_the_next_batch_is_cut_just_before_the_running_one_ends(
    is_full: bool, reason: str, takes_s: float, lead_s: float
) -> None:
    crowd = dataclasses.replace(BUSY, is_full=is_full)
    assert next_release(5.0, running(9.0, takes_s), crowd) == Release(pytest.approx(9.0 - lead_s), reason)


def test_a_loop_whose_timers_are_late_cuts_earlier() -> None:
    release = next_release(5.0, running(9.0, 0.001, late_s=0.004), LONELY)
    assert release == Release(pytest.approx(9.0 - 0.008), "lead")


def test_an_overdue_batch_is_waited_for_no_longer() -> None:
    assert next_release(5.0, running(4.0, 1.0), LONELY) == Release(5.0, "lead")


def test_no_third_batch_is_cut() -> None:
    full = dataclasses.replace(LONELY, is_full=True)
    assert next_release(5.0, running(4.0, 1.0, num_in_flight=2), full) is None
