"""The batching that people write by hand around a model: what has come while the last batch ran is the next batch."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from peers.apps.answering import MAX_BATCH
from vlmoe_model.inputs import Job

Run = Callable[[Sequence[Job]], Awaitable[list[dict[str, Any]]]]


class Batches:
    """A queue and the one task that empties it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: asyncio.Queue[tuple[Job, asyncio.Future[dict[str, Any]]]] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def answer(self, job: Job) -> dict[str, Any]:
        """Wait for this job's answer."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((job, future))
        return await future

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                answers = await self._run([job for job, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
