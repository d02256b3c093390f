"""Who leaves the queue without an answer: cancelled, too late, refused."""

import asyncio
import time
from typing import Any

import pytest

from vlmoe_serve.batching.batcher import Batcher, BatcherOptions
from vlmoe_serve.batching.ticket import Outcome
from vlmoe_serve.errors import DeadlineExceeded, Overloaded

from .using import EXIT, HOLD, Answers, Ear, Make, occupy, until, values, with_batcher


def test_a_cancelled_request_costs_nothing(toy: Any, job: Make, answers: Answers) -> None:
    ear = Ear()

    async def use(batcher: Batcher) -> None:
        held = await occupy(batcher, job(HOLD))
        leaving = [asyncio.create_task(batcher.submit([job(EXIT)])) for _ in range(3)]
        staying = asyncio.create_task(batcher.submit([job(7)]))
        await until(lambda: batcher.num_waiting == 4)
        for task in leaving:
            task.cancel()
        await until(lambda: batcher.num_waiting == 1)
        toy.release()
        assert values(await staying) == answers([job(7)])
        await asyncio.gather(*held)
        assert batcher.num_restarts == 0

    with_batcher(toy, use, ear=ear)
    assert ear.drops == ["cancelled"] * 3


def test_a_deadline_ends_the_wait_in_the_queue_and_in_the_engine(toy: Any, job: Make) -> None:
    ear = Ear()

    async def use(batcher: Batcher) -> None:
        soon_s = time.monotonic() + 0.3
        running, held = await occupy(batcher, job(HOLD), deadline_s=soon_s)
        waiting = asyncio.create_task(batcher.submit([job(EXIT)] * 3, deadline_s=soon_s))
        for task in (running, waiting):
            with pytest.raises(DeadlineExceeded):
                await task
        with pytest.raises(DeadlineExceeded):
            await batcher.submit([job(5)], deadline_s=soon_s)
        assert not held.done()
        toy.release()
        await held
        assert batcher.num_restarts == 0

    with_batcher(toy, use, ear=ear)
    assert set(ear.drops) == {"expired"}


def test_a_wait_over_the_limit_is_refused_with_a_time_to_retry(toy: Any, job: Make) -> None:
    ear = Ear()

    async def use(batcher: Batcher) -> None:
        batcher.check_admission()
        held: list[asyncio.Task[Outcome]] = []
        # One runs; one more is taken and prepared as soon as the first is overdue.
        while len(held) < 2:
            task = asyncio.create_task(batcher.submit([job(HOLD)]))
            await asyncio.sleep(0.01)
            if task.done():
                assert isinstance(task.exception(), Overloaded)
            else:
                held.append(task)
        with pytest.raises(Overloaded) as refusal:
            await batcher.submit([job(6)])
        assert refusal.value.retry_after_s > 0
        with pytest.raises(Overloaded):
            batcher.check_admission()
        toy.release()
        await asyncio.gather(*held)
        await batcher.submit([job(5)])

    with_batcher(toy, use, BatcherOptions(max_queue_ms=1e-9), ear=ear)
    assert "overloaded" in ear.drops


def test_whoever_cannot_be_served_in_time_is_told_at_once(toy: Any, job: Make) -> None:
    async def use(batcher: Batcher) -> None:
        held = await occupy(batcher, job(HOLD))
        crowd = [
            asyncio.create_task(batcher.submit([job(5)] * 5000, priority="interactive")) for _ in range(4)
        ]
        await until(lambda: batcher.num_waiting > 0)
        with pytest.raises(Overloaded, match="predicted wait"):
            await batcher.submit([job(6)], deadline_s=time.monotonic() + batcher.wait_ms() / 4000)
        toy.release()
        await asyncio.gather(*held, *crowd)

    with_batcher(toy, use, BatcherOptions(max_queue_ms=1e9, max_batch_ms=1e9, max_batch_tokens=90_000))


def test_whoever_has_a_deadline_does_not_queue_behind_those_who_have_time(toy: Any, job: Make) -> None:
    async def use(batcher: Batcher) -> None:
        held = await occupy(batcher, job(HOLD))
        crowd = [asyncio.create_task(batcher.submit([job(5)] * 5000)) for _ in range(4)]
        await until(lambda: batcher.num_waiting > 0)
        soon_s = time.monotonic() + 5
        assert batcher.wait_ms("normal", soon_s) < batcher.wait_ms("normal") / 2
        toy.release()
        await asyncio.gather(*held, *crowd)

    with_batcher(toy, use, BatcherOptions(max_queue_ms=1e9, max_batch_ms=1e9, max_batch_tokens=90_000))
