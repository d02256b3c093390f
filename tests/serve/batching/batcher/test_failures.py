"""What an engine that dies, hangs or raises costs."""

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from vlmoe_serve.batching.batcher import Batcher
from vlmoe_serve.batching.ticket import Outcome
from vlmoe_serve.engine.supervisor import SupervisorOptions
from vlmoe_serve.errors import EngineUnavailable, RequestFailed

from .using import EXIT, HANG, RAISE, WAIT_ONCE, Answers, Ear, Make, until, values, with_batcher


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
