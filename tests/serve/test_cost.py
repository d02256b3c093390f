import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_serve.cost import CostModel, Estimator, Sample, fit, prior
from vlmoe_serve.ticket import Work

TRUTH = CostModel(4.0, 0.05, 0.0001)


def observed(*shapes: tuple[int, int], truth: CostModel = TRUTH) -> list[Sample]:
    works = [Work(count * length, count * length * length) for count, length in shapes]
    return [Sample(work, truth.batch_ms(work)) for work in works]


def test_fit_finds_the_costs_it_was_shown() -> None:
    samples = observed((1, 20), (8, 20), (1, 200), (8, 200), (2, 600), (32, 60)) * 4
    model = fit(samples, prior(samples))
    for count, length in [(1, 50), (16, 100), (4, 400)]:
        work = Work(count * length, count * length * length)
        assert model.batch_ms(work) == pytest.approx(TRUTH.batch_ms(work), rel=0.1)


@given(
    st.lists(
        st.builds(
            Sample,
            st.builds(Work, st.integers(1, 10**5), st.integers(1, 10**9)),
            st.floats(0.001, 1e5),
        ),
        max_size=20,
    )
)
def test_fit_never_makes_work_free(samples: list[Sample]) -> None:
    model = fit(samples, prior(samples))
    assert model.fixed_ms > 0
    assert model.token_ms > 0
    assert model.attention_ms > 0


def test_draining_a_long_queue_pays_the_fixed_cost_once_a_batch() -> None:
    work = Work(10_000, 0)
    assert TRUTH.drain_ms(work, max_batch_ms=54.0) == pytest.approx(500 + 10 * 4)
    assert TRUTH.drain_ms(Work(100, 0), max_batch_ms=54.0) == pytest.approx(5 + 4)
    assert TRUTH.drain_ms(Work(), max_batch_ms=54.0) == 0


def test_the_estimator_follows_an_engine_that_became_slower() -> None:
    shapes = [(1, 20), (4, 20), (1, 100), (8, 60)]
    estimator = Estimator(observed(*shapes))
    slower = CostModel(3 * TRUTH.fixed_ms, 3 * TRUTH.token_ms, 3 * TRUTH.attention_ms)
    for sample in observed(*shapes, truth=slower) * 20:
        estimator.observe(sample)
    work = Work(200, 4000)
    assert estimator.model.batch_ms(work) == pytest.approx(slower.batch_ms(work), rel=0.15)
