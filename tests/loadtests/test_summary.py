import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_loadtests.records import Record
from vlmoe_loadtests.summary import aligned, percentile, summarize, table


def record(due_s, latency_ms, status=200, **more):
    return Record("vqa", 1, due_s, due_s + 0.001, due_s + latency_ms / 1000, status, **more)


def test_goodput_counts_what_was_answered_in_time():
    records = [record(1, 100), record(2, 200), record(3, 300), record(4, 5, status=429)]
    records += [record(5, 1000, status=0, error="timeout"), record(6, 250, encode_ms=2.0)]
    summary = summarize(records, 10.0, objective_ms=250.0)
    assert (summary.num, summary.offered, summary.throughput, summary.goodput) == (6, 0.6, 0.4, 0.3)
    assert summary.outcomes == {"ok": 4, "429": 1, "timeout": 1}
    assert summary.percentiles_ms[50] == pytest.approx(200)
    assert summary.percentiles_ms[99] == pytest.approx(300)
    assert summary.late_ms == pytest.approx(1.0)


def test_inputs_of_a_batch_count_each():
    batch = Record("batch", 16, 1.0, 1.0, 1.1, 200)
    assert summarize([batch], 2.0, 250.0).goodput == 8.0


def test_the_warm_up_does_not_count():
    summary = summarize([record(0.5, 9000), record(2, 10)], 5.0, 250.0, skip_s=1.0)
    assert (summary.num, summary.seconds, summary.percentiles_ms[99]) == (1, 4.0, pytest.approx(10))


def test_without_a_request_there_is_nothing_to_say():
    with pytest.raises(ValueError, match="no request"):
        summarize([record(0.5, 1)], 5.0, 250.0, skip_s=1.0)


def test_where_nothing_was_answered_there_are_no_percentiles():
    assert math.isnan(summarize([record(1, 5, status=429)], 2.0, 250.0).percentiles_ms[50])


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.1, 100))
def test_so_many_percent_do_not_exceed_a_percentile(values, percent):
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert sum(value <= found for value in ordered) >= percent / 100 * len(ordered) - 1e-9
    assert sum(value < found for value in ordered) < percent / 100 * len(ordered) + 1e-9


def test_a_table_has_a_line_a_run():
    lines = table([("0.7 x", summarize([record(1, 5)], 2.0, 250.0))]).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("0.7 x")
    assert lines[1].endswith("ok 1")


def test_columns_are_aligned():
    assert aligned([["a", "bb", "c"], ["aaa", "b", "cc"]]) == "a    bb  c\naaa   b  cc"
