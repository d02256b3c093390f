"""Before the engine has started, while the batcher drains, and when it stops."""

import asyncio
from typing import Any

import pytest

from vlmoe_serve.batching.batcher import Batcher
from vlmoe_serve.engine.failures import EngineStartError
from vlmoe_serve.errors import EngineUnavailable, ShuttingDown

from .using import HOLD, PATIENCE_S, Answers, Make, occupy, until, values, with_batcher


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
