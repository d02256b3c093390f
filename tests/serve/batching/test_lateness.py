import math
import random

import pytest

from vlmoe_serve.batching.lateness import Lateness


def fed(errors, promised_ms=100.0):
    lateness = Lateness()
    for error_ms in errors:
        lateness.observe(promised_ms, promised_ms + error_ms)
    return lateness.margin_ms


def test_promises_that_are_kept_leave_no_margin():
    assert fed([-20.0, -1.0, 0.0] * 50) == 0.0


@pytest.mark.parametrize("spread_ms", [5.0, 30.0])
def test_it_finds_the_quantile(spread_ms):
    noise = random.Random(1)
    margin_ms = fed([noise.uniform(0.0, spread_ms) for _ in range(20_000)])
    assert margin_ms == pytest.approx(0.99 * spread_ms, rel=0.15)


def test_a_machine_that_is_quiet_again_is_believed_again():
    assert fed([60.0] * 300) > 50.0
    assert fed([60.0] * 300 + [0.0] * 8000) == 0.0


def test_answers_that_never_came_count_as_late_and_not_for_ever():
    assert 0.0 < fed([math.inf] * 10) < 100.0


def test_steps_are_in_proportion_to_what_was_promised():
    assert fed([math.inf], 1000.0) == pytest.approx(10 * fed([math.inf], 100.0))
