import math

import pytest

from vlmoe_serve.batching.cost import Estimator, Sample
from vlmoe_serve.batching.release import LEAD_SHARE
from vlmoe_serve.batching.schedule import Departure, Schedule
from vlmoe_serve.batching.ticket import Ticket, Work


def schedule(fixed_ms: float, token_ms: float) -> Schedule:
    made = Schedule(100.0, 5000)
    works = [Work(count * length, count * length**2) for count in (1, 4, 16) for length in (10, 40, 90)]
    made.estimator = Estimator([Sample(work, fixed_ms + token_ms * work.tokens) for work in works * 4])
    return made


def ticket(number: int, tokens: int, arrival_s: float, deadline_s: float | None = None) -> Ticket:
    return Ticket(number, (), Work(tokens, 0), arrival_s, deadline_s=deadline_s)


def departed(found: Departure | float | None) -> Departure:
    assert isinstance(found, Departure)
    return found


@pytest.mark.parametrize(
    ("fixed_ms", "token_ms", "fits"),
    [
        # 100 ms at 0.1 ms a token.
        (1.0, 0.1, 990),
        # The fixed cost alone would be a third of 100 ms: batches are longer here.
        (30.0, 0.1, 3000),
        # On a fast device memory is the limit.
        (1.0, 0.001, 5000),
    ],
)
def test_a_batch_is_worth_its_fixed_cost(fixed_ms: float, token_ms: float, fits: int) -> None:
    budget = schedule(fixed_ms, token_ms).budget
    assert budget.allows(Work(int(0.85 * fits), 0))
    assert not budget.allows(Work(int(1.6 * fits), 0))


def test_an_empty_queue_means_no_wait_and_nothing_to_do() -> None:
    made = schedule(5.0, 0.1)
    assert made.wait_ms(3.0, "batch") == 0
    assert made.step(3.0) is None


def test_one_runs_one_is_prepared_and_no_third_is_cut() -> None:
    made = schedule(1.0, 0.1)
    made.add(ticket(0, 200, 10.0))
    first = departed(made.step(10.0))
    assert (first.reason, first.predicted_ms) == ("idle", pytest.approx(21.0, rel=0.05))
    made.add(ticket(1, 200, 10.001))
    at_s = made.step(10.001)
    # cut as late as it can be without the engine waiting for it
    assert at_s == pytest.approx(10.0 + first.predicted_ms / 1000 * (1 - LEAD_SHARE))
    second = departed(made.step(at_s))
    assert second.reason == "lead"
    made.add(ticket(2, 200, 10.02))
    assert made.step(10.02) is None
    assert made.land(first, 10.021) == 10.0
    # the second one began when the first was done
    made.step(10.03)
    assert made.land(second, 10.042) == 10.021


def test_the_predicted_wait_is_what_runs_what_is_prepared_and_what_waits() -> None:
    made = schedule(1.0, 0.1)
    made.add(ticket(0, 200, 10.0))
    departed(made.step(10.0))
    assert made.wait_ms(10.005, "normal") == pytest.approx(16.0, rel=0.05)
    made.add(ticket(1, 300, 10.005))
    assert made.wait_ms(10.005, "normal") == pytest.approx(16.0 + 31.0, rel=0.05)
    assert made.wait_ms(10.005, "interactive") == pytest.approx(16.0, rel=0.05)
    assert made.wait_ms(10.005, "normal", 12.0) == pytest.approx(16.0, rel=0.05)


def test_after_the_predicted_wait_a_newcomer_waits_for_nobody() -> None:
    """What Retry-After promises: with nothing new in between, the queue gets shorter by a second a second."""
    made = schedule(1.0, 0.1)
    for number in range(40):
        made.add(ticket(number, 200, 10.0))
    flights: list[Departure] = []
    ends_s, now_s = 10.0, 10.0
    asked_ms = made.wait_ms(now_s, "normal")
    while len(made.pending) or flights:
        if isinstance(found := made.step(now_s), Departure):
            ends_s = max(ends_s, now_s) + found.predicted_ms / 1000
            flights.append(found)
            continue
        head_s = flights[0].predicted_ms / 1000 + max(flights[0].sent_s, made._last_landed_s)
        now_s = head_s if found is None else min(found, head_s)
        if now_s == head_s:
            made.land(flights.pop(0), now_s)
        # at every moment: what was predicted, less what has passed, to within one batch's fixed cost
        left_ms = asked_ms - 1000 * (now_s - 10.0)
        assert made.wait_ms(now_s, "normal") <= left_ms + 5.0
    assert 1000 * (now_s - 10.0) == pytest.approx(asked_ms, rel=0.05)


def test_a_loop_that_is_late_is_given_more_time() -> None:
    made = schedule(1.0, 0.1)
    now_s = 10.0
    for number in range(200):
        made.add(ticket(2 * number, 200, now_s))
        first = departed(made.step(now_s))
        made.add(ticket(2 * number + 1, 200, now_s + 0.001))
        at_s = made.step(now_s + 0.001)
        assert isinstance(at_s, float)
        lead_s = now_s + first.predicted_ms / 1000 - at_s
        second = departed(made.step(at_s + 0.004))
        made.land(first, at_s + 0.005)
        made.land(second, at_s + 0.03)
        now_s = at_s + 1.0
    assert lead_s == pytest.approx(0.008, rel=0.05)


def test_those_who_expired_while_they_waited_are_reported_without_a_batch() -> None:
    made = schedule(1.0, 0.1)
    made.add(ticket(0, 10, 10.0, deadline_s=10.5))
    found = departed(made.step(11.0))
    assert (found.cut.tickets, [one.id for one in found.cut.expired]) == ((), [0])
    assert made.step(11.0) is None
    assert made.wait_ms(11.0, "normal") == 0


def test_where_arrivals_are_dense_and_batches_dear_it_waits_for_one_more() -> None:
    made = schedule(8.0, 0.01)
    now_s = 10.0
    for number in range(50):
        now_s += 0.0005
        made.add(ticket(number, 10, now_s))
        if isinstance(found := made.step(now_s), Departure):
            made.land(found, now_s)
    while isinstance(found := made.step(now_s + 0.01), Departure):
        made.land(found, now_s + 0.01)
    now_s += 0.0105
    made.add(ticket(100, 10, now_s))
    made.add(ticket(101, 10, now_s + 0.0005))
    at_s = made.step(now_s + 0.0005)
    assert isinstance(at_s, float)
    assert now_s < at_s < now_s + 0.01
    held = departed(made.step(at_s))
    assert held.reason == "waited"
    assert math.isfinite(held.predicted_ms)


def test_a_margin_keeps_newcomers_away_from_their_deadline_but_never_from_an_idle_engine() -> None:
    made = schedule(1.0, 0.1)
    idle = made.excess_ms(0.0, "normal", 0.2, 2000.0, margin_ms=5000.0)
    assert idle[2] <= 0
    for number in range(4):
        made.add(ticket(number, 200, 0.0, 0.19))
    wait_ms, answer_ms, excess_ms = made.excess_ms(0.0, "normal", 0.2, 2000.0)
    assert 0 < wait_ms < answer_ms
    assert made.excess_ms(0.0, "normal", 0.2, 2000.0, margin_ms=30.0)[2] == pytest.approx(excess_ms + 30.0)
    # half of the time that there is can always be used
    assert made.excess_ms(0.0, "normal", 0.2, 2000.0, margin_ms=5000.0)[2] == pytest.approx(excess_ms + 100.0)
    assert made.excess_ms(0.0, "normal", None, 2000.0, margin_ms=5000.0)[2] < 0
