import pytest

from vlmoe_serve.bench.timing import MIN_TURNS, Times, interleaved


class Clock:
    """Time that passes when something is done."""

    def __init__(self) -> None:
        self.now_s, self.done = 0.0, []

    def op(self, name, seconds):
        def run():
            self.done.append(name)
            self.now_s += seconds

        return run

    def __call__(self):
        return self.now_s


def test_columns_take_turns():
    clock = Clock()
    times = interleaved({"a": clock.op("a", 1.0), "b": clock.op("b", 2.0)}, 30.0, clock)
    assert clock.done == ["a", "b"] * 11
    assert (times["a"].turns, times["b"].turns) == ((1.0,) * 10, (2.0,) * 10)


def test_long_ones_have_some_turns_all_the_same():
    clock = Clock()
    assert len(interleaved({"a": clock.op("a", 60.0)}, 1.0, clock)["a"].turns) == MIN_TURNS


def test_median_and_spread():
    times = Times((4.0, 1.0, 2.0, 3.0, 90.0))
    assert (times.median_s, times.best_s) == (3.0, 1.0)
    assert times.spread == pytest.approx((47.0 - 1.5) / 3.0)
