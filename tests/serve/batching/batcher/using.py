"""A batcher over the toy engine, an observer that remembers, and batches that are held."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from vlmoe_model.inputs import Job
from vlmoe_serve.batching.batcher import Batcher, BatcherOptions
from vlmoe_serve.batching.observer import BatchReport, Drop
from vlmoe_serve.batching.ticket import Outcome
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.engine.supervisor import SupervisorOptions

from ...waiting import PATIENCE_S

EXIT, HANG, RAISE, WAIT_ONCE, HOLD = range(1001, 1006)
QUICK = SupervisorOptions(max_pause_s=0.2)

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
