from dataclasses import replace

import pytest

from peers.results import Figures, Results, Trial, rotated

FIGURES = Figures(
    start_s=2.0,
    pss_mb=300.0,
    alone_p50_ms=8.0,
    alone_p99_ms=12.0,
    many_rate=250.0,
    many_p50_ms=120.0,
    many_p99_ms=180.0,
    many_failed=0,
    cpu_ms=4.0,
    client_cpu_ms=0.3,
    good=[200.0, 190.0],
)


def test_every_round_begins_with_another_and_has_all():
    names = ["a", "b", "c"]
    assert [rotated(names, number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_medians_are_of_each_figure_by_itself():
    results = Results()
    for number, (rate, good) in enumerate([(100.0, [3.0, 7.0]), (300.0, [2.0, 8.0]), (200.0, [1.0, 9.0])]):
        results.add(Trial(number, "one", "1.0", replace(FIGURES, many_rate=rate, good=good)))
    middle = results.medians("one")
    assert (middle.many_rate, middle.good, middle.pss_mb) == (200.0, [2.0, 8.0], 300.0)
    with pytest.raises(ValueError, match="two was not measured"):
        results.medians("two")


def test_a_file_is_added_to(tmp_path):
    path = tmp_path / "deep" / "results.json"
    first = Results.read(path)
    first.capacity = 250.0
    first.skipped["two"] = "not installed"
    first.add(Trial(0, "one", "1.0", FIGURES))
    first.write(path)
    second = Results.read(path)
    assert second == first
    second.add(Trial(0, "two", "2.0", FIGURES))
    second.write(path)
    assert Results.read(path).skipped == {}
    assert [trial.system for trial in Results.read(path).trials] == ["one", "two"]


def test_a_round_that_is_measured_again_counts_once():
    results = Results()
    results.add(Trial(0, "one", "1.0", FIGURES))
    results.add(Trial(0, "one", "1.0", replace(FIGURES, cpu_ms=9.0)))
    assert [trial.figures.cpu_ms for trial in results.of("one")] == [9.0]
    assert (results.has(0, "one"), results.has(1, "one")) == (True, False)
