"""Everybody gets the whole answer to what was asked, and in order."""

import asyncio
import time
from typing import Any

import pytest

from vlmoe_serve.batching.batcher import Batcher, BatcherOptions

from .using import HOLD, Answers, Ear, Make, occupy, until, values, with_batcher


def test_everyone_gets_their_own_answer(toy: Any, job: Make, answers: Answers) -> None:
    ear = Ear()
    requests = [
        [job(number + part, size=4 if part else None) for part in range(number % 4 + 1)]
        for number in range(200)
    ]

    async def use(batcher: Batcher) -> None:
        assert batcher.ready
        outcomes = await asyncio.gather(*(batcher.submit(jobs) for jobs in requests))
        assert [values(outcome) for outcome in outcomes] == [answers(jobs) for jobs in requests]
        assert all(outcome.queue_ms >= 0 and outcome.forward_ms > 0 for outcome in outcomes)

    with_batcher(toy, use, ear=ear)
    assert ear.drops == []
    assert sum(report.num_tickets for report in ear.batches) == 200
    assert sum(report.num_jobs for report in ear.batches) == sum(map(len, requests))
    assert len(ear.batches) < 200, "what waits together runs together"


def test_a_request_larger_than_a_batch_is_answered_whole_and_in_order(
    toy: Any, job: Make, answers: Answers
) -> None:
    jobs = [job(number) for number in range(40)]
    ear = Ear()

    async def use(batcher: Batcher) -> None:
        assert values(await batcher.submit(jobs)) == answers(jobs)

    # A toy job has 9 tokens: 4 patches, their first token, and 4 of text.
    with_batcher(toy, use, BatcherOptions(max_batch_tokens=30), ear=ear)
    assert all(report.work.tokens <= 30 for report in ear.batches)
    assert len(ear.batches) == 14


def test_the_urgent_go_first(toy: Any, job: Make) -> None:
    order: list[str] = []

    async def use(batcher: Batcher) -> None:
        async def ask(name: str, **options: Any) -> None:
            await batcher.submit([job(5)], **options)
            order.append(name)

        held = await occupy(batcher, job(HOLD))
        now_s = time.monotonic()
        waiting = [
            ask("background", priority="batch"),
            ask("normal"),
            ask("normal, due", deadline_s=now_s + 9),
            ask("normal, due sooner", deadline_s=now_s + 8),
            ask("interactive", priority="interactive"),
        ]
        tasks = [asyncio.create_task(one) for one in waiting]
        await until(lambda: batcher.num_waiting == 5)
        toy.release()
        await asyncio.gather(*held, *tasks)

    with_batcher(toy, use, BatcherOptions(max_batch_tokens=1, max_queue_ms=1e9))
    assert order == ["interactive", "normal, due sooner", "normal, due", "normal", "background"]


def test_a_request_without_jobs_is_the_callers_bug(toy: Any) -> None:
    async def use(batcher: Batcher) -> None:
        with pytest.raises(ValueError, match="at least one job"):
            await batcher.submit([])

    with_batcher(toy, use)


@pytest.mark.parametrize("name", ["max_batch_ms", "max_batch_tokens", "max_queue_ms"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        BatcherOptions(**{name: 0})
