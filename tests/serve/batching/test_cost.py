import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_serve.batching.cost import CostModel, Estimator, Sample, fit, prior
from vlmoe_serve.batching.ticket import Work

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


def test_outliers_do_not_bend_the_fit() -> None:
    good = observed((1, 20), (8, 20), (1, 200), (8, 200), (2, 600), (32, 60)) * 3
    # a page fault, a paused process, and two answers read in one turn of the loop
    bad = [Sample(good[0].work, 5000.0), Sample(good[3].work, 900.0), Sample(good[5].work, 0.01)]
    model = fit(good + bad, prior(good))
    for sample in good:
        assert model.batch_ms(sample.work) == pytest.approx(sample.ms, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_bias_the_fit(seed: int) -> None:
    noise = random.Random(seed)
    shapes = [(count, length) for count in (1, 4, 16) for length in (20, 200)] * 8
    noisy = [Sample(one.work, one.ms * noise.uniform(0.85, 1.15)) for one in observed(*shapes)]
    model = fit(noisy, prior(noisy))
    for sample in observed(*shapes):
        assert model.batch_ms(sample.work) == pytest.approx(sample.ms, rel=0.15)


def test_draining_a_long_queue_pays_the_fixed_cost_once_a_batch() -> None:
    work = Work(10_000, 0)
    assert TRUTH.drain_ms(work, max_batch_ms=54.0) == pytest.approx(500 + 10 * 4)
    assert TRUTH.drain_ms(Work(100, 0), max_batch_ms=54.0) == pytest.approx(5 + 4)
    assert TRUTH.drain_ms(Work(), max_batch_ms=54.0) == 0


def test_the_estimator_does_not_follow_a_single_slow_batch() -> None:
    shapes = [(1, 20), (4, 20), (1, 100), (8, 60)]
    estimator = Estimator(observed(*shapes))
    for sample in observed(*shapes) * 3:
        estimator.observe(sample)
    for _ in range(3):
        estimator.observe(Sample(Work(80, 1600), 3000.0))
    assert estimator.model.batch_ms(Work(80, 1600)) == pytest.approx(TRUTH.batch_ms(Work(80, 1600)), rel=0.1)


def test_the_estimator_remembers_large_batches_through_a_long_day_of_small_ones() -> None:
    estimator = Estimator(observed((1, 20), (4, 20)))
    for sample in observed(*[(16, 200), (8, 400), (32, 60)] * 4):
        estimator.observe(sample)
    for sample in observed((1, 20), (1, 21), (1, 19)) * 200:
        estimator.observe(sample)
    work = Work(16 * 200, 16 * 200 * 200)
    assert estimator.model.batch_ms(work) == pytest.approx(TRUTH.batch_ms(work), rel=0.1)


def test_without_samples_there_is_a_model_all_the_same() -> None:
    assert 0 < Estimator().model.batch_ms(Work(64, 64 * 64)) < 1000


def test_the_estimator_follows_an_engine_that_became_slower() -> None:
    shapes = [(1, 20), (4, 20), (1, 100), (8, 60)]
    estimator = Estimator(observed(*shapes))
    slower = CostModel(3 * TRUTH.fixed_ms, 3 * TRUTH.token_ms, 3 * TRUTH.attention_ms)
    for sample in observed(*shapes, truth=slower) * 20:
        estimator.observe(sample)
    work = Work(200, 4000)
    assert estimator.model.batch_ms(work) == pytest.approx(slower.batch_ms(work), rel=0.15)


def test_a_size_is_known_once_larger_batches_were_seen_twice() -> None:
    estimator = Estimator(observed((1, 20), (1, 200)))
    assert estimator.known_tokens == 20
    estimator.observe(*observed((2, 200)))
    assert estimator.known_tokens == 200
    for sample in observed(*[(1, 20)] * 100):
        estimator.observe(sample)
    assert estimator.known_tokens == 200, "it is not forgotten"


@pytest.mark.parametrize("seed", range(3))
def test_a_long_day_of_slow_and_fast_hours_does_not_wear_the_fixed_part_away(seed: int) -> None:
    noise = random.Random(seed)
    estimator = Estimator(observed((1, 20), (16, 20), (1, 200), (4, 200)))
    for number in range(2200):
        shape = noise.choice([(1, 200), (3, 200), (2, 50)])
        (sample,) = observed(shape)
        slower = 3.0 if number // 200 % 2 else 1.0
        estimator.observe(Sample(sample.work, slower * sample.ms * noise.lognormvariate(0.0, 0.1)))
    assert estimator.model.fixed_ms == pytest.approx(TRUTH.fixed_ms, rel=0.3)
