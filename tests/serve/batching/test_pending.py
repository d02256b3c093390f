import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_serve.batching.cost import CostModel
from vlmoe_serve.batching.pending import AGEING_S, PATIENCE_S, Budget, Pending
from vlmoe_serve.batching.ticket import PRIORITIES, Priority, Ticket, Work

BUDGET = Budget(CostModel(1.0, 0.1, 0.0), max_ms=11.0, max_tokens=80)
assert BUDGET.allows(Work(80, 0))
assert not BUDGET.allows(Work(81, 0))


def ticket(
    number: int,
    tokens: int = 10,
    *,
    arrival_s: float = 0.0,
    priority: Priority = "normal",
    deadline_s: float | None = None,
) -> Ticket:
    return Ticket(number, (), Work(tokens, tokens * tokens), arrival_s, priority, deadline_s)


tickets = st.lists(
    st.builds(
        ticket,
        st.just(0),
        st.integers(1, 120),
        arrival_s=st.floats(0, 10),
        priority=st.sampled_from(PRIORITIES),
        deadline_s=st.none() | st.floats(0, 20),
    ),
    max_size=40,
).map(lambda drawn: [dataclasses.replace(one, id=number) for number, one in enumerate(drawn)])


def queue(*waiting: Ticket) -> Pending:
    pending = Pending()
    for one in waiting:
        pending.add(one)
    return pending


def ids(found: tuple[Ticket, ...]) -> list[int]:
    return [one.id for one in found]


def cannot_be_kept(one: Ticket, start_s: float, waiting: Work) -> bool:
    """By a batch of its own, or, where more waits than one batch holds, by one that is worth its fixed cost."""
    assert one.deadline_s is not None
    least_ms = 0.0 if BUDGET.allows(waiting) else BUDGET.efficient_ms
    return start_s + max(BUDGET.cost.batch_ms(one.work), least_ms) / 1000 > one.deadline_s


@given(tickets, st.sets(st.integers(0, 39)), st.lists(st.floats(0, 5), min_size=1, max_size=5))
def test_every_ticket_comes_out_exactly_once(
    waiting: list[Ticket], gone: set[int], steps: list[float]
) -> None:
    pending = queue(*waiting)
    out: Counter[int] = Counter()
    for number in gone:
        if pending.discard(number):
            out[number] += 1
    now_s, round_number = 10.0, 0
    while len(pending):
        now_s += steps[round_number % len(steps)]
        round_number += 1
        before, work = len(pending), pending.work
        cut = pending.cut(now_s, BUDGET)
        assert not gone.intersection(ids(cut.tickets)), "a cancelled ticket was cut"
        assert all(one.deadline_s is None or one.deadline_s > now_s for one in cut.tickets), (
            "an expired one was cut"
        )
        assert all(cannot_be_kept(one, now_s, work) for one in cut.expired)
        assert cut.work == sum((one.work for one in cut.tickets), Work())
        assert BUDGET.allows(cut.work) or len(cut.tickets) == 1
        out.update(ids(cut.tickets + cut.expired))
        assert len(pending) < before, "a cut that took nothing would wait for ever"
    assert out == Counter(one.id for one in waiting)
    assert pending.work == Work()


@given(tickets, st.floats(0, 10))
def test_the_first_of_a_cut_is_the_most_urgent_that_can_be_served(
    waiting: list[Ticket], now_s: float
) -> None:
    young = [dataclasses.replace(one, arrival_s=now_s) for one in waiting]
    alive = [one for one in young if one.deadline_s is None or one.deadline_s > now_s]
    work = sum((one.work for one in young), Work())
    served = [one for one in alive if one.deadline_s is None or not cannot_be_kept(one, now_s, work)]

    def urgency(one: Ticket) -> tuple[int, float]:
        due_s = now_s + PATIENCE_S if one.deadline_s is None else min(one.deadline_s, now_s + PATIENCE_S)
        return PRIORITIES.index(one.priority), due_s

    cut = queue(*young).cut(now_s, BUDGET)
    assert bool(cut.tickets) == bool(alive)
    if alive:
        assert urgency(cut.tickets[0]) == min(map(urgency, served or alive))


@given(tickets, st.floats(0, 10), st.floats(0, 5))
def test_a_batch_is_done_before_every_deadline_in_it(
    waiting: list[Ticket], now_s: float, ahead_s: float
) -> None:
    cut = queue(*waiting).cut(now_s, BUDGET, start_s=now_s + ahead_s)
    done_s = now_s + ahead_s + BUDGET.cost.batch_ms(cut.work) / 1000
    if len(cut.tickets) > 1:
        assert all(one.deadline_s is None or done_s <= one.deadline_s + 1e-9 for one in cut.tickets)


@given(tickets, st.floats(0, 10), st.integers(0, 150))
def test_no_batch_exceeds_the_budget_but_one_of_one_or_a_pair_larger_than_what_is_known(
    waiting: list[Ticket], now_s: float, known: int
) -> None:
    budget = dataclasses.replace(BUDGET, max_ms=6.0, known_tokens=known)
    pending = queue(*waiting)
    while len(pending):
        cut = pending.cut(now_s, budget)
        if len(cut.tickets) > 1 and not budget.allows(cut.work):
            assert len(cut.tickets) == 2
            assert known < cut.work.tokens <= budget.max_tokens
            done_s = now_s + budget.cost.batch_ms(cut.work) / 1000
            assert all(one.deadline_s is None or done_s <= one.deadline_s + 1e-9 for one in cut.tickets)


def test_a_pair_whose_cost_is_a_guess_is_tried_and_one_that_is_known_to_be_too_long_is_not() -> None:
    waiting = [ticket(number, 35) for number in range(4)]
    for known, cut in [(35, [0, 1]), (70, [0])]:
        budget = dataclasses.replace(BUDGET, max_ms=6.0, known_tokens=known)
        assert ids(queue(*waiting).cut(0.0, budget).tickets) == cut


@given(tickets, st.floats(0.1, 1.0), st.integers(1, 120))
def test_no_ticket_starves_behind_any_stream(waiting: list[Ticket], step_s: float, tokens: int) -> None:
    """Whatever else comes, a ticket that is over its patience is the next to go, one by one."""
    patient = [dataclasses.replace(one, deadline_s=None) for one in waiting]
    pending = queue(*patient)
    left = set(range(len(patient)))
    # everyone has arrived by 10 s and has aged to the top class 2 * AGEING_S later
    start_s = 10.0 + max(PATIENCE_S, 2 * AGEING_S)
    num_cuts = 0
    while left:
        now_s = start_s + num_cuts * step_s
        pending.add(
            ticket(
                1000 + num_cuts, tokens, arrival_s=now_s, priority="interactive", deadline_s=now_s + step_s
            )
        )
        left -= set(ids(pending.cut(now_s, BUDGET).tickets))
        num_cuts += 1
        assert num_cuts <= len(patient)


@given(tickets)
def test_the_queue_knows_what_a_newcomer_waits_for(waiting: list[Ticket]) -> None:
    pending = queue(*waiting)
    for rank, priority in enumerate(PRIORITIES):
        ahead = [one.work for one in waiting if PRIORITIES.index(one.priority) <= rank]
        assert pending.work_ahead_of(priority) == sum(ahead, Work())


def test_a_newcomer_with_a_deadline_does_not_queue_behind_those_who_have_time() -> None:
    pending = queue(
        ticket(0, 10, deadline_s=1.0),
        ticket(1, 20, deadline_s=5.0),
        ticket(2, 30),
        ticket(3, 40, priority="interactive"),
        ticket(4, 50, priority="batch", deadline_s=0.5),
    )
    assert pending.work_ahead_of("normal", 2.0).tokens == 40 + 10
    assert pending.work_ahead_of("normal").tokens == 40 + 10 + 20 + 30
    assert pending.work_ahead_of("interactive", 2.0).tokens == 0


def test_a_batch_does_not_grow_past_a_deadline_in_it() -> None:
    # 40 tokens take 5 ms; with 10 more it would be too late for the first
    pending = queue(ticket(0, 40, deadline_s=0.0055), ticket(1, 10), ticket(2, 5))
    assert ids(pending.cut(0.0, BUDGET).tickets) == [0, 2]
    assert ids(pending.cut(0.006, BUDGET).tickets) == [1]


def test_what_cannot_be_answered_in_time_is_dropped_before_it_costs_anything() -> None:
    pending = queue(ticket(0, 40, deadline_s=0.004), ticket(1, 10))
    cut = pending.cut(0.0, BUDGET)
    assert (ids(cut.tickets), ids(cut.expired)) == ([1], [0])
    # free only later: now the second cannot be in time either
    pending = queue(ticket(0, 10, deadline_s=0.03), ticket(1, 10, deadline_s=0.05))
    cut = pending.cut(0.0, BUDGET, start_s=0.04)
    assert (ids(cut.tickets), ids(cut.expired)) == ([1], [0])


def test_where_much_waits_no_batch_is_made_small_for_the_sake_of_one_deadline() -> None:
    # 8 ms is efficient here; the first would have to be done in 4
    urgent, others = ticket(0, 10, deadline_s=0.004), [ticket(number, 20) for number in range(1, 8)]
    cut = queue(urgent, *others).cut(0.0, BUDGET)
    assert (ids(cut.tickets), ids(cut.expired)) == ([1, 2, 3, 4], [0])
    # where little waits there is time for a small one
    cut = queue(urgent, *others[:2]).cut(0.0, BUDGET)
    assert (ids(cut.tickets), ids(cut.expired)) == ([0, 1], [])


def test_when_nobody_can_be_in_time_the_most_urgent_is_tried() -> None:
    pending = queue(
        ticket(0, 40, deadline_s=0.003), ticket(1, 40, deadline_s=0.002), ticket(2, 9, deadline_s=-1.0)
    )
    cut = pending.cut(0.0, BUDGET)
    assert (ids(cut.tickets), ids(cut.expired)) == ([1], [2])
    assert len(pending) == 1


def test_a_deadline_far_off_does_not_let_everybody_else_go_first() -> None:
    pending = queue(ticket(0, 80, deadline_s=3600.0))
    for step in range(1, 1000):
        now_s = 0.1 * step
        pending.add(ticket(step, 80, arrival_s=now_s))
        if 0 in ids(pending.cut(now_s, BUDGET).tickets):
            assert now_s < 2 * PATIENCE_S
            return
    pytest.fail("the ticket with a far deadline was never cut")


def test_the_one_that_has_waited_longest_and_the_most_urgent_are_known() -> None:
    pending = queue(ticket(0), ticket(1, deadline_s=1.0), ticket(2, priority="batch"))
    first = pending.first()
    assert first is not None
    assert first.id == 0
    assert [one.id for one in pending.most_urgent()] == [1, 2]
    pending.discard(0)
    pending.discard(1)
    assert [one.id for one in pending.most_urgent()] == [2]
    assert Pending().first() is None


def test_a_large_ticket_does_not_hold_up_small_ones() -> None:
    pending = queue(ticket(0, 50), ticket(1, 60), ticket(2, 20), ticket(3, 10))
    assert ids(pending.cut(0.0, BUDGET).tickets) == [0, 2, 3]
    assert ids(pending.cut(0.0, BUDGET).tickets) == [1]


def test_a_ticket_over_the_budget_goes_alone() -> None:
    pending = queue(ticket(0, 500), ticket(1, 10))
    assert ids(pending.cut(0.0, BUDGET).tickets) == [0]
    assert ids(pending.cut(0.0, BUDGET).tickets) == [1]


def test_an_old_ticket_moves_up_a_class_at_a_time() -> None:
    old = ticket(0, 80, priority="batch")
    for waited_s, others, first in [
        (0.5 * AGEING_S, "normal", 1),
        (1.5 * AGEING_S, "normal", 0),
        (1.5 * AGEING_S, "interactive", 1),
        (2.5 * AGEING_S, "interactive", 0),
    ]:
        pending = queue(old, ticket(1, 80, arrival_s=waited_s, priority=others, deadline_s=PATIENCE_S + 1))
        assert ids(pending.cut(waited_s, BUDGET).tickets) == [first], (waited_s, others)


def test_nothing_starves_behind_a_stream_of_urgent_tickets() -> None:
    pending = queue(ticket(0, 80, priority="batch"))
    for step in range(1, 1000):
        now_s = 0.1 * step
        pending.add(ticket(step, 80, arrival_s=now_s, priority="interactive", deadline_s=now_s + 1.0))
        if 0 in ids(pending.cut(now_s, BUDGET).tickets):
            assert now_s < 2 * PATIENCE_S
            return
    pytest.fail("the old ticket was never cut")


def test_the_same_ticket_cannot_wait_twice() -> None:
    with pytest.raises(ValueError, match="ticket 4 is already waiting"):
        queue(ticket(4), ticket(4))


def test_discarding_what_does_not_wait_changes_nothing() -> None:
    pending = queue(ticket(1))
    assert not pending.discard(2)
    assert len(pending) == 1
