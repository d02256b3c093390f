from itertools import pairwise

import pytest

from vlmoe_loadtests.arrivals import ARRIVALS, bursts, poisson, recorded


@pytest.mark.parametrize("name", sorted(ARRIVALS))
def test_arrivals_ascend_within_the_time_at_the_rate(name):
    times = list(ARRIVALS[name](200.0, 20.0, 7))
    assert all(one <= other for one, other in pairwise(times))
    assert times[0] >= 0
    assert times[-1] < 20.0
    assert len(times) == pytest.approx(4000, rel=0.05)
    assert times == list(ARRIVALS[name](200.0, 20.0, 7))


def test_gaps_of_poisson_arrivals_vary_as_much_as_they_are_long():
    times = list(poisson(100.0, 100.0, 1))
    gaps = [other - one for one, other in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 == pytest.approx(mean, rel=0.1)


def test_four_fifths_of_a_burst_come_in_a_fifth_of_the_time():
    times = list(bursts(100.0, 100.0, 1))
    inside = sum(time % 2.0 < 0.4 for time in times)
    assert inside / len(times) == pytest.approx(0.8, abs=0.03)


def test_recorded_arrivals_begin_at_zero(tmp_path):
    file = tmp_path / "arrivals.csv"
    file.write_text("12.5,/vqa\n10.0,/embed\n11.0\n")
    assert recorded(file) == [0.0, 1.0, 2.5]


@pytest.mark.parametrize(("text", "problem"), [("1.0\nsoon\n", ":2: not a number"), ("", "no arrivals")])
def test_a_file_that_holds_no_arrivals_is_refused(tmp_path, text, problem):
    file = tmp_path / "arrivals"
    file.write_text(text)
    with pytest.raises(ValueError, match=problem):
        recorded(file)
