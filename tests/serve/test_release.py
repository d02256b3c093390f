import pytest

from vlmoe_serve.release import LEAD_SHARE, MIN_LEAD_S, Release, next_release


def test_an_idle_engine_gets_its_batch_at_once() -> None:
    assert next_release(5.0, num_in_flight=0, head_ends_s=9.0, head_s=1.0, is_full=False) == Release(
        5.0, "idle"
    )


@pytest.mark.parametrize(("head_s", "lead_s"), [(0.001, MIN_LEAD_S), (2.0, 2.0 * LEAD_SHARE)])
@pytest.mark.parametrize(("is_full", "reason"), [(False, "lead"), (True, "full")])
def test_the_next_batch_is_cut_just_before_the_running_one_ends(
    is_full: bool, reason: str, head_s: float, lead_s: float
) -> None:
    release = next_release(5.0, num_in_flight=1, head_ends_s=9.0, head_s=head_s, is_full=is_full)
    assert release is not None
    assert release.at_s == pytest.approx(9.0 - lead_s)
    assert release.reason == reason


def test_an_overdue_batch_is_waited_for_no_longer() -> None:
    assert next_release(5.0, num_in_flight=1, head_ends_s=4.0, head_s=1.0, is_full=False) == Release(
        5.0, "lead"
    )


def test_no_third_batch_is_cut() -> None:
    assert next_release(5.0, num_in_flight=2, head_ends_s=4.0, head_s=1.0, is_full=True) is None
