import math

from hypothesis import given
from hypothesis import strategies as st

from vlmoe_serve.batching.ticket import Work
from vlmoe_serve.batching.work_by_due import STEP_S, WorkByDue

dues = st.lists(st.tuples(st.floats(-5, 100), st.builds(Work, st.integers(0, 500), st.integers(0, 10**6))))


@given(dues, st.floats(-10, 110))
def test_it_sums_what_is_due_before_to_within_a_step(added: list[tuple[float, Work]], asked_s: float) -> None:
    line = WorkByDue()
    for due_s, work in added:
        line.add(due_s, work)
    at_least = sum(work.tokens for due_s, work in added if due_s <= asked_s)
    at_most = sum(work.tokens for due_s, work in added if due_s <= asked_s + STEP_S)
    assert at_least <= line.before(asked_s).tokens <= at_most
    assert line.before(math.inf) == line.total == sum((work for _, work in added), Work())


@given(dues, st.randoms())
def test_what_is_taken_out_again_leaves_nothing(added: list[tuple[float, Work]], random) -> None:
    line = WorkByDue()
    for due_s, work in added:
        line.add(due_s, work)
    random.shuffle(added)
    for due_s, work in added:
        line.subtract(due_s, work)
    assert line.total == line.before(1000.0) == Work()
