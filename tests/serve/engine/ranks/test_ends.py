"""How a group ends: by a death, a hang, a bad start."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from vlmoe_serve.engine import ENGINES
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.failures import EngineStartError
from vlmoe_serve.engine.supervisor import Supervisor, SupervisorOptions

from ...waiting import is_gone, wait_until
from ..tiny import jobs
from .groups import children_of, placed, with_ranks


def test_the_death_of_an_idle_rank_restarts_the_group(checkpoint: Path) -> None:
    work = jobs(6)

    async def use(supervisor: Supervisor) -> None:
        before = (await supervisor.run(work)).outputs
        (rank,) = children_of(supervisor.pid)
        os.kill(rank, signal.SIGKILL)
        while not supervisor.num_restarts:
            await asyncio.sleep(0.01)
        assert (await supervisor.run(work)).outputs == before
        assert children_of(supervisor.pid) != [rank]

    with_ranks(checkpoint, 2, use)


def test_a_rank_that_hangs_while_idle_is_found(checkpoint: Path) -> None:
    work = jobs(6)
    restarts: list[str] = []

    async def main() -> None:
        options = EngineOptions(checkpoint, device="cpu", dtype="fp32", threads=1, ranks=2)
        watchful = SupervisorOptions(max_down_s=200, hang_s=5, ping_s=0.1)
        supervisor = Supervisor(ENGINES["torch"], options, watchful, restarts.append)
        async with asyncio.timeout(240):
            await supervisor.start()
            try:
                before = (await supervisor.run(work)).outputs
                (rank,) = children_of(supervisor.pid)
                os.kill(rank, signal.SIGSTOP)
                while not restarts:
                    await asyncio.sleep(0.01)
                assert restarts == ["gave no answer for 5 s and was killed"]
                assert (await supervisor.run(work)).outputs == before
                assert is_gone(rank)
            finally:
                await supervisor.stop()

    asyncio.run(main())


def test_no_rank_outlives_rank_0(checkpoint: Path) -> None:
    async def use(supervisor: Supervisor) -> None:
        ranks = children_of(supervisor.pid)
        assert len(ranks) == 1
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: all(map(is_gone, ranks)), "a rank outlived rank 0")

    with_ranks(checkpoint, 2, use)


def test_a_bad_placement_ends_all_ranks_with_one_line(checkpoint: Path) -> None:
    options = EngineOptions(checkpoint, device="cpu", dtype="fp32", ranks=2, placement=placed(3))
    with pytest.raises(EngineStartError, match="experts are placed on 3 ranks, there are 2") as error:
        asyncio.run(Supervisor(ENGINES["torch"], options).start())
    assert "\n" not in str(error.value)
