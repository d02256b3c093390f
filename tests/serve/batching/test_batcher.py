import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from vlmoe_model.inputs import Job
from vlmoe_serve.batching.batcher import Batcher, BatcherOptions
from vlmoe_serve.batching.observer import BatchReport, Drop
from vlmoe_serve.batching.ticket import Outcome
from vlmoe_serve.engine.failures import EngineStartError
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.engine.supervisor import SupervisorOptions
from vlmoe_serve.errors import DeadlineExceeded, EngineUnavailable, Overloaded, RequestFailed, ShuttingDown

EXIT, HANG, RAISE, WAIT_ONCE, HOLD = range(1001, 1006)
QUICK = SupervisorOptions(max_pause_s=0.2)
# Far more than anything here needs; a test that waits this long has failed.
PATIENCE_S = 15.0

Make = Callable[..., Job]
Answers = Callable[[Sequence[Job]], list[list[float]]]


class Ear:
    """Remembers everything it is told."""

    def __init__(self) -> None:
        self.batches: list[BatchReport] = []
        self.drops: list[Drop] = []
        self.restarts: list[str] = []
        self.reports: list[EngineReport] = []

    def on_batch(self, report: BatchReport) -> None:
        self.batches.append(report)

    def on_drop(self, why: Drop) -> None:
        self.drops.append(why)

    def on_restart(self, how: str) -> None:
        self.restarts.append(how)

    def on_report(self, report: EngineReport) -> None:
        self.reports.append(report)


def with_batcher(
    toy: Any,
    use: Callable[[Batcher], Coroutine[Any, Any, None]],
    options: BatcherOptions | None = None,
    supervisor: SupervisorOptions = QUICK,
    ear: Ear | None = None,
) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            batcher = Batcher(toy.options, options, supervisor=supervisor, observer=ear, factory=toy.factory)
            await batcher.start()
            try:
                await use(batcher)
            finally:
                await batcher.stop()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def occupy(
    batcher: Batcher, job: Job, deadline_s: float | None = None
) -> tuple["asyncio.Task[Outcome]", "asyncio.Task[Outcome]"]:
    """Fill both places of the engine with held batches: whatever comes now waits in the queue.

    deadline_s: of the first one.
    """

    async def hold(deadline_s: float | None) -> "asyncio.Task[Outcome]":
        task = asyncio.create_task(batcher.submit([job], deadline_s=deadline_s))
        await asyncio.sleep(0)
        await until(lambda: batcher.num_waiting == 0)
        return task

    return await hold(deadline_s), await hold(None)


def values(outcome: Outcome) -> list[list[float]]:
    return [output.tolist() for output in outcome.outputs]


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


def test_kills_in_the_middle_of_traffic_cost_nobody_an_answer(toy: Any, job: Make, answers: Answers) -> None:
    async def use(batcher: Batcher) -> None:
        async def ask(number: int) -> list[list[float]]:
            return values(await batcher.submit([job(number), job(number)]))

        tasks = [asyncio.create_task(ask(number)) for number in range(20)]
        waiting = asyncio.create_task(ask(WAIT_ONCE))
        mark = toy.directory / "waiting"
        await until(mark.exists)
        os.kill(int(mark.read_text()), signal.SIGKILL)
        await until(lambda: not batcher.alive)
        for start in (20, 40):
            tasks += [asyncio.create_task(ask(number)) for number in range(start, start + 20)]
            await until(lambda: batcher.alive)
            assert batcher.engine_pid is not None
            os.kill(batcher.engine_pid, signal.SIGKILL)
            await until(lambda: not batcher.alive)
        assert await waiting == answers([job(WAIT_ONCE)] * 2)
        assert await asyncio.gather(*tasks) == [answers([job(n)] * 2) for n in range(60)]
        await until(lambda: batcher.num_restarts == 3)

    with_batcher(toy, use)


@pytest.mark.parametrize("trouble", [EXIT, RAISE])
def test_a_poisonous_request_fails_alone(toy: Any, job: Make, answers: Answers, trouble: int) -> None:
    ear = Ear()

    async def use(batcher: Batcher) -> None:
        jobs = [job(trouble if number == 3 else number) for number in range(8)]
        results = await asyncio.gather(*(batcher.submit([one]) for one in jobs), return_exceptions=True)
        assert isinstance(results.pop(3), RequestFailed)
        del jobs[3]
        good = [result for result in results if isinstance(result, Outcome)]
        assert [values(result)[0] for result in good] == answers(jobs)
        assert values(await batcher.submit([job(9)])) == answers([job(9)])

    with_batcher(toy, use, ear=ear)
    assert ear.drops == ["failed"]
    assert len(ear.restarts) == (4 if trouble == EXIT else 0)


def test_a_hanging_request_fails_alone(toy: Any, job: Make, answers: Answers) -> None:
    async def use(batcher: Batcher) -> None:
        with pytest.raises(RequestFailed):
            await batcher.submit([job(HANG)])
        assert values(await batcher.submit([job(9)])) == answers([job(9)])

    with_batcher(toy, use, supervisor=SupervisorOptions(hang_s=1.0, max_pause_s=0.2))


def test_a_deadline_while_the_engine_is_down_is_unavailable(toy: Any, job: Make) -> None:
    async def use(batcher: Batcher) -> None:
        (toy.directory / "exit-while-loading").touch()
        assert batcher.engine_pid is not None
        os.kill(batcher.engine_pid, signal.SIGKILL)
        await until(lambda: not batcher.alive)
        assert not batcher.ready
        with pytest.raises(EngineUnavailable):
            await batcher.submit([job(5)], deadline_s=time.monotonic() + 0.2)
        with pytest.raises(EngineUnavailable, match=r"down for 0\.4 s"):
            await batcher.submit([job(5)])

    with_batcher(toy, use, supervisor=SupervisorOptions(max_down_s=0.4, max_pause_s=0.2))


def test_draining_answers_what_is_there_and_takes_nothing_new(toy: Any, job: Make, answers: Answers) -> None:
    async def use(batcher: Batcher) -> None:
        held = await occupy(batcher, job(HOLD))
        waiting = asyncio.create_task(batcher.submit([job(5)]))
        await until(lambda: batcher.num_waiting == 1)
        assert not await batcher.drain(0.05)
        assert not batcher.ready
        with pytest.raises(ShuttingDown):
            await batcher.submit([job(6)])
        toy.release()
        assert await batcher.drain(PATIENCE_S)
        assert values(await waiting) == answers([job(5)])
        await asyncio.gather(*held)

    with_batcher(toy, use)


def test_stopping_refuses_whoever_still_waits(toy: Any, job: Make) -> None:
    async def use(batcher: Batcher) -> None:
        held = await occupy(batcher, job(HOLD))
        waiting = asyncio.create_task(batcher.submit([job(5)]))
        await until(lambda: batcher.num_waiting == 1)
        await batcher.stop()
        results = await asyncio.gather(*held, waiting, return_exceptions=True)
        assert all(isinstance(result, ShuttingDown) for result in results)
        assert batcher.engine_pid is None

    with_batcher(toy, use)


def test_before_its_engine_has_started_nothing_is_taken(toy: Any, job: Make) -> None:
    async def main() -> None:
        batcher = Batcher(toy.options, factory=toy.factory)
        assert not batcher.ready
        with pytest.raises(EngineUnavailable, match="starting"):
            await batcher.submit([job(5)])
        (toy.directory / "bug-while-loading").touch()
        with pytest.raises(EngineStartError, match="no such thing"):
            await batcher.start()
        await batcher.stop()

    asyncio.run(main())


def test_a_request_without_jobs_is_the_callers_bug(toy: Any) -> None:
    async def use(batcher: Batcher) -> None:
        with pytest.raises(ValueError, match="at least one job"):
            await batcher.submit([])

    with_batcher(toy, use)


@pytest.mark.parametrize("name", ["max_batch_ms", "max_batch_tokens", "max_queue_ms"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        BatcherOptions(**{name: 0})
